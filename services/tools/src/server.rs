//! The server on `<run>/tools.sock`.

use std::{future::Future, sync::Arc};

use aios_kit::{Identities, Paths, access::AccessLayer, server};
use aios_proto::v1::tools_server::ToolsServer;
use aios_tool_api::Registry;
use tonic::transport::Server;

use crate::{
    access::TABLE,
    engine::{Engine, StartError},
    service::ToolsService,
};

/// Serves until `stop` ends. `ready` is called when calls are taken.
///
/// # Errors
/// When the daemon cannot start, with what to correct.
pub async fn serve(
    paths: Paths,
    registry: Registry,
    stop: impl Future<Output = ()>,
    ready: impl FnOnce(&Engine),
) -> Result<(), StartError> {
    let identities = Arc::new(Identities::load(&paths.identities_file())?);
    let socket = paths.socket("tools");
    let fail = |message: String| StartError::Serve {
        socket: socket.clone(),
        message,
    };
    let engine = {
        let paths = paths.clone();
        tokio::task::spawn_blocking(move || Engine::start(&paths, &registry))
            .await
            .map_err(|error| fail(error.to_string()))??
    };
    let connections = server::bind(&socket)?;
    ready(&engine);
    let service = ToolsServer::new(ToolsService::new(engine, Arc::clone(&identities)))
        .max_decoding_message_size(server::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(server::MAX_MESSAGE_BYTES);
    Server::builder()
        .layer(AccessLayer::new(TABLE, identities))
        .add_service(service)
        .serve_with_incoming_shutdown(connections, stop)
        .await
        .map_err(|error| fail(error.to_string()))
}
