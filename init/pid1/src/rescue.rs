//! The rescue console: what a machine shows that has too little to start. Whoever sits at it can
//! look, try again, end the machine or open a shell.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    time::Duration,
};

use aios_init_protocol::PowerAction;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags, open},
    io::Errno,
    process::{WaitOptions, wait},
};

use crate::{console::Console, machine::real_terminal};

/// What was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// Check the hardware again.
    Retry,
    /// End the machine.
    Power(PowerAction),
}

/// What a line means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Command {
    Status,
    Shell,
    Choose(Choice),
    Unknown,
}

fn command(line: &str) -> Command {
    match line.trim().to_ascii_lowercase().as_str() {
        "status" | "" => Command::Status,
        "retry" => Command::Choose(Choice::Retry),
        "poweroff" | "power-off" => Command::Choose(Choice::Power(PowerAction::PowerOff)),
        "reboot" => Command::Choose(Choice::Power(PowerAction::Reboot)),
        "shell" => Command::Shell,
        _ => Command::Unknown,
    }
}

/// Stays until something is chosen.
pub fn rescue(console: &mut Console, lacks: &[String]) -> Choice {
    let Ok(terminal) = open_terminal() else {
        // Nobody can be asked. A machine that restarts for ever helps nobody, so it is left off.
        console.print("No console can be opened; switching off in 30 s.\n");
        std::thread::sleep(Duration::from_secs(30));
        return Choice::Power(PowerAction::PowerOff);
    };
    show(console, lacks);
    loop {
        console.print("rescue> ");
        let Some(line) = read_line(&terminal) else {
            std::thread::sleep(Duration::from_secs(1));
            continue;
        };
        match command(&line) {
            Command::Status => show(console, lacks),
            Command::Choose(choice) => return choice,
            Command::Shell => {
                if let Err(error) = shell() {
                    console.print(&format!("The shell cannot be started: {error}\n"));
                }
            }
            Command::Unknown => console.print("Commands: status, retry, shell, reboot, poweroff\n"),
        }
    }
}

fn show(console: &mut Console, lacks: &[String]) {
    console.print("\naiOS RESCUE: this machine cannot run aiOS.\n\n");
    for lack in lacks {
        console.print(&format!("  - {lack}.\n"));
    }
    console.print(
        "\n  status    this text again\n  retry     check the hardware again and go on\n  \
         shell     a root shell\n  reboot    restart the machine\n  poweroff  switch it off\n\n",
    );
}

fn open_terminal() -> io::Result<OwnedFd> {
    let path = real_terminal("/dev/console");
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    Ok(open(path, flags, Mode::empty())?)
}

/// One line from the terminal; children that end meanwhile are reaped.
fn read_line(terminal: &OwnedFd) -> Option<String> {
    let mut line = Vec::new();
    loop {
        while matches!(wait(WaitOptions::NOHANG), Ok(Some(_))) {}
        let mut ready = [PollFd::new(terminal, PollFlags::IN)];
        let second = Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        };
        match poll(&mut ready, Some(&second)) {
            Ok(0) | Err(Errno::INTR) => continue,
            Ok(_) => {}
            Err(_) => return None,
        }
        let mut byte = [0];
        match rustix::io::read(terminal.as_fd(), &mut byte) {
            Ok(0) => return None,
            Ok(_) => match byte {
                [b'\n' | b'\r'] => return Some(String::from_utf8_lossy(&line).into_owned()),
                [byte] if line.len() < 128 => line.push(byte),
                _ => {}
            },
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => return None,
        }
    }
}

/// A shell on the console, until it ends.
fn shell() -> io::Result<()> {
    use std::{os::unix::process::CommandExt as _, process};
    let terminal = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(real_terminal("/dev/console"))?;
    let mut command = process::Command::new("/bin/sh");
    command
        .stdin(terminal.try_clone()?)
        .stdout(terminal.try_clone()?)
        .stderr(terminal)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    // SAFETY: between fork and exec only system calls are made.
    unsafe {
        command.pre_exec(|| {
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
            libc::setsid();
            libc::ioctl(0, libc::TIOCSCTTY, 1);
            Ok(())
        });
    }
    command.spawn()?.wait()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_understood_loosely_and_nothing_is_guessed() {
        assert_eq!(
            command(" Reboot "),
            Command::Choose(Choice::Power(PowerAction::Reboot))
        );
        assert_eq!(
            command("poweroff"),
            Command::Choose(Choice::Power(PowerAction::PowerOff))
        );
        assert_eq!(command("retry"), Command::Choose(Choice::Retry));
        assert_eq!(command(""), Command::Status);
        assert_eq!(command("rm -rf /"), Command::Unknown);
    }
}
