//! TLS 1.3 with client certificates of this machine's authority and nothing else.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::CertificateDer,
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};

use crate::{
    authority::{Authority, AuthorityError, fingerprint},
    hex,
    roles::Role,
};

/// What a verified client certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presented {
    /// Serial number in hexadecimal.
    pub serial: String,
    /// SHA-256 of the certificate in hexadecimal.
    pub fingerprint: String,
    /// Whose it is.
    pub name: String,
    /// What it claims.
    pub role: Role,
    /// When it ends, milliseconds since the epoch.
    pub not_after_ms: u64,
}

/// A certificate that is well signed, but not one that this machine gives to clients.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the client's certificate is not acceptable: {0}")]
pub struct NotAcceptable(&'static str);

impl Presented {
    /// Reads a certificate strictly: exactly one name, exactly one role, client authentication and
    /// no other usage, no authority.
    ///
    /// # Errors
    /// Says which of these it lacks.
    pub fn read(der: &CertificateDer<'_>) -> Result<Self, NotAcceptable> {
        let (rest, certificate) = x509_parser::parse_x509_certificate(der)
            .map_err(|_| NotAcceptable("it cannot be read"))?;
        if !rest.is_empty() {
            return Err(NotAcceptable("something follows it"));
        }
        if certificate.is_ca() {
            return Err(NotAcceptable("it is an authority"));
        }
        let usage = certificate
            .extended_key_usage()
            .map_err(|_| NotAcceptable("its usage cannot be read"))?
            .ok_or(NotAcceptable("it has no extended key usage"))?
            .value;
        let other = usage.any
            || usage.server_auth
            || usage.code_signing
            || usage.email_protection
            || usage.time_stamping
            || usage.ocsp_signing
            || !usage.other.is_empty();
        if !usage.client_auth || other {
            return Err(NotAcceptable(
                "its usage is not exactly client authentication",
            ));
        }
        let subject = certificate.subject();
        let name = only(subject.iter_common_name()).ok_or(NotAcceptable("it has not one name"))?;
        let role = only(subject.iter_organization())
            .ok_or(NotAcceptable("it has not one role"))?
            .parse()
            .map_err(|_| NotAcceptable("its role is not known"))?;
        let not_after = certificate.validity().not_after.timestamp();
        Ok(Self {
            serial: hex(certificate.raw_serial()),
            fingerprint: fingerprint(der),
            name: name.to_owned(),
            role,
            not_after_ms: u64::try_from(not_after).unwrap_or(0).saturating_mul(1000),
        })
    }
}

fn only<'a>(
    mut values: impl Iterator<Item = &'a x509_parser::x509::AttributeTypeAndValue<'a>>,
) -> Option<&'a str> {
    let value = values.next()?.as_str().ok()?;
    values.next().is_none().then_some(value)
}

/// The server's current certificate, which is replaced while connections come in.
#[derive(Debug)]
pub(crate) struct Rotating(RwLock<Arc<CertifiedKey>>);

impl Rotating {
    pub(crate) fn new(first: Arc<CertifiedKey>) -> Arc<Self> {
        Arc::new(Self(RwLock::new(first)))
    }

    pub(crate) fn replace(&self, next: Arc<CertifiedKey>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = next;
    }

    fn current(&self) -> Arc<CertifiedKey> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl ResolvesServerCert for Rotating {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

/// The configuration of port 9090.
pub(crate) fn server_config(
    authority: &Authority,
    certificate: Arc<Rotating>,
) -> Result<ServerConfig, AuthorityError> {
    let sign = |error: &dyn std::fmt::Display| AuthorityError::Sign(error.to_string());
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots
        .add(authority.der().clone())
        .map_err(|error| sign(&error))?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|error| sign(&error))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| sign(&error))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec()];
    // Every connection proves its certificate anew: no tickets, no resumption, no early data.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}
