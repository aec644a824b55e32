//! What each command does.

pub(crate) mod approve;
pub(crate) mod audit;
pub(crate) mod certificates;
pub(crate) mod follow;
pub(crate) mod goal;
pub(crate) mod goal_json;
pub(crate) mod lists;
pub(crate) mod local;
pub(crate) mod machine;
pub(crate) mod tool;

use crate::{
    cli::{Cli, Command, Global, GoalCommand},
    connect::Machine,
    enrol,
    failure::{Exit, Failure},
};

/// Carries a command out.
pub(crate) async fn run(global: &Global, command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Status => machine::status(global).await,
        Command::Boot => machine::boot(global).await,
        Command::Logs { unit, lines } => machine::logs(global, unit, lines).await,
        Command::Power { action, reason } => machine::power(global, action, reason).await,
        Command::Config => machine::config(global).await,
        Command::Whoami => machine::whoami(global).await,
        Command::Goal { command, run } => {
            goal::run(global, command.unwrap_or(GoalCommand::Run(run))).await
        }
        Command::Tool(command) => tool::run(global, command).await,
        Command::Service(command) => tool::service(global, command).await,
        Command::Rollback { what, dry_run } => audit::rollback(global, &what, dry_run).await,
        Command::Audit(command) => audit::run(global, command).await,
        Command::Agent(_) => lists::agents(global).await,
        Command::Model(command) => lists::models(global, command).await,
        Command::Memory(command) => lists::memory(global, command).await,
        Command::Events {
            kind,
            goal,
            no_follow,
        } => lists::events(global, kind, goal, !no_follow).await,
        Command::Approve {
            id,
            deny,
            yes,
            reason,
        } => approve::run(global, &id, !deny, yes, reason).await,
        Command::Cert(command) => certificates::run(global, command).await,
        Command::SshKey(command) => certificates::ssh_key(global, command).await,
        Command::Enroll(arguments) => enrol::run(global, &arguments).await,
        Command::Profile(_)
        | Command::Shell(_)
        | Command::Completions { .. }
        | Command::SshKeys
        | Command::ServeEnrolmentPort { .. } => Err(Failure::usage(
            "this command is not available inside the prompt",
        )),
    }
}

/// Connects.
pub(crate) async fn connect(global: &Global) -> Result<Machine, Failure> {
    Machine::connect(global).await
}

/// The names of all commands.
pub(crate) fn names() -> Vec<String> {
    use clap::CommandFactory as _;
    Cli::command()
        .get_subcommands()
        .map(|command| command.get_name().to_owned())
        .collect()
}
