//! A unit: one process that PID 1 keeps, as its file `etc/services/NAME.toml` describes it.
//!
//! Invariant: a [`Unit`] that [`parse_unit`] returned has passed every check that needs no other
//! unit; what needs the others is in [`crate::check_graph`].

use std::{collections::BTreeMap, path::Path};

use aios_config::ConfigError;
use serde::Deserialize;

use crate::{
    definition::valid_name,
    values::{AbsolutePath, Bounded, Bytes, Capability, RelativePath, Span},
};

/// The five phases of the boot, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Mounts, inventory, minimums. PID 1 itself.
    Hardware,
    /// The model answers.
    Runtime,
    /// The other daemons.
    Services,
    /// The agents.
    Agents,
    /// What may begin once the machine can act.
    Autonomy,
}

impl Phase {
    /// All of them, in order.
    pub const ALL: [Self; 5] = [
        Self::Hardware,
        Self::Runtime,
        Self::Services,
        Self::Agents,
        Self::Autonomy,
    ];

    /// The name in unit files and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hardware => "hardware",
            Self::Runtime => "runtime",
            Self::Services => "services",
            Self::Agents => "agents",
            Self::Autonomy => "autonomy",
        }
    }
}

/// How a unit becomes ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Readiness {
    /// It says so: `READY=1` on the notify socket.
    Notify,
    /// As soon as its program runs.
    #[default]
    Started,
    /// When it has ended with status 0: a one-shot.
    Exit,
}

/// When a unit that ended by itself is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// Always.
    Always,
    /// Unless it ended with status 0.
    #[default]
    OnFailure,
    /// Never.
    Never,
}

/// `[resources]`: limits. What is left out is not limited.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Resources {
    /// Memory of the whole control group.
    pub memory_max: Option<Bytes>,
    /// Processes and threads of the whole control group.
    pub pids_max: Option<Bounded<1, 4_194_304>>,
    /// Open files of each process.
    pub nofile: Option<Bounded<16, 1_048_576>>,
    /// Share of the processors against other units; 100 is even.
    pub cpu_weight: Option<Bounded<1, 10_000>>,
    /// Niceness.
    pub nice: Option<Bounded<-20, 19>>,
    /// How soon the kernel kills it when memory runs out; -1000: never.
    pub oom_score_adjust: Option<Bounded<-1000, 1000>>,
}

/// `[security]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Security {
    /// The capabilities that the unit may have; none unless listed.
    pub capabilities: Vec<Capability>,
    /// Whether set-uid programs and file capabilities give it nothing.
    pub no_new_privileges: bool,
    /// Whether root keeps every capability; the list must then be empty.
    pub all_capabilities: bool,
}

impl Default for Security {
    fn default() -> Self {
        Self {
            capabilities: Vec::new(),
            no_new_privileges: true,
            all_capabilities: false,
        }
    }
}

/// `[directories]`: made before the start and owned by the unit's user.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Directories {
    /// Below the state directory (`/var/lib/aios`), mode 0700.
    pub state: Vec<RelativePath>,
    /// Below the run directory (`/run/aios`), mode 0755.
    pub run: Vec<RelativePath>,
    /// Absolute, owned by root, mode 0755: what a foreign program expects to exist.
    pub system: Vec<AbsolutePath>,
}

/// One unit.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unit {
    /// The stem of the file name.
    #[serde(skip)]
    pub name: String,
    /// What it is for, for a person.
    pub description: String,
    /// The boot phase in which it starts.
    pub phase: Phase,
    /// The program.
    pub command: AbsolutePath,
    /// Its arguments.
    #[serde(default)]
    pub args: Vec<String>,
    /// The account that it runs as.
    #[serde(default = "root")]
    pub user: String,
    /// Units that must be ready before it is started. They are started with it.
    #[serde(default)]
    pub requires: Vec<String>,
    /// Units that are started with it; it starts after they are ready or have failed.
    #[serde(default)]
    pub wants: Vec<String>,
    /// Units after which it starts, if they are started at all.
    #[serde(default)]
    pub after: Vec<String>,
    /// How it becomes ready.
    #[serde(default)]
    pub readiness: Readiness,
    /// How long it may take to become ready.
    #[serde(default = "default_start_timeout")]
    pub start_timeout: Span,
    /// How long it may take to end after SIGTERM, before it is killed.
    #[serde(default = "default_stop_timeout")]
    pub stop_timeout: Span,
    /// Whether it is started again.
    #[serde(default)]
    pub restart: Restart,
    /// Whether the machine is whole without it.
    #[serde(default)]
    pub optional: bool,
    /// Whether its phase waits for it.
    #[serde(default = "yes", rename = "await")]
    pub awaited: bool,
    /// It is only started if this path exists; the last part may hold `*`.
    #[serde(default)]
    pub condition_path: Option<AbsolutePath>,
    /// The terminal that it controls and that is its standard input, output and error.
    #[serde(default)]
    pub tty: Option<AbsolutePath>,
    /// Unix sockets below the run directory that PID 1 holds for it, over every restart; it gets
    /// them as descriptors from 3 on (`LISTEN_FDS`, `LISTEN_PID`).
    #[serde(default)]
    pub listen: Vec<RelativePath>,
    /// Its environment, besides `PATH`, `HOME`, `USER`, `LANG` and `NOTIFY_SOCKET`.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Its limits.
    #[serde(default)]
    pub resources: Resources,
    /// Its rights.
    #[serde(default)]
    pub security: Security,
    /// Its directories.
    #[serde(default)]
    pub directories: Directories,
}

fn root() -> String {
    "root".to_owned()
}

const fn yes() -> bool {
    true
}

const fn default_start_timeout() -> Span {
    Span::seconds(60)
}

const fn default_stop_timeout() -> Span {
    Span::seconds(10)
}

