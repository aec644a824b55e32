//! One process as it is at a moment, and the processor time between two moments.

use std::{collections::BTreeMap, time::Instant};

use aios_tool_api::{Accounts, ToolError, ToolErrorKind};
use procfs::{ProcError, process::Stat};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Most words of a command line that are shown, and most letters of each.
const MAX_WORDS: usize = 64;
const MAX_LETTERS: usize = 512;
/// The kernel cuts a process's name to this many bytes.
const COMM_BYTES: usize = 15;

/// A process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Process {
    /// Process id.
    pub pid: i32,
    /// Name of the program.
    pub name: String,
    /// Name of the user that it runs as, or number when it has no name.
    pub user: String,
    /// `running`, `sleeping`, `waiting` (uninterruptible), `stopped`, `traced`, `zombie`, `idle` or
    /// `dead`.
    pub state: String,
    /// Resident memory in bytes, pages shared with other processes included.
    pub memory_bytes: u64,
    /// Share of one processor that it used while the call looked, in percent; over 100 when it
    /// used several.
    pub cpu_percent: f64,
    /// When it was started, in milliseconds since 1970.
    pub started_ms: u64,
    /// The command line, one word each; empty for threads of the kernel.
    pub command: Vec<String>,
}

/// A process with what is needed to compute the rest.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) stat: Stat,
    pub(crate) uid: u32,
    pub(crate) command: Vec<String>,
}

impl Seen {
    /// Looks at a process.
    pub(crate) fn read(process: &procfs::process::Process) -> Result<Self, ProcError> {
        Ok(Self {
            stat: process.stat()?,
            uid: process.uid()?,
            // A process without memory of its own (a zombie) has no command line.
            command: process.cmdline().unwrap_or_default(),
        })
    }

    /// Processor ticks used so far.
    pub(crate) fn ticks(&self) -> u64 {
        self.stat.utime.saturating_add(self.stat.stime)
    }

    /// The facts, with the share of a processor that was measured.
    pub(crate) fn facts(&self, accounts: &Accounts, cpu_percent: f64, boot_secs: u64) -> Process {
        let since_boot_ms =
            self.stat.starttime.saturating_mul(1000) / procfs::ticks_per_second().max(1);
        Process {
            pid: self.stat.pid,
            name: name(&self.stat.comm, &self.command),
            user: accounts.user(self.uid),
            state: state(self.stat.state).to_owned(),
            memory_bytes: self.stat.rss.saturating_mul(procfs::page_size()),
            cpu_percent,
            started_ms: boot_secs.saturating_mul(1000).saturating_add(since_boot_ms),
            command: shown(&self.command),
        }
    }
}

/// Processor ticks of every process at a moment. A process is its id and the time of its start, so
/// that a reused id is not taken for the same process.
#[derive(Debug)]
pub(crate) struct Ticks {
    at: Instant,
    by_process: BTreeMap<(i32, u64), u64>,
}

impl Ticks {
    pub(crate) fn of<'a>(seen: impl Iterator<Item = &'a Seen>) -> Self {
        Self {
            at: Instant::now(),
            by_process: seen
                .map(|one| ((one.stat.pid, one.stat.starttime), one.ticks()))
                .collect(),
        }
    }

    /// Percent of one processor that a process used since this moment; what began since then began
    /// at zero.
    pub(crate) fn percent(&self, now: &Seen, elapsed_s: f64) -> f64 {
        let before = self
            .by_process
            .get(&(now.stat.pid, now.stat.starttime))
            .copied()
            .unwrap_or(0);
        let ticks = now.ticks().saturating_sub(before) as f64;
        let percent = 100.0 * ticks / procfs::ticks_per_second() as f64 / elapsed_s.max(0.001);
        (percent * 10.0).round() / 10.0
    }

    pub(crate) fn elapsed_s(&self) -> f64 {
        self.at.elapsed().as_secs_f64()
    }
}

/// The program's name: the kernel's, which is cut after 15 bytes, completed from the command line.
fn name(comm: &str, command: &[String]) -> String {
    if comm.len() >= COMM_BYTES {
        let program = command.first().and_then(|word| word.rsplit('/').next());
        if let Some(program) = program.filter(|program| program.starts_with(comm)) {
            return program.to_owned();
        }
    }
    comm.to_owned()
}

fn state(letter: char) -> &'static str {
    match letter {
        'R' => "running",
        'S' => "sleeping",
        'D' => "waiting",
        'T' => "stopped",
        't' => "traced",
        'Z' => "zombie",
        'I' => "idle",
        _ => "dead",
    }
}

fn shown(command: &[String]) -> Vec<String> {
    command
        .iter()
        .take(MAX_WORDS)
        .map(|word| match word.char_indices().nth(MAX_LETTERS) {
            Some((end, _)) => format!("{}…", word.get(..end).unwrap_or_default()),
            None => word.clone(),
        })
        .collect()
}

/// The names of users and groups of this machine.
pub(crate) fn accounts() -> Accounts {
    let text = |path| std::fs::read_to_string(path).unwrap_or_default();
    Accounts::parse(&text("/etc/passwd"), &text("/etc/group"))
}

/// When the kernel started, in seconds since 1970.
pub(crate) fn boot_secs() -> Result<u64, ToolError> {
    procfs::boot_time_secs().map_err(|error| proc_error("the time of the boot", &error))
}

/// A failure of `/proc` as a failure of the call.
pub(crate) fn proc_error(what: &str, error: &ProcError) -> ToolError {
    let kind = match error {
        ProcError::NotFound(_) => ToolErrorKind::NotFound,
        ProcError::PermissionDenied(_) => ToolErrorKind::Permission,
        _ => ToolErrorKind::Filesystem,
    };
    ToolError::new(kind, format!("cannot read {what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_names_are_completed_only_by_the_program_itself() {
        let command = |word: &str| vec![word.to_owned()];
        assert_eq!(
            name(
                "aios-orchestrat",
                &command("/usr/libexec/aios/aios-orchestrator")
            ),
            "aios-orchestrator"
        );
        assert_eq!(
            name("aios-orchestrat", &command("something else")),
            "aios-orchestrat"
        );
        assert_eq!(name("nginx", &command("nginx: master process")), "nginx");
        assert_eq!(name("kworker/0:0", &[]), "kworker/0:0");
    }

    #[test]
    fn long_command_lines_are_cut() {
        let words: Vec<String> = (0..100).map(|_| "ü".repeat(1000)).collect();
        let shown = shown(&words);
        assert_eq!(shown.len(), MAX_WORDS);
        assert_eq!(shown[0].chars().count(), MAX_LETTERS + 1);
    }
}
