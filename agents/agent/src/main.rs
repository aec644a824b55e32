//! `aios-agent NAME`: one agent. What it is for is in `/etc/aios/agents/NAME.toml`; everything that
//! it does is in `aios-agent-kit`.

use aios_agent_kit::{Agent, confine::confine, run};
use aios_kit::{DaemonArgs, server, telemetry};
use anyhow::Context as _;
use clap::Parser as _;

/// An agent of an aiOS machine, on agents/NAME.sock.
#[derive(Debug, clap::Parser)]
#[command(version)]
struct Args {
    /// Which agent: the name of its file below agents/
    name: String,
    #[command(flatten)]
    daemon: DaemonArgs,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    telemetry::init();
    start(&args)
        .inspect_err(|error| server::notify_failure(&format_args!("{error:#}")))
        .with_context(|| format!("agent {} cannot run", args.name))
}

fn start(args: &Args) -> anyhow::Result<()> {
    let paths = args.daemon.paths();
    let agent = Agent::prepare(&paths, &args.name)?;
    let sockets = paths.run.join("agents");
    std::fs::create_dir_all(&sockets)
        .with_context(|| format!("cannot make {}", sockets.display()))?;
    // Before the first other thread: from here on no file of the host can be opened.
    if !confine(&sockets)? {
        tracing::warn!("this kernel has no Landlock; only the uid keeps this agent from files");
    }
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")?
        .block_on(run(agent, &paths, server::shutdown_signal()))?;
    Ok(())
}
