//! Running one program of apt or dpkg to its end.
//!
//! Invariants: the environment is fixed, standard input is empty, the program leads a process group
//! of its own which ends with the call (deadline, cancellation), and output is kept within bounds
//! however much there is.

use std::{
    io::Read,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
    time::{Duration, Instant},
};

use aios_tool_api::{Context, ToolError, ToolErrorKind};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

/// Bytes of standard output that are kept, from its beginning.
const MAX_STDOUT: usize = 16 << 20;
/// Bytes of standard error that are kept, from its end.
const MAX_STDERR: usize = 16 << 10;
/// How often a running program is looked at.
const POLL: Duration = Duration::from_millis(20);
/// Time that a program has to end by itself after it was asked to.
const GRACE: Duration = Duration::from_secs(3);
/// Longest wait for output after the program ended; something that it left behind may hold the pipe.
const DRAIN: Duration = Duration::from_secs(2);
/// Where programs and maintainer scripts look for others.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How a program ended.
#[derive(Debug)]
pub(crate) struct Ran {
    /// Whether its exit code was 0.
    pub(crate) ok: bool,
    /// The beginning of what it wrote.
    pub(crate) stdout: String,
    /// The end of what it complained about.
    pub(crate) stderr: String,
}

fn keep(mut stream: impl Read + Send + 'static, from_end: bool, most: usize) -> Receiver<String> {
    let (sender, receiver) = mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let mut kept: Vec<u8> = Vec::new();
        let mut chunk = vec![0; 16 << 10];
        while let Ok(count) = stream.read(&mut chunk) {
            let Some(bytes) = chunk.get(..count).filter(|bytes| !bytes.is_empty()) else {
                break;
            };
            if from_end {
                kept.extend_from_slice(bytes);
                let surplus = kept.len().saturating_sub(most);
                kept.drain(..surplus);
            } else {
                let room = most.saturating_sub(kept.len()).min(bytes.len());
                kept.extend_from_slice(bytes.get(..room).unwrap_or_default());
            }
        }
        // Nobody listens when the call has given up on a pipe that stays open.
        let _ = sender.send(String::from_utf8_lossy(&kept).into_owned());
    });
    receiver
}

/// Ends the program and everything that it started in its group.
fn end(child: &mut Child) {
    let group = i32::try_from(child.id()).map(Pid::from_raw);
    if let Ok(group) = group {
        // An error means that the group is gone, which is what is wanted.
        let _ = killpg(group, Signal::SIGTERM);
        let begin = Instant::now();
        while begin.elapsed() < GRACE && matches!(child.try_wait(), Ok(None)) {
            std::thread::sleep(POLL);
        }
        let _ = killpg(group, Signal::SIGKILL);
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// Runs `program` with `args` and waits for it.
pub(crate) fn run(program: &Path, args: &[String], context: &Context) -> Result<Ran, ToolError> {
    context.check_alive()?;
    let mut child = Command::new(program)
        .args(args)
        .env_clear()
        .env("PATH", PATH)
        .env("HOME", "/root")
        .env("LC_ALL", "C")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("DEBCONF_NONINTERACTIVE_SEEN", "true")
        .env("APT_LISTCHANGES_FRONTEND", "none")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|error| ToolError::io(format!("cannot run {}", program.display()), &error))?;
    let stdout = child
        .stdout
        .take()
        .map(|stream| keep(stream, false, MAX_STDOUT));
    let stderr = child
        .stderr
        .take()
        .map(|stream| keep(stream, true, MAX_STDERR));
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) => {}
            Err(error) => {
                end(&mut child);
                return Err(ToolError::io(
                    format!("cannot wait for {}", program.display()),
                    &error,
                ));
            }
        }
        if let Err(error) = context.check_alive() {
            end(&mut child);
            let name = program.file_name().unwrap_or_default().to_string_lossy();
            return Err(
                ToolError::new(error.kind, format!("{error}; {name} was stopped"))
                    .hint("the next call of a package tool repairs what it left unfinished")
                    .with_retryable(error.kind == ToolErrorKind::Timeout),
            );
        }
        std::thread::sleep(POLL);
    };
    let text = |stream: Option<Receiver<String>>| {
        stream
            .and_then(|stream| stream.recv_timeout(DRAIN).ok())
            .unwrap_or_default()
    };
    Ok(Ran {
        ok: status.success(),
        stdout: text(stdout),
        stderr: text(stderr),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use aios_tool_api::BlobStore;

    use super::*;

    fn context(limit: Duration) -> Context {
        Context::new(BlobStore::new("/nowhere"), limit)
    }

    fn shell(script: &str) -> Vec<String> {
        vec!["-c".to_owned(), script.to_owned()]
    }

    #[test]
    fn the_environment_is_fixed_and_the_input_is_empty() {
        let ran = run(Path::new("/bin/sh"), &shell("env; cat"), &context(GRACE)).unwrap();
        assert!(ran.ok);
        assert!(ran.stdout.contains("LC_ALL=C\n"));
        assert!(!ran.stdout.contains("CARGO"), "{}", ran.stdout);
    }

    #[test]
    fn the_end_of_many_complaints_is_kept() {
        let script =
            "i=0; while [ $i -lt 3000 ]; do echo complaint $i >&2; i=$((i+1)); done; exit 7";
        let ran = run(
            Path::new("/bin/sh"),
            &shell(script),
            &context(Duration::from_secs(20)),
        )
        .unwrap();
        assert!(!ran.ok);
        assert!(ran.stderr.len() <= MAX_STDERR);
        assert!(ran.stderr.ends_with("complaint 2999\n"));
    }

    #[test]
    fn a_program_and_its_children_end_with_the_call() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let script = format!("sleep 60 & echo $! > {}; wait", file.display());
        let error = run(
            Path::new("/bin/sh"),
            &shell(&script),
            &context(Duration::from_millis(300)),
        )
        .unwrap_err();
        assert_eq!(error.kind, ToolErrorKind::Timeout);
        let child = std::fs::read_to_string(&file).unwrap();
        let stat = format!("/proc/{}/stat", child.trim());
        let begin = Instant::now();
        // The orphan is reaped by whoever adopts it; a zombie has ended, too.
        while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
            assert!(begin.elapsed() < GRACE, "the child survived");
            std::thread::sleep(POLL);
        }
    }

    #[test]
    fn what_stays_behind_with_the_pipe_does_not_hold_the_call() {
        let begin = Instant::now();
        let ran = run(
            Path::new("/bin/sh"),
            &shell("setsid sleep 20 & exit 0"),
            &context(Duration::from_secs(15)),
        )
        .unwrap();
        assert!(ran.ok);
        assert!(begin.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_cancelled_call_stops_the_program() {
        let context = context(Duration::from_secs(30));
        let flag = std::sync::Arc::clone(&context.cancelled);
        let canceller = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            flag.store(true, Ordering::Relaxed);
        });
        let error = run(Path::new("/bin/sh"), &shell("sleep 30"), &context).unwrap_err();
        assert_eq!(error.kind, ToolErrorKind::Cancelled);
        canceller.join().unwrap();
    }
}
