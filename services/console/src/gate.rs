//! What every request passes through, local or remote: identity, rate, table, ledger, daemon.

use std::{
    convert::Infallible,
    sync::{Arc, OnceLock},
};

use aios_kit::{Category, Error};
use aios_proto::v1::{CheckCallRequest, ExecuteRequest, management_server::ManagementServer};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use tonic::{Status, body::Body};
use tower::Service as _;

use crate::{
    certificates::Certificates,
    frames, hex,
    journal::{Entry, Journal, Outcome},
    limits::Limits,
    management::ManagementService,
    peer::{Caller, Peer},
    proxy::{Backends, outbound},
    roles::{self, Backend, Effect, Rewrite, Rule},
};

/// The one way in.
pub(crate) struct Gate {
    pub(crate) certificates: Arc<Certificates>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) journal: Journal,
    pub(crate) backends: Backends,
    pub(crate) management: ManagementServer<ManagementService>,
}

impl Gate {
    /// Answers a request; a failure is an answer too.
    pub(crate) async fn answer(
        &self,
        peer: &Peer,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Infallible> {
        let answer = match self.admit(peer, request.uri().path()).await {
            Ok((caller, rule)) => self.carry_out(&caller, rule, request).await,
            Err(status) => Err(status),
        };
        Ok(answer.unwrap_or_else(Status::into_http))
    }

    /// Who calls, and by which rule. A refusal is recorded before it is answered.
    async fn admit(&self, peer: &Peer, path: &str) -> Result<(Caller, &'static Rule), Status> {
        if !self.limits.request(&peer.principal()) {
            return Err(Error::new(
                Category::RateLimit,
                format!("{} makes too many requests", peer.principal()),
            )
            .hint("wait a second and ask less often")
            .into());
        }
        let rule = roles::find(path);
        let refused = match (peer.caller(&self.certificates), rule) {
            (Ok(caller), Some(rule)) if caller.role >= rule.role => return Ok((caller, rule)),
            (Ok(caller), Some(rule)) => (
                Some(caller.role),
                format!(
                    "{} needs the role {}; {} is {}",
                    rule.method, rule.role, caller.principal, caller.role
                ),
            ),
            (Ok(caller), None) => (
                Some(caller.role),
                "no such method can be called through the console".to_owned(),
            ),
            (Err(reason), _) => (None, reason),
        };
        let (role, reason) = refused;
        tracing::warn!(
            principal = peer.principal(),
            peer = peer.address(),
            path,
            reason,
            "refused"
        );
        self.journal
            .refusal(Entry {
                outcome: Outcome::Refused,
                principal: peer.principal(),
                role: role.map_or_else(String::new, |role| role.name().to_owned()),
                // What a caller made up is shortened and made printable before it is written down.
                method: rule.map_or_else(
                    || path.escape_debug().take(120).collect(),
                    |rule| rule.method.to_owned(),
                ),
                peer: peer.address(),
                fingerprint: peer.fingerprint().to_owned(),
                reason: reason.clone(),
                request_sha256: String::new(),
            })
            .await;
        Err(Error::new(Category::Auth, reason)
            .hint("`aios whoami` shows who you are; an administrator can issue a certificate with another role")
            .into())
    }

    async fn carry_out(
        &self,
        caller: &Caller,
        rule: &'static Rule,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Status> {
        let mut entry = Entry {
            outcome: Outcome::Allowed,
            principal: caller.principal.clone(),
            role: caller.role.name().to_owned(),
            method: rule.method.to_owned(),
            peer: caller.address.clone(),
            fingerprint: caller.fingerprint.clone(),
            reason: String::new(),
            request_sha256: String::new(),
        };
        let (parts, incoming) = request.into_parts();
        let whole = rule.effect == Effect::Changes || rule.rewrite != Rewrite::None;
        let (body, violation) = if whole {
            // What is recorded is what is passed on, so it is read to its end first.
            let message = rewrite(rule.rewrite, caller, frames::single(incoming).await?)?;
            entry.request_sha256 = hex(&Sha256::digest(&message));
            let body = Body::new(Full::new(frames::framed(&message)));
            (body, Arc::new(OnceLock::new()))
        } else {
            let (body, violation) = frames::Bounded::new(incoming);
            (Body::new(body), violation)
        };
        let mut request = outbound(rule, caller, &parts.headers, body)?;
        match rule.effect {
            Effect::Reads => self.journal.later(entry),
            Effect::Changes => {
                if let Err(error) = self.journal.change(&entry).await {
                    self.without_ledger(caller, rule, error)?;
                }
            }
        }
        let answer = if rule.backend == Backend::Console {
            request.extensions_mut().insert(caller.clone());
            let mut management = self.management.clone();
            match management.call(request).await {
                Ok(answer) => Ok(answer),
                Err(never) => match never {},
            }
        } else {
            self.backends.forward(rule, request).await
        };
        match violation.get() {
            Some(status) => Err(status.clone()),
            None => answer,
        }
    }

    /// The superuser at the machine itself can switch it off even when its ledger is broken: who is
    /// there could also pull the plug. Nothing else is done unrecorded.
    fn without_ledger(
        &self,
        caller: &Caller,
        rule: &'static Rule,
        error: Error,
    ) -> Result<(), Status> {
        let power = matches!(
            rule.method,
            "/aios.v1.Management/PowerOff" | "/aios.v1.Management/Reboot"
        );
        if power && caller.principal == "local:root" {
            tracing::error!(%error, method = rule.method, "done without a ledger record");
            return Ok(());
        }
        Err(error.into())
    }
}

/// Corrects what the fields of a message could claim beyond the caller's identity.
fn rewrite(rewrite: Rewrite, caller: &Caller, message: Bytes) -> Result<Bytes, Status> {
    let unreadable = |error: prost::DecodeError| {
        Status::invalid_argument(format!("unreadable message: {error}"))
    };
    match rewrite {
        Rewrite::None => Ok(message),
        Rewrite::CheckCall => {
            let mut check = CheckCallRequest::decode(message).map_err(unreadable)?;
            check.principal.clone_from(&caller.principal);
            check.role = caller.role.name().to_owned();
            check.goal_id.clear();
            Ok(check.encode_to_vec().into())
        }
        Rewrite::Execute => {
            let execute = ExecuteRequest::decode(message.clone()).map_err(unreadable)?;
            if execute.task_id.is_empty() {
                // Encoded anew, so that nothing is passed on that was not understood here.
                return Ok(execute.encode_to_vec().into());
            }
            Err(Error::new(
                Category::Auth,
                "a task can be carried out by its agent only",
            )
            .hint("leave task_id empty")
            .into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roles::Role;

    fn caller() -> Caller {
        Caller {
            principal: "cert:alice".into(),
            role: Role::Operator,
            fingerprint: String::new(),
            address: "local".into(),
        }
    }

    #[test]
    fn a_message_cannot_claim_another_identity() {
        let claimed = CheckCallRequest {
            tool: "fs.read".into(),
            args_json: "{}".into(),
            principal: "local:root".into(),
            role: "admin".into(),
            agent: "storage".into(),
            goal_id: "someone-elses".into(),
        };
        let sent = claimed.encode_to_vec().into();
        let passed = rewrite(Rewrite::CheckCall, &caller(), sent).unwrap();
        let passed = CheckCallRequest::decode(passed).unwrap();
        assert_eq!(passed.principal, "cert:alice");
        assert_eq!(passed.role, "operator");
        assert_eq!(passed.goal_id, "");
        assert_eq!(
            (passed.tool.as_str(), passed.agent.as_str()),
            ("fs.read", "storage")
        );
    }

    #[test]
    fn a_person_does_not_carry_out_an_agents_task() {
        let mut call = ExecuteRequest {
            tool: "fs.read".into(),
            task_id: "t1".into(),
            ..ExecuteRequest::default()
        };
        let error = rewrite(Rewrite::Execute, &caller(), call.encode_to_vec().into()).unwrap_err();
        assert_eq!(error.code(), tonic::Code::PermissionDenied);
        call.task_id.clear();
        assert!(rewrite(Rewrite::Execute, &caller(), call.encode_to_vec().into()).is_ok());
        let garbage = rewrite(Rewrite::Execute, &caller(), Bytes::from_static(&[0xff; 9]));
        assert_eq!(garbage.unwrap_err().code(), tonic::Code::InvalidArgument);
    }
}
