//! The node's own certificate authority: made at first boot, used for nothing but this machine.
//!
//! A certificate is built from a fixed template; of a signing request only the public key is used,
//! so that whoever asks cannot give itself a name, a role, a usage or a life-time. The authority's
//! key is on disk before its certificate exists, and never leaves its directory.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SerialNumber,
    date_time_ymd,
};
use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;

use crate::{SERVER_NAME, durable, hex, roles::Role};

/// How long a server certificate is valid. It is replaced after half of it.
pub const SERVER_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// How far back validity begins, for clocks that do not quite agree.
const BACKDATE: Duration = Duration::from_secs(24 * 3600);
/// Longest signing request that is looked at, in bytes.
const MAX_CSR_BYTES: usize = 16 << 10;
/// Longest name of a client.
const MAX_NAME_BYTES: usize = 64;

/// Why the authority cannot be used, or will not sign.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file of the authority.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The certificate is there and its key is not.
    #[error(
        "{} is missing, but its certificate exists: restore the key from a backup, or remove the \
         directory to make a new authority (every client has to be enrolled again)",
        .0.display()
    )]
    KeyLost(PathBuf),
    /// What a file holds is not what it should be.
    #[error("{}: {problem}", path.display())]
    Broken {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The request for a certificate is wrong.
    #[error("{0}")]
    Request(String),
    /// A certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Sign(String),
}

impl From<rcgen::Error> for AuthorityError {
    fn from(error: rcgen::Error) -> Self {
        Self::Sign(error.to_string())
    }
}

/// A client certificate that was just signed.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The certificate.
    pub pem: String,
    /// Its serial number in hexadecimal.
    pub serial: String,
    /// SHA-256 of the certificate in hexadecimal.
    pub fingerprint: String,
    /// Begin of validity, milliseconds since the epoch.
    pub not_before_ms: u64,
    /// End of validity, milliseconds since the epoch.
    pub not_after_ms: u64,
}

/// The authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: CertificateDer<'static>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("fingerprint", &self.fingerprint())
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// Opens the authority in `dir`, making it if there is none.
    ///
    /// # Errors
    /// When a file cannot be read or written, is broken, or the key is lost.
    pub fn open(dir: &Path) -> Result<Self, AuthorityError> {
        let key_path = dir.join("authority.key");
        let pem_path = dir.join("authority.pem");
        let file = |path: &Path| {
            let path = path.to_owned();
            move |source| AuthorityError::File { path, source }
        };
        durable::directory(dir, 0o700).map_err(file(dir))?;
        let key = match read(&key_path).map_err(file(&key_path))? {
            Some(pem) => KeyPair::from_pem(&pem).map_err(|error| AuthorityError::Broken {
                path: key_path.clone(),
                problem: format!("not a private key: {error}"),
            })?,
            None if pem_path.exists() => return Err(AuthorityError::KeyLost(key_path)),
            None => {
                let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
                durable::replace(&key_path, key.serialize_pem().as_bytes(), 0o600)
                    .map_err(file(&key_path))?;
                key
            }
        };
        // A crash between key and certificate leaves a key that has signed nothing yet.
        let pem = match read(&pem_path).map_err(file(&pem_path))? {
            Some(pem) => pem,
            None => {
                let pem = certificate_of_authority(&key)?;
                durable::replace(&pem_path, pem.as_bytes(), 0o644).map_err(file(&pem_path))?;
                pem
            }
        };
        let broken = |problem: String| AuthorityError::Broken {
            path: pem_path.clone(),
            problem,
        };
        let der = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| broken(format!("not a certificate: {error}")))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&der)
            .map_err(|error| broken(format!("not a certificate: {error}")))?;
        if parsed.public_key().raw != rcgen::PublicKeyData::subject_public_key_info(&key) {
            return Err(broken(format!(
                "is not the certificate of {}",
                key_path.display()
            )));
        }
        let issuer = Issuer::from_ca_cert_der(&der, key)?;
        Ok(Self { issuer, pem, der })
    }

    /// The authority's certificate.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The authority's certificate in binary form.
    #[must_use]
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// SHA-256 of the certificate, in hexadecimal.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.der)
    }

    /// A fresh key and certificate for the server. The key is nowhere but in memory.
    ///
    /// # Errors
    /// When the key or the certificate cannot be made.
    pub fn issue_server(
        &self,
        hostname: &str,
        now: OffsetDateTime,
    ) -> Result<Arc<CertifiedKey>, AuthorityError> {
        let mut names = vec![SERVER_NAME.to_owned()];
        if is_host_name(hostname) && hostname != SERVER_NAME {
            names.push(hostname.to_owned());
        }
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = distinguished_name(SERVER_NAME, None);
        params.not_before = now - BACKDATE;
        params.not_after = now + SERVER_LIFETIME;
        params.serial_number = Some(SerialNumber::from_slice(&random_serial()?));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let private = PrivateKeyDer::try_from(key.serialize_der())
            .map_err(|error| AuthorityError::Sign(error.to_owned()))?;
        let signing = rustls::crypto::ring::sign::any_supported_type(&private)
            .map_err(|error| AuthorityError::Sign(error.to_string()))?;
        Ok(Arc::new(CertifiedKey::new(
            vec![certificate.der().clone()],
            signing,
        )))
    }

    /// A client certificate for the public key in a signing request. Name, role and life-time are
    /// what the caller of this function says; nothing else in the request is used.
    ///
    /// # Errors
    /// When the request is not one, its signature is wrong, or the name is not acceptable.
    pub fn issue_client(
        &self,
        csr_pem: &str,
        name: &str,
        role: Role,
        days: u32,
        now: OffsetDateTime,
    ) -> Result<Issued, AuthorityError> {
        check_name(name)?;
        if csr_pem.len() > MAX_CSR_BYTES {
            return Err(AuthorityError::Request(format!(
                "the signing request has {} bytes; at most {MAX_CSR_BYTES} are read",
                csr_pem.len()
            )));
        }
        // `from_pem` also verifies that the asker holds the private key.
        let request = CertificateSigningRequestParams::from_pem(csr_pem).map_err(|error| {
            AuthorityError::Request(format!("the signing request is not acceptable: {error}"))
        })?;
        let serial = random_serial()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished_name(name, Some(role));
        params.not_before = now - BACKDATE;
        params.not_after = now + Duration::from_secs(u64::from(days.max(1)) * 24 * 3600);
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&request.public_key, &self.issuer)?;
        Ok(Issued {
            pem: certificate.pem(),
            serial: hex(&serial),
            fingerprint: fingerprint(certificate.der()),
            not_before_ms: unix_ms(params.not_before),
            not_after_ms: unix_ms(params.not_after),
        })
    }
}

