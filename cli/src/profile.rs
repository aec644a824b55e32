//! Client profiles: a directory with an address, the machine's authority, and a client's own key.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::failure::Failure;

const FILE: &str = "profile.toml";

/// `profile.toml`. The file names are relative to its directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Profile {
    /// `HOST:PORT`
    pub(crate) endpoint: String,
    /// Name in the certificate.
    pub(crate) name: String,
    /// Role in the certificate; the machine decides, this is for the reader.
    #[serde(default)]
    pub(crate) role: String,
    /// The machine's authority, PEM. No other authority is trusted.
    pub(crate) ca: String,
    /// The client's certificate, PEM.
    pub(crate) certificate: String,
    /// The client's key, PEM.
    pub(crate) key: String,
}

/// What is needed to write a profile.
#[derive(Debug)]
pub(crate) struct NewProfile<'a> {
    pub(crate) endpoint: &'a str,
    pub(crate) name: &'a str,
    pub(crate) role: &'a str,
    pub(crate) authority_pem: &'a str,
    pub(crate) certificate_pem: &'a str,
    pub(crate) key_pem: &'a str,
}

impl Profile {
    /// Reads the profile in a directory.
    pub(crate) fn read(dir: &Path) -> Result<Self, Failure> {
        let path = dir.join(FILE);
        let text = fs::read_to_string(&path).map_err(|error| {
            Failure::file(&path, &error).hint(
                "a client profile is made by `aios enroll`, or by an administrator with `aios cert issue`",
            )
        })?;
        toml::from_str(&text).map_err(|error| {
            Failure::usage(format!("{}: {}", path.display(), error.message()))
                .hint("enrol again, or correct the file")
        })
    }
}

/// The directory in which profiles are found by name.
pub(crate) fn root() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    set("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| set("HOME").map(|home| PathBuf::from(home).join(".config")))
        .map(|config| config.join("aios").join("profiles"))
}

/// The directory that a path or a name stands for.
pub(crate) fn directory(path_or_name: &str) -> Result<PathBuf, Failure> {
    if path_or_name.contains('/') || Path::new(path_or_name).join(FILE).is_file() {
        return Ok(PathBuf::from(path_or_name));
    }
    if matches!(path_or_name, "" | "." | "..") {
        return Err(Failure::usage("the profile has no name"));
    }
    root()
        .map(|root| root.join(path_or_name))
        .ok_or_else(|| Failure::usage("HOME is not set, so a profile has to be given as a path"))
}

/// Writes a profile. A certificate takes the place of an older one in the same directory.
pub(crate) fn write(dir: &Path, new: &NewProfile<'_>) -> Result<(), Failure> {
    let profile = Profile {
        endpoint: new.endpoint.to_owned(),
        name: new.name.to_owned(),
        role: new.role.to_owned(),
        ca: "ca.pem".to_owned(),
        certificate: "certificate.pem".to_owned(),
        key: "key.pem".to_owned(),
    };
    let text = toml::to_string(&profile)
        .map_err(|error| Failure::failed(format!("cannot write a profile: {error}")))?;
    if let Some(parent) = dir.parent() {
        fs::create_dir_all(parent).map_err(|error| Failure::file(parent, &error))?;
    }
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(Failure::file(dir, &error));
        }
        _ => {}
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
        .map_err(|error| Failure::file(dir, &error))?;
    file(&dir.join(&profile.key), new.key_pem, 0o600)?;
    file(&dir.join(&profile.ca), new.authority_pem, 0o644)?;
    file(&dir.join(&profile.certificate), new.certificate_pem, 0o644)?;
    // Last, so that a profile that can be read is whole.
    file(&dir.join(FILE), &text, 0o644)
}

/// Replaces a file, which never has more permissions than it should, not even for a moment.
fn file(path: &Path, content: &str, mode: u32) -> Result<(), Failure> {
    let temporary = path.with_extension("new");
    let _ = fs::remove_file(&temporary);
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)
        .and_then(|mut file| {
            file.write_all(content.as_bytes())?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&temporary, path))
        .map_err(|error| Failure::file(path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_private_and_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("deep/profile");
        let new = NewProfile {
            endpoint: "127.0.0.1:9090",
            name: "alice",
            role: "admin",
            authority_pem: "A",
            certificate_pem: "C",
            key_pem: "K",
        };
        write(&dir, &new).unwrap();
        write(&dir, &new).unwrap();
        let profile = Profile::read(&dir).unwrap();
        assert_eq!(
            (profile.endpoint.as_str(), profile.name.as_str()),
            ("127.0.0.1:9090", "alice")
        );
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&dir), 0o700);
        assert_eq!(mode(&dir.join(&profile.key)), 0o600);
    }

    #[test]
    fn a_broken_profile_says_where() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), "endpoint = 3").unwrap();
        let error = Profile::read(dir.path()).unwrap_err().to_string();
        assert!(error.contains("profile.toml"), "{error}");
        let error = Profile::read(&dir.path().join("none")).unwrap_err();
        assert_eq!(error.exit, crate::failure::Exit::NotFound);
    }
}
