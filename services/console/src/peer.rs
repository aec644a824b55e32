//! The other end of a connection: who it is, established before the first byte of a request.

use std::{net::SocketAddr, sync::Arc};

use aios_kit::{Identities, Principal};

use crate::{
    certificates::{Certificates, Rejection},
    now_ms,
    roles::Role,
    tls::Presented,
};

/// One end of a connection. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) enum Peer {
    /// A process of this machine, as the kernel says.
    Local {
        principal: Arc<str>,
        role: Option<Role>,
    },
    /// The holder of a verified certificate.
    Remote {
        presented: Arc<Presented>,
        address: SocketAddr,
    },
}

/// A caller whose identity is established for one request.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// As in the ledger: `cert:NAME`, `local:root`, `local:NAME`.
    pub(crate) principal: String,
    pub(crate) role: Role,
    /// SHA-256 of the certificate; empty for local callers.
    pub(crate) fingerprint: String,
    /// Where from: an address, or `local`.
    pub(crate) address: String,
}

impl Peer {
    /// The process at the other end of the local socket. The superuser is an administrator, the
    /// accounts under `[operators]` are operators, anyone else has no role.
    pub(crate) fn local(identities: &Identities, uid: u32) -> Self {
        let (principal, role) = match identities.principal(uid) {
            Principal::Root => ("local:root".to_owned(), Some(Role::Admin)),
            Principal::User(uid) => match identities.operator(uid) {
                Some(name) => (format!("local:{name}"), Some(Role::Operator)),
                None => (format!("local:{uid}"), None),
            },
            other => (other.to_string(), None),
        };
        Self::Local {
            principal: principal.into(),
            role,
        }
    }

    pub(crate) fn principal(&self) -> String {
        match self {
            Self::Local { principal, .. } => principal.to_string(),
            Self::Remote { presented, .. } => format!("cert:{}", presented.name),
        }
    }

    pub(crate) fn fingerprint(&self) -> &str {
        match self {
            Self::Local { .. } => "",
            Self::Remote { presented, .. } => &presented.fingerprint,
        }
    }

    pub(crate) fn address(&self) -> String {
        match self {
            Self::Local { .. } => "local".to_owned(),
            Self::Remote { address, .. } => address.ip().to_canonical().to_string(),
        }
    }

    /// What the peer may do at this moment. Asked for every request, so that a revocation or an
    /// expiry ends a connection that is already open.
    pub(crate) fn caller(&self, certificates: &Certificates) -> Result<Caller, String> {
        let role = match self {
            Self::Local { role, principal } => role.ok_or_else(|| {
                format!("{principal} is neither the superuser nor an operator of this machine")
            })?,
            Self::Remote { presented, .. } => certificates
                .role_of(presented, now_ms())
                .map_err(|rejection: Rejection| rejection.to_string())?,
        };
        Ok(Caller {
            principal: self.principal(),
            role,
            fingerprint: self.fingerprint().to_owned(),
            address: self.address(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_roles_come_from_the_kernel_and_the_table() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identities.toml");
        std::fs::write(
            &path,
            "[daemons]\nconsole = 905\n[agents]\nnetwork = 912\n[operators]\noperator = 1000\n",
        )
        .unwrap();
        let identities = Identities::load(&path).unwrap();
        let certificates = Certificates::open(&dir.path().join("none.json")).unwrap();
        let role = |uid| {
            let caller = Peer::local(&identities, uid).caller(&certificates);
            caller.map(|caller| (caller.principal, caller.role)).ok()
        };
        assert_eq!(role(0), Some(("local:root".into(), Role::Admin)));
        assert_eq!(role(1000), Some(("local:operator".into(), Role::Operator)));
        for uid in [905, 912, 1001, u32::MAX] {
            assert_eq!(role(uid), None, "{uid}");
        }
    }
}
