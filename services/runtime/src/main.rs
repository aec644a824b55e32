//! The daemon `aios-runtime`, and with the argument `worker` the process that holds a model.

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use aios_kit::{DaemonArgs, Identities, config::SystemConfig, server};
use aios_proto::v1::runtime_server::RuntimeServer;
use aios_runtime::{
    front::{
        catalog::Folders,
        daemon::{Daemon, Settings},
        process::Program,
        service::RuntimeService,
    },
    worker::{self, WorkerArgs},
};
use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

/// How long running requests may go on after the daemon was asked to stop.
const STOP_LIMIT: Duration = Duration::from_secs(2);

/// Local inference for the daemons of this machine
#[derive(Debug, Parser)]
#[command(name = "aios-runtime", version)]
struct Args {
    #[command(flatten)]
    daemon: DaemonArgs,
    /// The models that the image carries
    #[arg(long, value_name = "DIR", default_value = "/usr/share/aios/models")]
    image_models: PathBuf,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Hold one model; started by the daemon only
    Worker(WorkerArgs),
}

fn main() -> Result<ExitCode> {
    aios_kit::telemetry::init();
    let args = Args::parse();
    if let Some(Command::Worker(args)) = &args.command {
        return worker::run(args).context("the engine lost its daemon");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?;
    let result = runtime
        .block_on(serve(args))
        .inspect_err(|error| server::notify_failure(&format_args!("{error:#}")));
    runtime.shutdown_timeout(Duration::from_secs(1));
    result.map(|()| ExitCode::SUCCESS)
}

async fn serve(args: Args) -> Result<()> {
    let paths = args.daemon.paths();
    let loaded = SystemConfig::load_or_safe(&paths.config_file());
    let config = loaded.config;
    let identities = Identities::load(&paths.identities_file())?;
    let machine_models = paths.state.join("models");
    // The image makes it; on a new data disk it may not be there yet.
    if let Err(error) = std::fs::create_dir_all(&machine_models) {
        tracing::warn!(path = %machine_models.display(), %error, "cannot make the models folder");
    }
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let daemon = Arc::new(Daemon::new(Settings {
        folders: Folders {
            image: args.image_models,
            machine: machine_models,
        },
        cores: u32::try_from(cores).unwrap_or(u32::MAX),
        program: Program {
            path: std::env::current_exe().context("cannot find the own binary")?,
            context_tokens: config.models.context_tokens,
        },
        models: config.models,
        settings_problem: loaded.problem.map(|problem| problem.to_string()),
    }));
    let service = RuntimeServer::new(RuntimeService::new(Arc::clone(&daemon), identities))
        .max_decoding_message_size(server::MAX_MESSAGE_BYTES);
    let incoming = server::bind(&paths.socket("runtime"))?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let mut serving = tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming_shutdown(incoming, async {
                // A sender that is gone means the same.
                let _either = stopped.await;
            }),
    );
    // The socket answers while the model is loaded: health says so, and `aios status` with it.
    tokio::spawn(async move {
        let status = daemon.start().await;
        if status.starts_with("degraded:") {
            tracing::error!(status, "ready, but degraded");
        } else {
            tracing::info!(status, "ready");
        }
        server::notify_ready(&status);
    });
    tokio::select! {
        ended = &mut serving => {
            return ended.context("the server panicked")?.context("the server ended");
        }
        () = server::shutdown_signal() => {}
    }
    // The server may have ended in the meantime.
    let _gone = stop.send(());
    match tokio::time::timeout(STOP_LIMIT, serving).await {
        Ok(ended) => ended
            .context("the server panicked")?
            .context("the server ended")?,
        Err(_) => tracing::warn!("requests were still running; they are cut off"),
    }
    Ok(())
}
