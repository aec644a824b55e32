//! What PID 1 says: to the kernel's log, to a file of its own once there is one, and, until the
//! machine is ready or when something is wrong, to the console.
//!
//! Invariant: saying something never stops PID 1. A console that takes nothing (a serial line with
//! flow control and nobody there) loses lines after a tenth of a second.

use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    os::{fd::AsFd as _, unix::fs::OpenOptionsExt as _},
    path::Path,
};

use aios_init_core::{Level, Micros};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use crate::output::RotatingFile;

const PATIENCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// Where PID 1's words go.
#[derive(Debug, Default)]
pub struct Console {
    terminal: Option<File>,
    kernel_log: Option<File>,
    file: Option<RotatingFile>,
    /// Whether lines of no concern are kept off the terminal, which belongs to the operator by now.
    quiet: bool,
}

impl Console {
    /// The console of a real machine.
    pub fn of_machine() -> Self {
        let terminal = OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC)
            .open("/dev/console")
            .ok();
        let kernel_log = OpenOptions::new().write(true).open("/dev/kmsg").ok();
        Self {
            terminal,
            kernel_log,
            file: None,
            quiet: false,
        }
    }

    /// The standard error of a namespace's PID 1.
    pub fn of_container() -> Self {
        let terminal = std::io::stderr()
            .as_fd()
            .try_clone_to_owned()
            .ok()
            .map(File::from);
        Self {
            terminal,
            ..Self::default()
        }
    }

    /// Also writes to `init.log` in this directory.
    pub fn keep_file(&mut self, dir: &Path) {
        self.file = Some(RotatingFile::new(dir.join("init.log")));
    }

    /// From now on only problems go to the terminal.
    pub fn hush(&mut self) {
        self.quiet = true;
    }

    /// One line of the log.
    pub fn log(&mut self, level: Level, text: &str, now: Micros) {
        let line = format!("[{:>4}.{:03}] {text}\n", now / 1_000_000, now / 1000 % 1000);
        if let Some(log) = &mut self.kernel_log {
            // Debug priority keeps the kernel from printing it on the console a second time.
            let _ = log.write_all(format!("<7>aios-init: {text}\n").as_bytes());
        }
        if let Some(file) = &mut self.file {
            file.append(line.as_bytes());
        }
        if !self.quiet || level > Level::Info {
            self.print(&line);
        }
    }

    /// Text for the person at the console.
    pub fn print(&mut self, text: &str) {
        let Some(terminal) = &mut self.terminal else {
            return;
        };
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            match rustix::io::write(&*terminal, rest) {
                Ok(0) => return,
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let mut wait = [PollFd::new(&*terminal, PollFlags::OUT)];
                    if !matches!(poll(&mut wait, Some(&PATIENCE)), Ok(ready) if ready > 0) {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    }
}
