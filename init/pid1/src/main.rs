//! `aios-init`: PID 1 of aiOS, and the checker of its unit files.

use std::process::ExitCode;

use aios_init::{Command, USAGE, check, parse_options, run};

fn main() -> ExitCode {
    // The kernel passes parameters that it does not know to PID 1 as arguments, so a stray one must
    // not stop the machine: only outside of PID 1 is it an error.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_init = std::process::id() == 1;
    let command = match parse_options(&arguments, is_init) {
        Ok(command) => command,
        Err(message) => {
            eprintln!("aios-init: {message}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match command {
        Command::Help => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
        Command::Version => {
            println!("aios-init {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Command::Check { dir, root } => {
            let found = check(&dir, root.as_deref());
            for problem in &found.problems {
                println!("{problem}");
            }
            if found.problems.is_empty() {
                println!("{} units, nothing wrong", found.units);
                ExitCode::SUCCESS
            } else {
                println!("{} units, {} problems", found.units, found.problems.len());
                ExitCode::FAILURE
            }
        }
        Command::Run(_) if !is_init => {
            eprintln!("aios-init: this is PID 1 of aiOS and runs only as process 1\n\n{USAGE}");
            ExitCode::from(2)
        }
        Command::Run(options) => match run(options) {
            Ok(status) => ExitCode::from(status),
            Err(error) => {
                eprintln!("aios-init: {error}");
                ExitCode::FAILURE
            }
        },
    }
}
