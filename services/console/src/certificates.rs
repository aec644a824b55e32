//! The server-side table of client certificates. A certificate that is not in it, or is revoked,
//! counts for nothing, however well it is signed; so roles can be taken away at once.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{durable, roles::Role, tls::Presented};

/// Certificates that the table holds at most; expired ones make room first.
pub const MAX_RECORDS: usize = 10_000;

/// Why the table cannot be used, or cannot change as asked.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The file.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It does not hold a table.
    #[error(
        "{}: not a table of certificates ({problem}): restore it from a backup, or remove it, which \
         makes every certificate issued so far invalid",
        path.display()
    )]
    Broken {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// There is no such certificate.
    #[error("no certificate has the serial {0}; `aios cert list` shows them")]
    Unknown(String),
    /// It is full of certificates that are still valid.
    #[error("there are {MAX_RECORDS} valid certificates already; revoke some first")]
    Full,
}

/// What the machine knows of a certificate that it issued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Serial number in hexadecimal.
    pub serial: String,
    /// SHA-256 of the certificate in hexadecimal.
    pub fingerprint: String,
    /// Whose it is.
    pub name: String,
    /// What it allows.
    pub role: String,
    /// When it was issued, milliseconds since the epoch.
    pub issued_ms: u64,
    /// When it ends, milliseconds since the epoch.
    pub not_after_ms: u64,
    /// Who had it issued.
    pub issued_by: String,
    /// Set when it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Revocation>,
}

/// Why a certificate no longer counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revocation {
    /// When, milliseconds since the epoch.
    pub time_ms: u64,
    /// By whom.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// Why a certificate that is well signed still does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// This machine's table does not have it.
    #[error("this machine's table does not have the certificate")]
    Unknown,
    /// The table has another certificate, name or role under that serial.
    #[error("the certificate differs from what this machine's table says of it")]
    Mismatch,
    /// It was revoked.
    #[error("the certificate was revoked")]
    Revoked,
    /// Its time is over.
    #[error("the certificate has expired")]
    Expired,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    certificates: Vec<Record>,
}

/// The table.
#[derive(Debug)]
pub struct Certificates {
    path: PathBuf,
    records: Mutex<BTreeMap<String, Record>>,
    changed: watch::Sender<u64>,
}

impl Certificates {
    /// Reads the table; an absent file is an empty one.
    ///
    /// # Errors
    /// When the file cannot be read or does not hold a table.
    pub fn open(path: &Path) -> Result<Self, TableError> {
        let file = match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| TableError::Broken {
                path: path.to_owned(),
                problem: error.to_string(),
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => File::default(),
            Err(source) => {
                return Err(TableError::File {
                    path: path.to_owned(),
                    source,
                });
            }
        };
        let records = file
            .certificates
            .into_iter()
            .map(|record| (record.serial.clone(), record))
            .collect();
        Ok(Self {
            path: path.to_owned(),
            records: Mutex::new(records),
            changed: watch::channel(0).0,
        })
    }

    /// Wakes whenever a certificate may have stopped to count.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The role of a certificate whose signature was verified: what it says and the table confirms.
    ///
    /// # Errors
    /// [`Rejection`] when the table does not confirm it.
    pub fn role_of(&self, presented: &Presented, now_ms: u64) -> Result<Role, Rejection> {
        let records = self.lock();
        let record = records.get(&presented.serial).ok_or(Rejection::Unknown)?;
        if record.revoked.is_some() {
            return Err(Rejection::Revoked);
        }
        if record.fingerprint != presented.fingerprint
            || record.name != presented.name
            || record.role != presented.role.name()
        {
            return Err(Rejection::Mismatch);
        }
        if now_ms >= record.not_after_ms.min(presented.not_after_ms) {
            return Err(Rejection::Expired);
        }
        Ok(presented.role)
    }

    /// Adds a certificate. It must not be handed out before this returned.
    ///
    /// # Errors
    /// When the table cannot be written, or is full.
    pub fn add(&self, record: Record, now_ms: u64) -> Result<(), TableError> {
        let mut records = self.lock();
        let mut next = records.clone();
        if next.len() >= MAX_RECORDS {
            next.retain(|_, record| record.not_after_ms > now_ms);
        }
        if next.len() >= MAX_RECORDS {
            return Err(TableError::Full);
        }
        next.insert(record.serial.clone(), record);
        self.write(&next)?;
        *records = next;
        Ok(())
    }

