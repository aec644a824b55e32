//! `aios-orchestrator`: the daemon. Everything is in the library.

use aios_kit::{DaemonArgs, server, telemetry};
use anyhow::Context as _;
use clap::Parser as _;

/// Goals, plans, routing and approvals of an aiOS machine, on orchestrator.sock.
#[derive(Debug, clap::Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    daemon: DaemonArgs,
}

#[tokio::main(worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    telemetry::init();
    aios_orchestrator::serve(&args.daemon.paths(), server::shutdown_signal())
        .await
        .inspect_err(|error| server::notify_failure(error))
        .context("aios-orchestrator cannot serve")
}
