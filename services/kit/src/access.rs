//! Who may call which method of a daemon: one table per service, enforced in front of it.
//!
//! Invariants: a method without a row, an unknown method and a caller that the table does not name
//! are refused before any code of the service runs; the caller is the kernel's word
//! ([`Identities`]). A test of each daemon walks the protocol's descriptors over its table.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use tonic::{
    Status,
    body::Body,
    codegen::{BoxFuture, Service, http},
    transport::server::UdsConnectInfo,
};
use tower::Layer;

use crate::{
    error::{Category, Error},
    identity::{Identities, Principal},
};

/// A set of callers that a row of an [`AccessTable`] names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Party {
    /// The superuser, which is also what the tools daemon runs as.
    Root,
    /// One daemon by its short name.
    Daemon(&'static str),
    /// Every daemon that has an identity.
    AnyDaemon,
    /// Every agent.
    AnyAgent,
}

impl Party {
    fn includes(self, caller: &Principal) -> bool {
        match (self, caller) {
            (Self::Root, Principal::Root)
            | (Self::AnyDaemon, Principal::Daemon(_))
            | (Self::AnyAgent, Principal::Agent(_)) => true,
            (Self::Daemon(wanted), Principal::Daemon(name)) => wanted == name,
            _ => false,
        }
    }
}

/// Which parties may call which method of one service.
#[derive(Debug, Clone, Copy)]
pub struct AccessTable {
    /// Full name of the service, e.g. `aios.v1.Memory`.
    pub service: &'static str,
    /// Method name and who may call it.
    pub rows: &'static [(&'static str, &'static [Party])],
}

impl AccessTable {
    /// The row of a method, if it has one.
    #[must_use]
    pub fn row(&self, method: &str) -> Option<&'static [Party]> {
        self.rows
            .iter()
            .find(|(name, _)| *name == method)
            .map(|(_, parties)| *parties)
    }

    /// Whether `caller` may call the method at `path` (`/SERVICE/METHOD`).
    #[must_use]
    pub fn allows(&self, path: &str, caller: &Principal) -> bool {
        path.strip_prefix('/')
            .and_then(|path| path.strip_prefix(self.service))
            .and_then(|path| path.strip_prefix('/'))
            .and_then(|method| self.row(method))
            .is_some_and(|parties| parties.iter().any(|party| party.includes(caller)))
    }
}

/// Puts an [`AccessTable`] in front of a server. What passes carries its [`Principal`] in the
/// request's extensions.
#[derive(Debug, Clone)]
pub struct AccessLayer {
    table: AccessTable,
    identities: Arc<Identities>,
}

impl AccessLayer {
    /// Enforces `table` with the uids of `identities`.
    #[must_use]
    pub fn new(table: AccessTable, identities: Arc<Identities>) -> Self {
        Self { table, identities }
    }
}

impl<S> Layer<S> for AccessLayer {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded {
            inner,
            layer: self.clone(),
        }
    }
}

/// A server behind an [`AccessLayer`].
#[derive(Debug, Clone)]
pub struct Guarded<S> {
    inner: S,
    layer: AccessLayer,
}

impl<S, B> Service<http::Request<B>> for Guarded<S>
where
    S: Service<http::Request<B>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<S::Response, S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        let caller = request
            .extensions()
            .get::<UdsConnectInfo>()
            .and_then(|info| info.peer_cred)
            .map(|credentials| self.layer.identities.principal(credentials.uid()));
        let refusal = match caller {
            None => Status::unauthenticated("the caller of this socket is not known"),
            Some(caller) if self.layer.table.allows(request.uri().path(), &caller) => {
                request.extensions_mut().insert(caller);
                return Box::pin(self.inner.call(request));
            }
            Some(caller) => {
                let path = request.uri().path();
                tracing::warn!(%caller, path, "call refused");
                Error::new(Category::Auth, format!("{caller} may not call {path}")).into()
            }
        };
        Box::pin(std::future::ready(Ok(refusal.into_http())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: AccessTable = AccessTable {
        service: "aios.v1.Sample",
        rows: &[
            ("Write", &[Party::Daemon("orchestrator")]),
            ("Push", &[Party::AnyDaemon, Party::AnyAgent, Party::Root]),
            ("Closed", &[]),
        ],
    };

    #[test]
    fn only_named_parties_pass() {
        let orchestrator = Principal::Daemon("orchestrator".into());
        let console = Principal::Daemon("console".into());
        assert!(TABLE.allows("/aios.v1.Sample/Write", &orchestrator));
        assert!(!TABLE.allows("/aios.v1.Sample/Write", &console));
        assert!(!TABLE.allows("/aios.v1.Sample/Write", &Principal::Root));
        assert!(TABLE.allows("/aios.v1.Sample/Push", &console));
        assert!(TABLE.allows("/aios.v1.Sample/Push", &Principal::Agent("dev".into())));
        assert!(!TABLE.allows("/aios.v1.Sample/Push", &Principal::User(1000)));
    }

    #[test]
    fn what_has_no_row_is_refused() {
        let root = Principal::Root;
        for path in [
            "",
            "/",
            "Push",
            "/Push",
            "/aios.v1.Sample",
            "/aios.v1.Sample/",
            "/aios.v1.Sample/Closed",
            "/aios.v1.Sample/push",
            "/aios.v1.Sample/Push/",
            "//aios.v1.Sample/Push",
            "/aios.v1.SampleX/Push",
            "/aios.v1.Other/Push",
        ] {
            assert!(!TABLE.allows(path, &root), "{path}");
        }
    }
}
