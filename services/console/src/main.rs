//! The console daemon: reads its options and serves until it is asked to stop.

use aios_console::Options;
use aios_kit::{DaemonArgs, telemetry};
use clap::Parser;

/// Remote management of this machine over mutual TLS, and the local management socket.
#[derive(Debug, Parser)]
#[command(name = "aios-console", version)]
struct Args {
    #[command(flatten)]
    daemon: DaemonArgs,
    /// Address and port instead of the configured ones; port 0 takes a free one and prints it
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    telemetry::init();
    let options = Options {
        paths: args.daemon.paths(),
        listen: args.listen,
    };
    aios_console::run(options, aios_kit::server::shutdown_signal())
        .await
        .inspect_err(|error| aios_kit::server::notify_failure(error))?;
    Ok(())
}
