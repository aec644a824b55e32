//! The operator's prompt, on the machine's console and over SSH. Each line is a command of `aios` or
//! a goal; nothing is ever given to a shell of the host. It goes on while daemons are down.

use std::{io, time::Duration};

use clap::Parser as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    cli::{Cli, Command, Global, GoalCommand, GoalRun, ShellArgs},
    commands::{self, machine},
    failure::{Exit, Failure},
    output,
};

/// Longest line that is read, in bytes.
const MAX_LINE_BYTES: usize = 16 << 10;
/// Longest wait for the status at the beginning.
const BANNER_LIMIT: Duration = Duration::from_secs(12);

const PROMPT: &str = "aios> ";

const HELP: &str = "\
Say what you want done, in your own words, or give a command:
  status                     how the machine is
  goal list, goal trace ID   goals, and everything about one
  approve                    what waits for you
  rollback ID                take something back
  audit list, events         what was done, what happens
  service list, logs UNIT    what runs, and what it says
  power off, power reboot
  help, exit                 `help COMMAND` or `COMMAND --help` for more";

/// What a line of input is.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    Nothing,
    Exit,
    Help,
    Command(Vec<String>),
    Goal(String),
}

/// `aios shell`
pub(crate) fn run(global: &Global, arguments: ShellArgs) -> Result<Exit, Failure> {
    let runtime = crate::runtime()?;
    if let Some(command) = arguments.command {
        return once(&runtime, global, &command);
    }
    // From here on Ctrl-C ends what runs or drops what was typed, and never the prompt itself.
    let mut interrupts = runtime
        .block_on(async { signal(SignalKind::interrupt()) })
        .map_err(|error| Failure::failed(format!("cannot listen for Ctrl-C: {error}")))?;
    runtime.block_on(banner(global));
    loop {
        output::prompt(PROMPT);
        let Some(line) = runtime.block_on(typed(&mut interrupts))? else {
            output::line("");
            return Ok(Exit::Ok);
        };
        let words = match understand(&line, &commands::names()) {
            Ok(Line::Nothing) => continue,
            Ok(Line::Exit) => return Ok(Exit::Ok),
            Ok(Line::Help) => {
                output::line(HELP);
                continue;
            }
            Ok(Line::Command(words)) => words,
            Ok(Line::Goal(text)) => {
                finish(&runtime, global, goal(text));
                continue;
            }
            Err(failure) => {
                output::problem(&failure, false);
                continue;
            }
        };
        match parse(global, &words) {
            Ok(Some((global, command))) => finish(&runtime, &global, command),
            Ok(None) => {}
            Err(failure) => output::problem(&failure, false),
        }
    }
}

/// A line as it is typed. The terminal drops what stood before Ctrl-C, so the prompt is shown anew.
async fn typed(interrupts: &mut Signal) -> Result<Option<String>, Failure> {
    let mut line = tokio::task::spawn_blocking(|| read_line(&mut io::stdin().lock()));
    loop {
        tokio::select! {
            read = &mut line => {
                return read.unwrap_or_else(|error| {
                    Err(Failure::failed(format!("cannot read the input: {error}")))
                });
            }
            _ = interrupts.recv() => {
                output::line("");
                output::prompt(PROMPT);
            }
        }
    }
}

/// One command, as `ssh HOST COMMAND` gives it. Its words are a command of `aios` and nothing else: a
/// goal has to be said with `goal`, so that a stray `scp` does not become one.
fn once(runtime: &tokio::runtime::Runtime, global: &Global, text: &str) -> Result<Exit, Failure> {
    let mut words = split(text)?;
    if words.first().is_some_and(|first| first == "aios") {
        words.remove(0);
    }
    let known = commands::names();
    let named = words
        .iter()
        .find(|word| !word.starts_with('-'))
        .is_some_and(|word| word == "help" || known.contains(word));
    if !named
        && !words
            .iter()
            .any(|word| word == "--help" || word == "--version")
    {
        return Err(Failure::usage(format!(
            "`{}` is no command of aiOS; there is no other shell on this machine",
            text.chars().take(80).collect::<String>()
        ))
        .hint("`help` shows the commands; a goal is said as: goal \"…\""));
    }
    match parse(global, &words)? {
        Some((global, command)) => runtime.block_on(commands::run(&global, command)),
        None => Ok(Exit::Ok),
    }
}

/// Reads the words as a command line. Help and usage errors are printed here.
fn parse(global: &Global, words: &[String]) -> Result<Option<(Global, Command)>, Failure> {
    let line = std::iter::once("aios".to_owned()).chain(words.iter().cloned());
    match Cli::try_parse_from(crate::globals_first(line.collect())) {
        Ok(cli) => {
            // Where the machine is was said when the prompt was started.
            let global = Global {
                json: cli.global.json || global.json,
                ..global.clone()
            };
            Ok(Some((global, cli.command)))
        }
        Err(error) if !error.use_stderr() => {
            output::line(error.to_string().trim_end());
            Ok(None)
        }
        Err(error) => Err(Failure::usage(
            error
                .to_string()
                .trim_start_matches("error: ")
                .trim_end()
                .to_owned(),
        )
        .hint("if you meant it as a goal, say: goal run …")),
    }
}

