//! Running other programs: their output goes to a log file, their last line to the terminal while
//! they run, and the end of the log to the error when they fail.

use std::{
    collections::VecDeque,
    fs::File,
    io::{BufRead as _, BufReader, IsTerminal as _, Write as _},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// Lines of a failed program that are shown.
const TAIL: usize = 25;

/// Says on standard error what is going on.
pub fn say(text: impl AsRef<str>) {
    eprintln!("{}", text.as_ref());
}

/// Says that a step is done, and how long it took.
pub fn say_done(what: &str, started: Instant) {
    eprintln!("  {what} in {}", human(started.elapsed()));
}

/// A duration for people.
#[must_use]
pub fn human(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds < 60 {
        format!("{:.1} s", duration.as_secs_f64())
    } else {
        format!("{} min {:02} s", seconds / 60, seconds % 60)
    }
}

/// Runs a program to its end.
///
/// # Errors
/// When it cannot be started or fails; the error holds the last lines that it wrote.
pub fn run(what: &str, command: &mut Command, log: &Path) -> Result<()> {
    if let Some(parent) = log.parent() {
        std::fs::create_dir_all(parent)
            .with_context(|| format!("cannot make {}", parent.display()))?;
    }
    let mut log_file =
        File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    writeln!(log_file, "$ {command:?}")?;
    let program = command.get_program().to_string_lossy().into_owned();
    let (reader, writer) = std::io::pipe()?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .spawn()
        .with_context(|| format!("{what}: cannot start {program}"))?;
    // The command holds the write end of the pipe: without this the reader would never end.
    command.stdout(Stdio::null()).stderr(Stdio::null());

    let terminal = std::io::stderr().is_terminal();
    let mut tail = VecDeque::with_capacity(TAIL);
    let started = Instant::now();
    let mut shown = started;
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        log_file.write_all(&line)?;
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        line.clear();
        if terminal && shown.elapsed() > Duration::from_millis(200) {
            shown = Instant::now();
            let text: String = text.chars().filter(|c| !c.is_control()).take(70).collect();
            eprint!("\r\x1b[K  {:>4} s  {text}", started.elapsed().as_secs());
        } else if !terminal && shown.elapsed() > Duration::from_secs(60) {
            shown = Instant::now();
            say(format!(
                "  … {what}: {} s so far",
                started.elapsed().as_secs()
            ));
        }
        if tail.len() == TAIL {
            tail.pop_front();
        }
        tail.push_back(text);
    }
    let status = child.wait()?;
    if terminal {
        eprint!("\r\x1b[K");
    }
    if !status.success() {
        let tail: Vec<String> = tail.into();
        bail!(
            "{what} failed: {program} ended with {status}. Its last lines:\n{}\n(all of it: {})",
            tail.join("\n"),
            log.display()
        );
    }
    Ok(())
}

/// Runs a program and returns what it printed on standard output.
///
/// # Errors
/// When it cannot be started or fails.
pub fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {program}"))?;
    if !output.status.success() {
        bail!(
            "{program} ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
