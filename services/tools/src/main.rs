//! The `aios-tools` daemon.

use std::{process::ExitCode, time::Duration};

use aios_kit::{DaemonArgs, server, telemetry};
use clap::Parser;

/// How long calls that are still running have when the daemon is asked to stop. What is cut short
/// then is found in the ledger at the next start.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// Runs typed tools for those who may call them, and records everything before it is done.
#[derive(Debug, Parser)]
#[command(name = "aios-tools", version)]
struct Args {
    #[command(flatten)]
    daemon: DaemonArgs,
}

fn main() -> ExitCode {
    let args = Args::parse();
    telemetry::init();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            server::notify_failure(&format_args!("{error:#}"));
            tracing::error!("aios-tools cannot run: {error:#}");
            eprintln!("aios-tools: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(async {
        // Calls that still run must not keep the socket open for ever.
        let asked = std::sync::Arc::new(tokio::sync::Notify::new());
        let stop = {
            let asked = std::sync::Arc::clone(&asked);
            async move {
                server::shutdown_signal().await;
                asked.notify_one();
            }
        };
        let serving = aios_tools::serve(
            args.daemon.paths(),
            aios_tools::families::registry(),
            stop,
            |engine| {
                tracing::info!(
                    tools = engine.catalogue.len(),
                    records = engine.ledger.tail().seq,
                    "ready"
                );
                server::notify_ready("serving");
            },
        );
        tokio::select! {
            result = serving => result,
            () = async { asked.notified().await; tokio::time::sleep(STOP_LIMIT).await } => {
                tracing::warn!("calls are still running; they are cut short");
                Ok(())
            }
        }
    });
    runtime.shutdown_timeout(Duration::from_millis(200));
    Ok(result?)
}
