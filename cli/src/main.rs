//! `aios`: the operator's command line, on the machine itself and from afar.
//!
//! Standard output is for results (with `--json` exactly one document), standard error for problems:
//! what, where, what to do. The exit code says which kind of problem; see [`failure::Exit`].

mod cli;
mod commands;
mod connect;
mod enrol;
mod enrol_port;
mod failure;
mod output;
mod pid1;
mod profile;
mod shell;
mod texts;

use std::{ffi::OsStr, process::ExitCode};

use clap::Parser as _;

use crate::{
    cli::{Cli, Command},
    failure::{Exit, Failure},
};

fn main() -> ExitCode {
    let arguments = globals_first(login_shell(std::env::args_os().collect()));
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            if error.use_stderr() && std::env::args_os().any(|argument| argument == "--json") {
                let message = error.kind().to_string();
                output::json(&output::error_document(&Failure::usage(message)));
            }
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let json = cli.global.json;
    match start(cli) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            output::problem(&failure, json);
            failure.exit.into()
        }
    }
}

fn start(cli: Cli) -> Result<Exit, Failure> {
    let Cli { global, command } = cli;
    match command {
        Command::Completions { shell } => commands::local::completions(shell),
        Command::SshKeys => commands::local::ssh_keys(&global),
        Command::ServeEnrolmentPort { device } => enrol_port::serve(&global, device),
        Command::Profile(command) => commands::local::profiles(&global, &command),
        Command::Shell(arguments) => shell::run(&global, arguments),
        command => runtime()?.block_on(commands::run(&global, command)),
    }
}

/// One thread is enough to wait for answers, and starts fastest.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("cannot start: {error}")))
}

/// As a login shell this program is called `-aios`, or `aios -c COMMAND`; both mean `aios shell`.
fn login_shell(mut arguments: Vec<std::ffi::OsString>) -> Vec<std::ffi::OsString> {
    let login = arguments
        .first()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(b"-"));
    let command = arguments.get(1).is_some_and(|first| first == "-c");
    if login || command {
        arguments.insert(1, "shell".into());
    }
    arguments
}

/// `aios goal --json list` means `aios --json goal list`: behind `goal` an option would make `list`
/// the text of a goal. Options that every command has can stand anywhere, so they are put first.
fn globals_first<T: AsRef<OsStr>>(arguments: Vec<T>) -> Vec<T> {
    let (mut globals, mut others) = (Vec::new(), Vec::new());
    let mut rest = arguments.into_iter();
    others.extend(rest.next());
    let mut text = false;
    while let Some(argument) = rest.next() {
        let name = argument.as_ref().as_encoded_bytes();
        text |= name == b"--";
        // What follows `-c` is its value, whatever it looks like.
        let command = name == b"-c";
        let valued = name == b"--profile";
        if !text && (name == b"--json" || valued || name.starts_with(b"--profile=")) {
            globals.push(argument);
            if valued {
                globals.extend(rest.next());
            }
        } else {
            others.push(argument);
            if command && !text {
                others.extend(rest.next());
            }
        }
    }
    let at = others.len().min(1);
    others.splice(at..at, globals);
    others
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::ShellArgs;

    #[test]
    fn a_login_shell_is_the_prompt() {
        let of = |words: &[&str]| login_shell(words.iter().map(Into::into).collect());
        assert_eq!(of(&["-aios"]), ["-aios", "shell"]);
        assert_eq!(
            of(&["aios", "-c", "status"]),
            ["aios", "shell", "-c", "status"]
        );
        assert_eq!(of(&["aios", "status"]), ["aios", "status"]);
    }

    #[test]
    fn an_option_for_all_never_makes_a_subcommand_a_goal() {
        let of = |line: &str| globals_first(line.split(' ').collect()).join(" ");
        assert_eq!(of("aios goal --json cancel x"), "aios --json goal cancel x");
        assert_eq!(
            of("aios goal --profile p list"),
            "aios --profile p goal list"
        );
        assert_eq!(of("aios goal a b --profile=p"), "aios --profile=p goal a b");
        assert_eq!(of("aios goal run -- a --json"), "aios goal run -- a --json");
        assert_eq!(of("aios shell -c --json"), "aios shell -c --json");
        assert_eq!(of("aios"), "aios");
        let parsed = Cli::try_parse_from(globals_first(vec!["aios", "goal", "--json", "list"]));
        let goal = parsed.unwrap();
        assert!(goal.global.json);
        assert!(matches!(
            goal.command,
            Command::Goal {
                command: Some(_),
                ..
            }
        ));
    }

    #[test]
    fn a_shell_argument_is_the_same_as_the_prompt() {
        let cli = Cli::try_parse_from(["aios", "shell", "-c", "goal list"]).unwrap();
        let Command::Shell(ShellArgs { command }) = cli.command else {
            panic!("not a shell");
        };
        assert_eq!(command.as_deref(), Some("goal list"));
    }
}
