//! Passing a call on to the daemon that owns it, byte for byte, as the caller.
//!
//! The request that goes out is built from nothing: the path from the table, four headers from an
//! allow-list, and the caller's identity as the console established it. No other header of the
//! caller's reaches a daemon.

use std::{error::Error as _, path::PathBuf};

use aios_kit::{
    Category, Error, Paths,
    client::channel,
    identity::{ON_BEHALF_PRINCIPAL, ON_BEHALF_ROLE},
};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, Version,
    header::{CONTENT_TYPE, TE, USER_AGENT},
};
use tonic::{Status, body::Body, transport::Channel};
use tower::{Service as _, ServiceExt as _};

use crate::{
    peer::Caller,
    roles::{Backend, Rule},
};

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// The deadline of a call whose caller gave none: an hour.
const DEFAULT_TIMEOUT: HeaderValue = HeaderValue::from_static("3600S");
/// Longest user agent that is passed on.
const MAX_USER_AGENT_BYTES: usize = 128;

/// The daemons.
#[derive(Debug, Clone)]
pub(crate) struct Backends {
    orchestrator: Target,
    tools: Target,
    memory: Target,
    runtime: Target,
}

#[derive(Debug, Clone)]
struct Target {
    name: &'static str,
    socket: PathBuf,
    channel: Channel,
}

impl Backends {
    pub(crate) fn new(paths: &Paths) -> Self {
        let target = |backend: Backend| {
            let socket = paths.socket(backend.name());
            Target {
                name: backend.name(),
                channel: channel(&socket),
                socket,
            }
        };
        Self {
            orchestrator: target(Backend::Orchestrator),
            tools: target(Backend::Tools),
            memory: target(Backend::Memory),
            runtime: target(Backend::Runtime),
        }
    }

    /// A channel for the console's own calls.
    pub(crate) fn channel(&self, backend: Backend) -> Option<Channel> {
        self.target(backend).map(|target| target.channel.clone())
    }

    fn target(&self, backend: Backend) -> Option<&Target> {
        match backend {
            Backend::Console => None,
            Backend::Orchestrator => Some(&self.orchestrator),
            Backend::Tools => Some(&self.tools),
            Backend::Memory => Some(&self.memory),
            Backend::Runtime => Some(&self.runtime),
        }
    }

    /// Passes a call on and gives back what the daemon answers, as it answers it.
    pub(crate) async fn forward(
        &self,
        rule: &'static Rule,
        request: Request<Body>,
    ) -> Result<Response<Body>, Status> {
        let target = self
            .target(rule.backend)
            .ok_or_else(|| Status::internal("the console does not call itself"))?;
        let mut channel = target.channel.clone();
        let result = match channel.ready().await {
            Ok(ready) => ready.call(request).await,
            Err(error) => Err(error),
        };
        result.map_err(|error| unreachable(target, &error))
    }
}

/// The request as it goes out.
pub(crate) fn outbound(
    rule: &'static Rule,
    caller: &Caller,
    inbound: &HeaderMap,
    body: Body,
) -> Result<Request<Body>, Status> {
    let value = |text: &str| {
        HeaderValue::from_str(text)
            .map_err(|_| Status::internal("the caller's identity is no header value"))
    };
    let content_type = inbound
        .get(CONTENT_TYPE)
        .filter(|value| value.as_bytes().starts_with(b"application/grpc"))
        .ok_or_else(|| Status::invalid_argument("this port speaks gRPC only"))?;
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = Uri::from_static(rule.method);
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, content_type.clone());
    headers.insert(TE, HeaderValue::from_static("trailers"));
    let deadline = match inbound.get(GRPC_TIMEOUT) {
        Some(value) if is_timeout(value.as_bytes()) => value.clone(),
        Some(_) => return Err(Status::invalid_argument("grpc-timeout is not a duration")),
        None => DEFAULT_TIMEOUT,
    };
    headers.insert(GRPC_TIMEOUT, deadline);
    if let Some(agent) = inbound
        .get(USER_AGENT)
        .filter(|agent| agent.len() <= MAX_USER_AGENT_BYTES)
    {
        headers.insert(USER_AGENT, agent.clone());
    }
    headers.insert(ON_BEHALF_PRINCIPAL, value(&caller.principal)?);
    headers.insert(ON_BEHALF_ROLE, value(caller.role.name())?);
    Ok(request)
}

/// One to eight digits and a unit.
fn is_timeout(text: &[u8]) -> bool {
    matches!(text.split_last(), Some((unit, digits))
        if b"HMSmun".contains(unit)
            && (1..=8).contains(&digits.len())
            && digits.iter().all(u8::is_ascii_digit))
}

fn unreachable(target: &Target, error: &tonic::transport::Error) -> Status {
    let mut source = error.source();
    let mut cause = error.to_string();
    while let Some(inner) = source {
        if inner.is::<tonic::TimeoutExpired>() {
            return Error::new(
                Category::Timeout,
                format!("aios-{} did not answer within the deadline", target.name),
            )
            .into();
        }
        cause = inner.to_string();
        source = inner.source();
    }
    Error::new(
        Category::Network,
        format!(
            "aios-{} does not answer on {}: {cause}",
            target.name,
            target.socket.display()
        ),
    )
    .hint(format!(
        "PID 1 restarts it; `aios service list` and `aios logs aios-{}` show why it is down",
        target.name
    ))
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roles::{self, Role};

    fn caller() -> Caller {
        Caller {
            principal: "cert:alice".into(),
            role: Role::Reader,
            fingerprint: "ab".into(),
            address: "local".into(),
        }
    }

    #[test]
    fn only_the_allow_list_and_the_true_identity_go_out() {
        let rule = roles::find("/aios.v1.Orchestrator/GetGoal").unwrap();
        let mut inbound = HeaderMap::new();
        for (name, value) in [
            ("content-type", "application/grpc+proto"),
            ("aios-principal", "local:root"),
            ("aios-role", "admin"),
            ("aios-role-bin", "YWRtaW4"),
            ("authorization", "Bearer x"),
            ("x-forwarded-for", "127.0.0.1"),
            ("grpc-encoding", "gzip"),
            ("cookie", "a=b"),
            ("user-agent", "test"),
        ] {
            inbound.append(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        inbound.append("aios-role", HeaderValue::from_static("operator"));
        let request = outbound(rule, &caller(), &inbound, Body::empty()).unwrap();
        let mut names: Vec<_> = request.headers().keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "aios-principal",
                "aios-role",
                "content-type",
                "grpc-timeout",
                "te",
                "user-agent"
            ]
        );
        let all = |name: &str| request.headers().get_all(name).iter().collect::<Vec<_>>();
        assert_eq!(all("aios-principal"), ["cert:alice"]);
        assert_eq!(all("aios-role"), ["reader"]);
        assert_eq!(request.uri().path(), rule.method);
    }

    #[test]
    fn deadlines_are_durations_and_bodies_are_grpc() {
        let rule = roles::find("/aios.v1.Orchestrator/GetGoal").unwrap();
        let with = |content: &'static str, timeout: &'static str| {
            let mut inbound = HeaderMap::new();
            inbound.insert(CONTENT_TYPE, HeaderValue::from_static(content));
            inbound.insert(GRPC_TIMEOUT, HeaderValue::from_static(timeout));
            outbound(rule, &caller(), &inbound, Body::empty()).is_ok()
        };
        assert!(with("application/grpc", "5S"));
        for wrong in ["", "S", "5", "123456789S", "5x", "-5S", "5 S"] {
            assert!(!with("application/grpc", wrong), "{wrong:?}");
        }
        assert!(!with("text/html", "5S"));
    }
}