impl Unit {
    /// Every unit that this one names, with the key that names it.
    pub fn dependencies(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.requires
            .iter()
            .map(|name| ("requires", name.as_str()))
            .chain(self.wants.iter().map(|name| ("wants", name.as_str())))
            .chain(self.after.iter().map(|name| ("after", name.as_str())))
    }
}

/// Checks the text of a unit file. `path` gives the name and is named in errors.
///
/// # Errors
/// [`ConfigError::Invalid`] with the line of what is wrong.
pub fn parse_unit(path: &Path, text: &str) -> Result<Unit, ConfigError> {
    let mut unit: Unit = aios_config::parse(path, text)?;
    unit.name = path
        .file_stem()
        .map(|stem| stem.to_string_lossy().into_owned())
        .unwrap_or_default();
    match contradiction(&unit) {
        None => Ok(unit),
        Some((key, message)) => Err(ConfigError::Invalid {
            path: path.to_owned(),
            line: line_of(text, key),
            column: 1,
            message,
            hint: String::new(),
        }),
    }
}

/// What is wrong with a unit although each of its values is right, and the key to blame.
pub(crate) fn contradiction(unit: &Unit) -> Option<(&'static str, String)> {
    if !valid_name(&unit.name) {
        let message = format!(
            "`{}` is no unit name: letters, digits, `-`, `_` and `.`, at most 64, not beginning with `.` or `-`",
            unit.name
        );
        return Some(("description", message));
    }
    if unit.phase == Phase::Hardware {
        return Some((
            "phase",
            "phase `hardware` is PID 1's own; the first for a unit is `runtime`".to_owned(),
        ));
    }
    if unit.readiness == Readiness::Exit && unit.restart == Restart::Always {
        return Some((
            "restart",
            "a one-shot (readiness = \"exit\") cannot be restarted always".to_owned(),
        ));
    }
    if unit.security.all_capabilities && !unit.security.capabilities.is_empty() {
        return Some((
            "all_capabilities",
            "all_capabilities = true leaves nothing to list in capabilities".to_owned(),
        ));
    }
    if unit.security.all_capabilities && unit.user != "root" {
        return Some((
            "all_capabilities",
            format!("all_capabilities is for root, not for `{}`", unit.user),
        ));
    }
    if unit.user.is_empty() || unit.user.contains(['\0', ':', '\n']) {
        return Some(("user", format!("`{}` is no account name", unit.user)));
    }
    let strings = unit.args.iter().chain(unit.environment.values());
    if strings.into_iter().any(|text| text.contains('\0')) {
        return Some((
            "args",
            "an argument or value cannot hold a NUL character".to_owned(),
        ));
    }
    for name in unit.environment.keys() {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Some(("environment", format!("`{name}` is no name of a variable")));
        }
    }
    unit.dependencies()
        .find(|(_, name)| *name == unit.name)
        .map(|(key, _)| (key, "a unit cannot depend on itself".to_owned()))
}

/// The line, from 1, on which a key is set; 1 when it is not.
pub(crate) fn line_of(text: &str, key: &str) -> usize {
    text.lines()
        .position(|line| {
            line.trim_start()
                .strip_prefix(key)
                .is_some_and(|rest| rest.trim_start().starts_with('='))
        })
        .map_or(1, |index| index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "description = \"d\"\nphase = \"services\"\ncommand = \"/bin/x\"\n";

    fn parse(text: &str) -> Result<Unit, String> {
        parse_unit(Path::new("/etc/sample.toml"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn the_smallest_unit_has_the_safe_defaults() {
        let unit = parse(SMALL).unwrap();
        assert_eq!(unit.name, "sample");
        assert_eq!(unit.user, "root");
        assert!(unit.awaited && !unit.optional);
        assert!(unit.security.no_new_privileges);
        assert!(unit.security.capabilities.is_empty());
        assert_eq!(unit.restart, Restart::OnFailure);
    }

    #[test]
    fn every_mistake_names_its_line() {
        let cases = [
            ("restrat = \"always\"", "did you mean `restart`?"),
            ("restart = \"alway\"", "did you mean `always`?"),
            ("stop_timeout = \"10\"", "no length of time"),
            ("condition_path = \"vport\"", "absolute path"),
            ("await = 1", "expected a boolean"),
            ("after = [\"sample\"]", "cannot depend on itself"),
            ("user = \"\"", "no account name"),
        ];
        for (line, expected) in cases {
            let error = parse(&format!("{SMALL}{line}\n")).unwrap_err();
            assert!(error.starts_with("/etc/sample.toml:4:"), "{error}");
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn tables_are_checked_too() {
        let cases = [
            (
                "[security]\ncapabilities = [\"CAP_KIL\"]",
                "did you mean `CAP_KILL`?",
            ),
            ("[resources]\nnice = 20", "between -20 and 19"),
            ("[resources]\nmemory_max = \"lots\"", "no number of bytes"),
            ("[directories]\nstate = [\"../etc\"]", "relative path"),
        ];
        for (text, expected) in cases {
            let error = parse(&format!("{SMALL}{text}\n")).unwrap_err();
            assert!(error.starts_with("/etc/sample.toml:5:"), "{error}");
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_one_shot_is_not_restarted_always() {
        let error = parse(&format!(
            "{SMALL}readiness = \"exit\"\nrestart = \"always\"\n"
        ));
        assert!(error.unwrap_err().starts_with("/etc/sample.toml:5:"));
    }

    #[test]
    fn the_phase_of_pid_1_is_not_for_units() {
        let text = SMALL.replace("services", "hardware");
        assert!(parse(&text).unwrap_err().starts_with("/etc/sample.toml:2:"));
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,400}") {
            let _ = parse(&text);
        }
    }
}