/// SHA-256 of a certificate, in hexadecimal.
#[must_use]
pub fn fingerprint(der: &CertificateDer<'_>) -> String {
    hex(&Sha256::digest(der))
}

fn unix_ms(time: OffsetDateTime) -> u64 {
    u64::try_from(time.unix_timestamp()).unwrap_or(0) * 1000
}

fn read(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn certificate_of_authority(key: &KeyPair) -> Result<String, AuthorityError> {
    let mut params = CertificateParams::default();
    // The name holds part of the key, so that the authorities of two machines differ in it.
    let digest = Sha256::digest(rcgen::PublicKeyData::subject_public_key_info(key));
    let id = digest.get(..4).map(hex).unwrap_or_default();
    params.distinguished_name = distinguished_name(&format!("aiOS node {id}"), None);
    // Fixed dates: the clock may be wrong at the first boot. 9999-12-31 is RFC 5280's way of saying
    // that there is no end; the authority ends when its machine's state is wiped.
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(9999, 12, 31);
    params.serial_number = Some(SerialNumber::from_slice(&random_serial()?));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params.self_signed(key)?.pem())
}

fn distinguished_name(common_name: &str, role: Option<Role>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    if let Some(role) = role {
        name.push(DnType::OrganizationName, role.name());
    }
    name
}

/// 16 random bytes that are a positive number of exactly that length.
fn random_serial() -> Result<[u8; 16], AuthorityError> {
    let mut serial = [0_u8; 16];
    rustls::crypto::ring::default_provider()
        .secure_random
        .fill(&mut serial)
        .map_err(|_| AuthorityError::Sign("the system gives no random numbers".to_owned()))?;
    serial[0] = (serial[0] & 0x3f) | 0x40;
    Ok(serial)
}

