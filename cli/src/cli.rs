//! The command line: what there is, and what each thing is called.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::texts::parse_duration;

const AFTER_HELP: &str = "\
Exit codes: 0 done; 1 failed; 2 wrong usage; 3 refused or denied; 4 machine or daemon unreachable;
5 no such thing; 6 not done within the time to wait.

Which machine: --profile, else $AIOS_PROFILE, else this machine's own socket when there is one,
else the profile `default`. A profile is a directory, or a name below ~/.config/aios/profiles.";

/// State a goal, see what the machine does about it, take it back.
#[derive(Debug, Parser)]
#[command(name = "aios", version, after_help = AFTER_HELP, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options that every command has.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// Client profile: a directory, or a name below ~/.config/aios/profiles
    #[arg(long, global = true, value_name = "PATH|NAME")]
    pub(crate) profile: Option<String>,
    /// Print one JSON document and nothing else
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[arg(
        long,
        global = true,
        hide = true,
        value_name = "DIR",
        default_value = "/run/aios"
    )]
    pub(crate) run: PathBuf,
    #[arg(
        long,
        global = true,
        hide = true,
        value_name = "DIR",
        default_value = "/var/lib/aios"
    )]
    pub(crate) state: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// How the machine is
    Status,
    /// State a goal, or see and steer goals
    #[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
    Goal {
        #[command(subcommand)]
        command: Option<GoalCommand>,
        #[command(flatten)]
        run: GoalRun,
    },
    /// The tools that everything is done with
    #[command(subcommand)]
    Tool(ToolCommand),
    /// The ledger of everything that was done
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Undo a tool call, a task or a whole goal
    Rollback {
        /// `call`, `task` or `goal`, then its id; the kind may be left out
        #[arg(required = true, num_args = 1..=2, value_name = "[KIND] ID")]
        what: Vec<String>,
        /// Say what would be undone
        #[arg(long)]
        dry_run: bool,
    },
    /// The agents
    #[command(subcommand)]
    Agent(AgentCommand),
    /// Services that PID 1 runs
    #[command(subcommand)]
    Service(ServiceCommand),
    /// Language models
    #[command(subcommand)]
    Model(ModelCommand),
    /// What the machine remembers
    #[command(subcommand)]
    Memory(MemoryCommand),
    /// The last lines that a unit wrote
    Logs {
        /// Name of the unit, such as tools
        unit: String,
        /// How many lines
        #[arg(long, short = 'n', default_value_t = 100)]
        lines: u32,
    },
    /// What happens, as it happens (ends with Ctrl-C)
    Events {
        /// Only this kind: goal, task, agent, tool, service, security or system
        #[arg(long)]
        kind: Option<String>,
        /// Only of this goal
        #[arg(long)]
        goal: Option<String>,
        /// Print what there is and end
        #[arg(long)]
        no_follow: bool,
    },
    /// How the machine started: phases and times
    Boot,
    /// The configuration in effect
    Config,
    /// Allow or deny what waits for a person
    Approve {
        /// `list`, or the id of an approval
        #[arg(default_value = "list", value_name = "list|ID")]
        id: String,
        /// Deny it instead
        #[arg(long)]
        deny: bool,
        /// Do not ask once more
        #[arg(long)]
        yes: bool,
        /// Why, for the record
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Who you are to the machine
    Whoami,
    /// Client certificates
    #[command(subcommand)]
    Cert(CertCommand),
    /// Keys that may log in over SSH
    #[command(subcommand, name = "ssh-key")]
    SshKey(SshKeyCommand),
    /// Switch the machine off or restart it
    Power {
        action: PowerAction,
        /// Why, for the record
        #[arg(long, default_value = "asked for on the command line")]
        reason: String,
    },
    /// Get a client certificate: over a machine's enrolment port, or on the machine itself
    Enroll(EnrolArgs),
    /// Client profiles on this computer
    #[command(subcommand)]
    Profile(ProfileCommand),
    /// The operator's prompt: each line is a command or a goal
    Shell(ShellArgs),
    /// Completions for a shell, on standard output
    Completions { shell: clap_complete::Shell },
    /// Keys for sshd's AuthorizedKeysCommand
    #[command(hide = true)]
    SshKeys,
    /// Answers enrolment requests on the virtio port `aios.enrolment`, on the machine itself
    #[command(hide = true)]
    ServeEnrolmentPort {
        /// This device instead of the port that has the name
        #[arg(long, value_name = "DEVICE")]
        device: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct GoalRun {
    /// The goal in your own words
    #[arg(required = true, value_name = "TEXT")]
    pub(crate) text: Vec<String>,
    /// Do not wait for the end
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// 0 (background) to 9 (urgent)
    #[arg(long, value_parser = clap::value_parser!(u32).range(0..=9))]
    pub(crate) priority: Option<u32>,
    /// Give the goal up after this time, such as 10m
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    pub(crate) deadline: Option<std::time::Duration>,
    /// Stop waiting after this time; the goal goes on
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    pub(crate) timeout: Option<std::time::Duration>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum GoalCommand {
    /// State a goal and follow it to its end
    Run(GoalRun),
    /// The plan that a goal would get, without running it
    Plan {
        #[arg(required = true, value_name = "TEXT")]
        text: Vec<String>,
    },
    /// Goals, the newest first
    List {
        /// Only with this status (repeatable)
        #[arg(long)]
        status: Vec<String>,
        #[arg(long, short = 'n', default_value_t = 20)]
        limit: u32,
    },
    /// One goal with its plan and steps
    Show { id: String },
    /// Follow a goal to its end
    Follow {
        id: String,
        /// Stop waiting after this time; the goal goes on
        #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
        timeout: Option<std::time::Duration>,
    },
    /// Everything about a goal: plan, decisions, every call with its ledger records
    Trace { id: String },
    /// Stop a goal
    Cancel {
        id: String,
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Start nothing more of a goal until it is resumed
    Pause { id: String },
    /// Go on with a paused goal
    Resume { id: String },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ToolCommand {
    /// Every tool
    List {
        /// Only those that you may call
        #[arg(long)]
        mine: bool,
    },
    /// One tool with its arguments
    Show { name: String },
    /// Whether a call would be allowed, without making it
    Check(ToolCall),
    /// Call a tool
    Call {
        #[command(flatten)]
        call: ToolCall,
        /// Say what would be done
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ToolCall {
    pub(crate) name: String,
    /// Arguments
    #[arg(value_name = "KEY=VALUE")]
    pub(crate) pairs: Vec<String>,
    /// All arguments as one JSON object
    #[arg(long, value_name = "JSON", conflicts_with = "pairs")]
    pub(crate) args: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Records of the ledger, the newest last
    List {
        #[arg(long)]
        goal: Option<String>,
        #[arg(long)]
        call: Option<String>,
        #[arg(long)]
        tool: Option<String>,
        #[arg(long)]
        kind: Option<String>,
        #[arg(long)]
        principal: Option<String>,
        /// Records after this number, the oldest first
        #[arg(long)]
        after: Option<u64>,
        #[arg(long, short = 'n', default_value_t = 50)]
        limit: u32,
    },
    /// Check the whole chain of hashes
    Verify,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AgentCommand {
    /// Every agent and what it is doing
    List,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ServiceCommand {
    /// Every unit
    List,
    /// One service
    Status { name: String },
    /// Start a service
    Start { name: String },
    /// Stop a service
    Stop { name: String },
    /// What a service wrote
    Logs {
        name: String,
        #[arg(long, short = 'n', default_value_t = 100)]
        lines: u32,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelCommand {
    /// Every model
    List,
    /// Load a model
    Load { name: String },
    /// Unload a model
    Unload { name: String },
}

#[derive(Debug, Subcommand)]
pub(crate) enum MemoryCommand {
    /// Recent events
    Events {
        #[arg(long)]
        kind: Option<String>,
        #[arg(long)]
        goal: Option<String>,
        #[arg(long, short = 'n', default_value_t = 50)]
        limit: u32,
    },
    /// Long-term memory
    Search {
        #[arg(required = true)]
        query: Vec<String>,
        #[arg(long, short = 'n', default_value_t = 10)]
        limit: u32,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum CertCommand {
    /// Issue a certificate and write a client profile with it
    Issue {
        #[arg(long)]
        name: String,
        #[arg(long, value_parser = ["admin", "operator", "reader"])]
        role: String,
        /// Days that it is valid; 0: as configured
        #[arg(long, default_value_t = 0)]
        days: u32,
        /// Directory to write the profile to
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// HOST:PORT in the profile; that of the profile in use when left out
        #[arg(long)]
        endpoint: Option<String>,
    },
    /// Every certificate that was issued
    List,
    /// Make a certificate count for nothing, at once
    Revoke {
        serial: String,
        #[arg(long, default_value = "")]
        reason: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum SshKeyCommand {
    /// Let a public key log in as the operator
    Add {
        /// File with the public key; `-` for standard input
        file: PathBuf,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PowerAction {
    Off,
    Reboot,
}

#[derive(Debug, Args)]
pub(crate) struct EnrolArgs {
    /// Socket of the machine's enrolment port (on the computer that runs the machine)
    #[arg(
        long,
        value_name = "SOCKET",
        required_unless_present = "local",
        conflicts_with = "local"
    )]
    pub(crate) port: Option<PathBuf>,
    /// Enrol on the machine itself, as root
    #[arg(long)]
    pub(crate) local: bool,
    /// Name of the client
    #[arg(long)]
    pub(crate) name: String,
    /// What it may do
    #[arg(long, default_value = "admin", value_parser = ["admin", "operator", "reader"])]
    pub(crate) role: String,
    /// Where the machine will be reached
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) endpoint: Option<String>,
    /// Directory to write the profile to
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Public key that may log in over SSH
    #[arg(long, value_name = "FILE")]
    pub(crate) ssh_key: Option<PathBuf>,
    /// How long to wait for the machine
    #[arg(long, value_parser = parse_duration, default_value = "120s", value_name = "DURATION")]
    pub(crate) timeout: std::time::Duration,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ProfileCommand {
    /// Profiles below ~/.config/aios/profiles
    List,
    /// The profile in use, or the named one
    Show { name: Option<String> },
}

#[derive(Debug, Args)]
pub(crate) struct ShellArgs {
    /// Run this one command, as SSH gives it, and end
    #[arg(short = 'c', value_name = "COMMAND", allow_hyphen_values = true)]
    pub(crate) command: Option<String>,
}
