//! Puts the parts together and serves them until the daemon is asked to stop.

use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use aios_kit::{
    Category, Error, Identities, Paths, access::AccessLayer, config::SystemConfig, server,
};
use aios_proto::v1::memory_server::MemoryServer;
use tonic::transport::Server;

use crate::{access::ACCESS, ring::Ring, service::MemoryService, store::Store};

/// How long calls that are running may take to end once the daemon is asked to stop.
const DRAIN: Duration = Duration::from_secs(3);

/// Serves `memory.sock` until `stop` ends.
///
/// # Errors
/// When the identities are wrong, the database or the socket cannot be used, or the writer died.
pub async fn serve(paths: &Paths, stop: impl Future<Output = ()>) -> Result<(), Error> {
    let mut stop = pin!(stop);
    // Asked once before anything is open: from here on it listens, and a signal is not missed.
    if futures::poll!(stop.as_mut()).is_ready() {
        return Ok(());
    }
    let identities = Arc::new(Identities::load(&paths.identities_file())?);
    let loaded = SystemConfig::load_or_safe(&paths.config_file());
    let dir = paths.state.join("memory");
    let (store, writer) = tokio::task::spawn_blocking(move || Store::open(&dir))
        .await
        .map_err(|error| Error::new(Category::Internal, format!("opening failed: {error}")))??;
    let ring = Arc::new(Ring::new(
        loaded.config.memory.operational_max_entries,
        store.start(),
    ));
    let incoming = server::bind(&paths.socket("memory"))?;
    let service = MemoryServer::new(MemoryService::new(
        store.clone(),
        ring.clone(),
        loaded.problem.clone(),
    ))
    .max_decoding_message_size(server::MAX_MESSAGE_BYTES);
    let (stopping, stopped) = tokio::sync::oneshot::channel::<()>();
    let mut serving = tokio::spawn(
        Server::builder()
            .layer(AccessLayer::new(ACCESS, identities))
            .add_service(service)
            .serve_with_incoming_shutdown(incoming, async {
                // A closed channel means the same.
                drop(stopped.await);
            }),
    );
    server::notify_ready(&loaded.status("working memory is open"));
    tracing::info!("serving");
    let ended = tokio::select! {
        () = &mut stop => Ok(()),
        () = store.writer_gone() => {
            Err(Error::new(Category::Internal, "the writer of working memory has died"))
        }
        result = &mut serving => {
            return Err(Error::new(Category::Internal, format!("serving ended: {result:?}")));
        }
    };
    ring.close();
    drop(stopping);
    if tokio::time::timeout(DRAIN, &mut serving).await.is_err() {
        tracing::warn!("some calls did not end in time and were cut off");
        serving.abort();
        // Until the task has gone, its handlers hold the queue of the writer open.
        drop(serving.await);
    }
    drop(store);
    // The writer ends once the last handler has let go of its queue.
    let joined = tokio::task::spawn_blocking(move || writer.join());
    match tokio::time::timeout(DRAIN, joined).await {
        Ok(Ok(Ok(()))) => ended,
        _ => ended.and(Err(Error::new(
            Category::Internal,
            "the writer did not end in order",
        ))),
    }
}