    /// Revokes a certificate; that it was revoked already is no error.
    ///
    /// # Errors
    /// When there is none with that serial, or the table cannot be written.
    pub fn revoke(&self, serial: &str, revocation: Revocation) -> Result<(), TableError> {
        let mut records = self.lock();
        let mut next = records.clone();
        let record = next
            .get_mut(serial)
            .ok_or_else(|| TableError::Unknown(serial.to_owned()))?;
        if record.revoked.is_some() {
            return Ok(());
        }
        record.revoked = Some(revocation);
        self.write(&next)?;
        *records = next;
        drop(records);
        self.changed.send_modify(|version| *version += 1);
        Ok(())
    }

    /// Every certificate, the newest first.
    #[must_use]
    pub fn list(&self) -> Vec<Record> {
        let mut list: Vec<_> = self.lock().values().cloned().collect();
        list.sort_by(|a, b| b.issued_ms.cmp(&a.issued_ms).then(a.serial.cmp(&b.serial)));
        list
    }

    /// The lock is held across the write, so that the file and the memory never differ in order.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, records: &BTreeMap<String, Record>) -> Result<(), TableError> {
        let file = |source| TableError::File {
            path: self.path.clone(),
            source,
        };
        let content = File {
            certificates: records.values().cloned().collect(),
        };
        let bytes = serde_json::to_vec_pretty(&content).map_err(|error| file(error.into()))?;
        durable::replace(&self.path, &bytes, 0o600).map_err(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            serial: "ab".into(),
            fingerprint: "cd".into(),
            name: "alice".into(),
            role: "operator".into(),
            issued_ms: 1,
            not_after_ms: 1000,
            issued_by: "local:root".into(),
            revoked: None,
        }
    }

    fn presented() -> Presented {
        Presented {
            serial: "ab".into(),
            fingerprint: "cd".into(),
            name: "alice".into(),
            role: Role::Operator,
            not_after_ms: 1000,
        }
    }

    #[test]
    fn only_what_the_table_confirms_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("certificates.json");
        let table = Certificates::open(&path).unwrap();
        assert_eq!(table.role_of(&presented(), 5), Err(Rejection::Unknown));
        table.add(record(), 5).unwrap();
        assert_eq!(table.role_of(&presented(), 5), Ok(Role::Operator));
        assert_eq!(table.role_of(&presented(), 1000), Err(Rejection::Expired));
        let mut other = presented();
        other.role = Role::Admin;
        assert_eq!(table.role_of(&other, 5), Err(Rejection::Mismatch));
        let mut other = presented();
        other.fingerprint = "ce".into();
        assert_eq!(table.role_of(&other, 5), Err(Rejection::Mismatch));
        let mut other = presented();
        other.name = "bob".into();
        assert_eq!(table.role_of(&other, 5), Err(Rejection::Mismatch));
    }

    #[test]
    fn a_revocation_survives_a_restart_and_wakes_the_watchers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("certificates.json");
        let table = Certificates::open(&path).unwrap();
        table.add(record(), 5).unwrap();
        let changes = table.changes();
        let revocation = Revocation {
            time_ms: 7,
            by: "local:root".into(),
            reason: "lost".into(),
        };
        table.revoke("ab", revocation.clone()).unwrap();
        assert!(changes.has_changed().unwrap());
        let again = Certificates::open(&path).unwrap();
        assert_eq!(again.role_of(&presented(), 5), Err(Rejection::Revoked));
        assert_eq!(again.list()[0].revoked, Some(revocation.clone()));
        assert!(matches!(
            again.revoke("ff", revocation),
            Err(TableError::Unknown(_))
        ));
    }

    #[test]
    fn a_broken_table_is_said_and_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("certificates.json");
        fs::write(&path, "{\"certificates\": [").unwrap();
        let error = Certificates::open(&path).unwrap_err().to_string();
        assert!(error.contains("restore it"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"certificates\": [");
    }
}
