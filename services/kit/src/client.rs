//! Channels to the other daemons of this machine. A channel connects when it is first used and
//! again after its daemon restarted.

use std::{path::Path, time::Duration};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

/// Longest wait for a connection on a local socket.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A lazy channel to a Unix socket.
#[must_use]
pub fn channel(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    // The address is never resolved: the connector below ignores it.
    Endpoint::from_static("http://aios.local")
        .connect_timeout(CONNECT_TIMEOUT)
        .connect_with_connector_lazy(tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
        }))
}
