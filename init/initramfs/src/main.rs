//! The first program: finds the medium, lays the writable overlay over the two read-only layers of
//! the root, and hands over to `aios-init`.
//!
//! Invariants: it waits for the medium for a bounded time; whatever goes wrong is said on the
//! console with what to do, and then the operator can retry, restart or switch off, and a machine
//! that nobody watches restarts by itself; the medium is never written.

mod devices;
mod parameters;
mod root;
mod verify;

use std::{
    io::{self, BufRead as _, Write as _},
    thread,
    time::Duration,
};

use rustix::system::{RebootCommand, reboot};

/// How long a question on the console waits for an answer.
const ANSWER: Duration = Duration::from_secs(120);

fn main() {
    if rustix::process::getpid().as_raw_nonzero().get() != 1 {
        eprintln!("aios-initramfs runs as the first process of a machine, and as nothing else");
        std::process::exit(2);
    }
    loop {
        match root::bring_up() {
            // Only an error comes back: success replaces this process.
            Ok(never) => match never {},
            Err(error) => {
                say(&format!("aiOS cannot start: {error}"));
                say(error.advice());
            }
        }
        match ask() {
            Answer::Retry => {}
            Answer::Reboot => end(RebootCommand::Restart),
            Answer::PowerOff => end(RebootCommand::PowerOff),
        }
    }
}

fn say(text: &str) {
    // Nothing to be done if even the console is gone.
    let _ = writeln!(io::stderr(), "{text}");
}

enum Answer {
    Retry,
    Reboot,
    PowerOff,
}

fn ask() -> Answer {
    say("Type `retry`, `reboot` or `off`. Without an answer the machine restarts in two minutes.");
    let (sender, receiver) = std::sync::mpsc::channel();
    // A thread that outlives its question reads one line for the next one.
    thread::spawn(move || {
        let mut line = String::new();
        let _ = io::stdin().lock().read_line(&mut line);
        let _ = sender.send(line);
    });
    match receiver.recv_timeout(ANSWER).as_deref().map(str::trim) {
        Ok("off") => Answer::PowerOff,
        Ok("retry") => Answer::Retry,
        Ok(_) | Err(_) => Answer::Reboot,
    }
}

fn end(command: RebootCommand) {
    rustix::fs::sync();
    if let Err(error) = reboot(command) {
        say(&format!("the kernel refuses: {error}"));
    }
}