/// Names appear in metadata, in the ledger and in file names, so they are plain.
fn check_name(name: &str) -> Result<(), AuthorityError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte);
    if name.is_empty()
        || name.len() > MAX_NAME_BYTES
        || !name.bytes().all(plain)
        || !name.starts_with(|first: char| first.is_ascii_alphanumeric())
    {
        return Err(AuthorityError::Request(format!(
            "`{}` is no name for a client: 1 to {MAX_NAME_BYTES} letters, digits and -_.@, beginning \
             with a letter or digit",
            name.escape_debug().take(80).collect::<String>()
        )));
    }
    Ok(())
}

fn is_host_name(name: &str) -> bool {
    name.len() <= 253
        && name.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn csr(mutate: impl FnOnce(&mut CertificateParams)) -> String {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        mutate(&mut params);
        params.serialize_request(&key).unwrap().pem().unwrap()
    }

    #[test]
    fn the_authority_is_made_once_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("console");
        let first = Authority::open(&dir).unwrap().fingerprint();
        assert_eq!(Authority::open(&dir).unwrap().fingerprint(), first);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&dir), 0o700);
        assert_eq!(mode(&dir.join("authority.key")), 0o600);
    }

    #[test]
    fn a_crash_after_the_key_is_no_loss_and_a_lost_key_is_said() {
        let dir = tempfile::tempdir().unwrap();
        Authority::open(dir.path()).unwrap();
        let key = fs::read(dir.path().join("authority.key")).unwrap();
        fs::remove_file(dir.path().join("authority.pem")).unwrap();
        Authority::open(dir.path()).unwrap();
        assert_eq!(fs::read(dir.path().join("authority.key")).unwrap(), key);
        fs::remove_file(dir.path().join("authority.key")).unwrap();
        let error = Authority::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("restore the key"), "{error}");
    }

    #[test]
    fn a_key_of_another_authority_is_noticed() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        Authority::open(one.path()).unwrap();
        Authority::open(two.path()).unwrap();
        fs::copy(
            two.path().join("authority.key"),
            one.path().join("authority.key"),
        )
        .unwrap();
        let error = Authority::open(one.path()).unwrap_err().to_string();
        assert!(error.contains("is not the certificate of"), "{error}");
    }

    #[test]
    fn nothing_of_a_request_but_its_key_is_used() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open(dir.path()).unwrap();
        let greedy = csr(|params| {
            params.distinguished_name = distinguished_name("root", Some(Role::Admin));
            params.subject_alt_names =
                vec![rcgen::SanType::DnsName(SERVER_NAME.try_into().unwrap())];
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
            params.extended_key_usages = vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ];
        });
        let now = OffsetDateTime::now_utc();
        let issued = authority
            .issue_client(&greedy, "eve", Role::Reader, 1, now)
            .unwrap();
        let der = CertificateDer::from_pem_slice(issued.pem.as_bytes()).unwrap();
        let presented = crate::tls::Presented::read(&der).unwrap();
        assert_eq!(
            (presented.name.as_str(), presented.role),
            ("eve", Role::Reader)
        );
        assert_eq!(presented.serial, issued.serial);
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).unwrap();
        assert!(parsed.subject_alternative_name().unwrap().is_none());
        assert!(!parsed.is_ca());
        assert!(!parsed.key_usage().unwrap().unwrap().value.key_cert_sign());
        assert_eq!(issued.not_after_ms, unix_ms(now) + 24 * 3600 * 1000);
    }

    #[test]
    fn a_request_with_a_broken_signature_or_a_strange_name_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open(dir.path()).unwrap();
        let now = OffsetDateTime::now_utc();
        let good = csr(|_| ());
        for name in ["", "a b", "a/b", "a\nb", "-a", "cert:a", &"x".repeat(65)] {
            assert!(
                authority
                    .issue_client(&good, name, Role::Reader, 1, now)
                    .is_err(),
                "{name:?}"
            );
        }
        let der = rustls::pki_types::CertificateSigningRequestDer::from_pem_slice(good.as_bytes())
            .unwrap()
            .to_vec();
        for position in [der.len() - 1, der.len() / 2] {
            let mut forged = der.clone();
            forged[position] ^= 1;
            use base64::Engine as _;
            let body = base64::engine::general_purpose::STANDARD.encode(&forged);
            let forged = format!(
                "-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n"
            );
            assert!(
                authority
                    .issue_client(&forged, "eve", Role::Reader, 1, now)
                    .is_err()
            );
        }
        assert!(
            authority
                .issue_client("garbage", "eve", Role::Reader, 1, now)
                .is_err()
        );
    }
}
