//! Calling daemons as somebody else. Credentials are a matter of the thread on Linux, and a socket
//! has those of the thread that connected it: a thread of its own takes a uid, calls, and ends.

use std::path::Path;

use aios_proto::v1::Empty;
use anyhow::{Context as _, anyhow};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use rustix::process::{Gid, Uid};
use tonic::{Code, Request, codegen::http::uri::PathAndQuery};

/// A method of the protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Method {
    /// Short name of its service, e.g. `Tools`.
    pub service: String,
    /// Its name.
    pub name: String,
    /// Its path, `/aios.v1.Tools/Execute`.
    pub path: String,
    /// Whether the caller sends a stream.
    pub client_streaming: bool,
}

/// Every method of the protocol.
///
/// # Errors
/// When the descriptors cannot be read.
pub fn methods() -> anyhow::Result<Vec<Method>> {
    let set = FileDescriptorSet::decode(aios_proto::FILE_DESCRIPTOR_SET)?;
    let mut found = Vec::new();
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                found.push(Method {
                    service: service.name().to_owned(),
                    name: method.name().to_owned(),
                    path: format!("/{}.{}/{}", file.package(), service.name(), method.name()),
                    client_streaming: method.client_streaming(),
                });
            }
        }
    }
    Ok(found)
}

async fn call(socket: &Path, path: &str) -> anyhow::Result<Code> {
    let mut client = tonic::client::Grpc::new(aios_kit::client::channel(socket));
    client
        .ready()
        .await
        .map_err(|error| anyhow!("not ready: {error}"))?;
    let path: PathAndQuery = path.parse()?;
    let codec = tonic_prost::ProstCodec::<Empty, Empty>::default();
    match client.unary(Request::new(Empty {}), path, codec).await {
        Ok(_) => Ok(Code::Ok),
        Err(status) => Ok(status.code()),
    }
}

/// Calls methods on a socket with an empty message, as another user without any privilege, and
/// returns the status of each.
///
/// # Errors
/// When the user cannot be taken on or the socket does not answer.
pub fn as_uid(uid: u32, socket: &Path, paths: &[String]) -> anyhow::Result<Vec<Code>> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            rustix::thread::set_thread_groups(&[])?;
            let (gid, id) = (Gid::from_raw(uid), Uid::from_raw(uid));
            rustix::thread::set_thread_res_gid(gid, gid, gid)?;
            rustix::thread::set_thread_res_uid(id, id, id)?;
            // A runtime of this thread alone: no other thread has these credentials.
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                let mut codes = Vec::new();
                for path in paths {
                    let limit = std::time::Duration::from_secs(10);
                    let code = tokio::time::timeout(limit, call(socket, path))
                        .await
                        .with_context(|| format!("{path} did not answer"))??;
                    codes.push(code);
                }
                Ok(codes)
            })
        });
        thread
            .join()
            .map_err(|_| anyhow!("the thread of uid {uid} panicked"))?
    })
}