fn goal(text: String) -> Command {
    Command::Goal {
        command: Some(GoalCommand::Run(GoalRun {
            text: vec![text],
            no_wait: false,
            priority: None,
            deadline: None,
            timeout: None,
        })),
        run: GoalRun {
            text: Vec::new(),
            no_wait: false,
            priority: None,
            deadline: None,
            timeout: None,
        },
    }
}

fn finish(runtime: &tokio::runtime::Runtime, global: &Global, command: Command) {
    // To stop watching events ends nothing but the watching.
    let goes_on = matches!(command, Command::Goal { .. } | Command::Tool(_));
    let result = runtime.block_on(async {
        tokio::select! {
            result = commands::run(global, command) => result,
            _ = tokio::signal::ctrl_c() => {
                output::line("");
                if goes_on {
                    output::note("stopped waiting; what was asked for goes on (`goal list`)");
                }
                Ok(Exit::Ok)
            }
        }
    });
    if let Err(failure) = result {
        output::problem(&failure, global.json);
    }
}

async fn banner(global: &Global) {
    output::line("aiOS. Say what you want done, or `help`.");
    match tokio::time::timeout(BANNER_LIMIT, machine::fetch_status(global)).await {
        Ok(Ok(status)) => output::line(machine::status_text(&status)),
        Ok(Err(failure)) => output::problem(&failure, false),
        Err(_) => output::note("the machine does not say how it is; `status` asks again"),
    }
}

/// What a line means. A line that begins with a command's name is that command.
fn understand(line: &str, known: &[String]) -> Result<Line, Failure> {
    let line = line.trim();
    let line = line.strip_prefix("aios ").map_or(line, str::trim_start);
    let first = line.split_whitespace().next().unwrap_or_default();
    match first {
        "" => return Ok(Line::Nothing),
        "exit" | "quit" | "logout" => return Ok(Line::Exit),
        "help" if line == "help" => return Ok(Line::Help),
        _ => {}
    }
    if first == "help" || known.iter().any(|name| name == first) || first.starts_with('-') {
        return split(line).map(Line::Command);
    }
    if line == first {
        return Err(
            Failure::usage(format!("`{line}` is no command, and too little for a goal"))
                .hint("`help` shows the commands; a goal has a few words"),
        );
    }
    Ok(Line::Goal(line.to_owned()))
}

/// Words with quotes as a shell has them, and nothing else that a shell does.
fn split(line: &str) -> Result<Vec<String>, Failure> {
    shlex::split(line).ok_or_else(|| Failure::usage("a quotation mark is not closed"))
}

/// A line, or none at the end of the input. What is not text is passed over.
fn read_line(input: &mut impl io::BufRead) -> Result<Option<String>, Failure> {
    let fail = |error: io::Error| Failure::failed(format!("cannot read the input: {error}"));
    let mut bytes = Vec::new();
    loop {
        let available = match input.fill_buf() {
            Ok(available) => available,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(fail(error)),
        };
        if available.is_empty() {
            let rest = (!bytes.is_empty()).then(|| String::from_utf8_lossy(&bytes).into_owned());
            return Ok(rest);
        }
        let end = available.iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(available.len(), |end| end + 1);
        if bytes.len() + taken <= MAX_LINE_BYTES {
            bytes.extend_from_slice(available.get(..taken).unwrap_or_default());
        } else {
            bytes.clear();
        }
        input.consume(taken);
        if end.is_some() {
            return Ok(Some(String::from_utf8_lossy(&bytes).into_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line {
        understand(text, &["status".to_owned(), "goal".to_owned()]).unwrap()
    }

    #[test]
    fn a_line_is_a_command_a_goal_or_a_word_of_the_prompt() {
        let command =
            |words: &[&str]| Line::Command(words.iter().map(|w| (*w).to_owned()).collect());
        assert_eq!(line("  "), Line::Nothing);
        assert_eq!(line("exit"), Line::Exit);
        assert_eq!(line("help"), Line::Help);
        assert_eq!(line("help goal"), command(&["help", "goal"]));
        assert_eq!(line("aios status --json"), command(&["status", "--json"]));
        assert_eq!(line("goal \"a b\" c"), command(&["goal", "a b", "c"]));
        assert_eq!(
            line("create the file \"/srv/a b\" with $HOME; ls"),
            Line::Goal("create the file \"/srv/a b\" with $HOME; ls".into())
        );
        assert!(understand("statsu", &["status".to_owned()]).is_err());
        assert!(understand("goal \"open", &["goal".to_owned()]).is_err());
    }

    #[test]
    fn input_ends_quietly_and_endless_lines_are_dropped() {
        let mut input = io::Cursor::new(b"a\n\xffb\nlast".to_vec());
        assert_eq!(read_line(&mut input).unwrap().as_deref(), Some("a\n"));
        assert_eq!(
            read_line(&mut input).unwrap().as_deref(),
            Some("\u{fffd}b\n")
        );
        assert_eq!(read_line(&mut input).unwrap().as_deref(), Some("last"));
        assert_eq!(read_line(&mut input).unwrap(), None);
        let mut long = vec![b'x'; MAX_LINE_BYTES + 10];
        long.extend_from_slice(b"\nnext\n");
        let mut input = io::BufReader::with_capacity(1000, io::Cursor::new(long));
        let first = read_line(&mut input).unwrap().unwrap();
        assert!(first.len() <= MAX_LINE_BYTES);
        assert_eq!(read_line(&mut input).unwrap().as_deref(), Some("next\n"));
    }
}
