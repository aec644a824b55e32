//! The public keys that may log in as the operator over SSH.
//!
//! A key is one line of type, base64 and comment; options are not accepted, because they would be
//! instructions to sshd. The file is world-readable and written by the console alone; sshd gets it
//! through `AuthorizedKeysCommand /usr/bin/aios ssh-keys`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::durable;

/// Keys that the file holds at most.
const MAX_KEYS: usize = 256;
/// Longest key line, in bytes.
const MAX_LINE_BYTES: usize = 8 << 10;
/// Smallest RSA modulus, in bits.
const MIN_RSA_BITS: usize = 2048;

const TYPES: [&str; 7] = [
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "ssh-rsa",
];

/// Why a key was not taken.
#[derive(Debug, thiserror::Error)]
pub enum SshKeyError {
    /// It is not a public key that can be used.
    #[error("not a usable OpenSSH public key: {0}")]
    Invalid(&'static str),
    /// There are too many.
    #[error("there are {MAX_KEYS} keys already")]
    Full,
    /// The file.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Where the keys are, below the state directory.
#[must_use]
pub fn file(state: &Path) -> PathBuf {
    state.join("ssh").join("authorized_keys")
}

/// Checks a key line and puts it in its plainest form.
///
/// # Errors
/// [`SshKeyError::Invalid`] says what is wrong with it.
pub fn parse(line: &str) -> Result<String, SshKeyError> {
    use SshKeyError::Invalid;
    let line = line.trim();
    if line.len() > MAX_LINE_BYTES {
        return Err(Invalid("it is too long"));
    }
    if line.chars().any(char::is_control) {
        return Err(Invalid("it is not one plain line"));
    }
    if line.contains("PRIVATE KEY") {
        return Err(Invalid("this is a private key; give the .pub file"));
    }
    let mut words = line.split_ascii_whitespace();
    let kind = words.next().unwrap_or_default();
    if !TYPES.contains(&kind) {
        return Err(Invalid(
            "it must begin with a key type, such as ssh-ed25519 (options are not accepted)",
        ));
    }
    let encoded = words
        .next()
        .ok_or(Invalid("there is no key after its type"))?;
    let blob = STANDARD
        .decode(encoded)
        .map_err(|_| Invalid("the key is not base64"))?;
    let (inner, rest) = field(&blob).ok_or(Invalid("the key is cut off"))?;
    if inner != kind.as_bytes() {
        return Err(Invalid("the key is of another type than it says"));
    }
    check_fields(kind, rest)?;
    // The comment is for people; whatever is unusual in it is dropped.
    let comment: String = words
        .collect::<Vec<_>>()
        .join(" ")
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || " -_.@+:".contains(*c))
        .take(128)
        .collect();
    Ok(format!("{kind} {encoded} {comment}").trim_end().to_owned())
}

fn check_fields(kind: &str, rest: &[u8]) -> Result<(), SshKeyError> {
    use SshKeyError::Invalid;
    let cut = Invalid("the key is cut off");
    let (first, rest) = field(rest).ok_or(cut)?;
    match kind {
        "ssh-ed25519" if first.len() != 32 || !rest.is_empty() => {
            Err(Invalid("the key has a wrong length"))
        }
        "ssh-rsa" => {
            let (modulus, rest) = field(rest).ok_or(Invalid("the key is cut off"))?;
            let leading = modulus.iter().take_while(|byte| **byte == 0).count();
            let significant = modulus.get(leading..).unwrap_or_default();
            let top = significant
                .first()
                .map_or(8, |byte| byte.leading_zeros() as usize);
            let bits = (significant.len() * 8).saturating_sub(top);
            if !rest.is_empty() {
                return Err(Invalid("the key has a wrong length"));
            }
            if bits < MIN_RSA_BITS {
                return Err(Invalid(
                    "an RSA key needs at least 2048 bits; better make an ed25519 key",
                ));
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// A string of the SSH wire format: four bytes of length, then the bytes.
fn field(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = data.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    rest.split_at_checked(length)
}

/// Adds a key to the file; one that is there already is left as it is.
///
/// # Errors
/// When the key is not usable, there are too many, or the file cannot be written.
pub fn authorize(path: &Path, line: &str) -> Result<String, SshKeyError> {
    let key = parse(line)?;
    let file = |source| SshKeyError::File {
        path: path.to_owned(),
        source,
    };
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(file(error)),
    };
    let identity = |line: &str| line.split_ascii_whitespace().nth(1).map(str::to_owned);
    if text.lines().any(|known| identity(known) == identity(&key)) {
        return Ok(key);
    }
    if text.lines().count() >= MAX_KEYS {
        return Err(SshKeyError::Full);
    }
    if let Some(parent) = path.parent() {
        durable::directory(parent, 0o755).map_err(file)?;
    }
    let mut next = text;
    if !next.is_empty() && !next.ends_with('\n') {
        next.push('\n');
    }
    next.push_str(&key);
    next.push('\n');
    durable::replace(path, next.as_bytes(), 0o644).map_err(file)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(fields: &[&[u8]]) -> String {
        let mut blob = Vec::new();
        for field in fields {
            blob.extend_from_slice(&u32::try_from(field.len()).unwrap().to_be_bytes());
            blob.extend_from_slice(field);
        }
        STANDARD.encode(blob)
    }

    fn ed25519(fill: u8) -> String {
        format!("ssh-ed25519 {}", wire(&[b"ssh-ed25519", &[fill; 32]]))
    }

    #[test]
    fn a_key_is_taken_and_its_comment_made_plain() {
        let line = format!("  {} me@laptop;$(rm)  x\n", ed25519(1));
        assert_eq!(
            parse(&line).unwrap(),
            format!("{} me@laptoprm x", ed25519(1))
        );
    }

    #[test]
    fn what_is_no_plain_public_key_is_refused() {
        let short = format!("ssh-ed25519 {}", wire(&[b"ssh-ed25519", &[1; 31]]));
        let lied = format!("ssh-ed25519 {}", wire(&[b"ssh-rsa", &[1; 32]]));
        let weak = format!("ssh-rsa {}", wire(&[b"ssh-rsa", &[1, 0, 1], &[0x7f; 128]]));
        let with_options = format!("command=\"/bin/sh\" {}", ed25519(1));
        let two_lines = format!("{}\n{}", ed25519(1), ed25519(2));
        for wrong in [
            "",
            "ssh-ed25519",
            "ssh-ed25519 !!!",
            "ssh-ed25519 AAAA",
            "-----BEGIN OPENSSH PRIVATE KEY-----",
            "ssh-dss AAAAB3NzaC1kc3M=",
            &short,
            &lied,
            &weak,
            &with_options,
            &two_lines,
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
        let strong = format!("ssh-rsa {}", wire(&[b"ssh-rsa", &[1, 0, 1], &[0x80; 256]]));
        assert!(parse(&strong).is_ok());
    }

    #[test]
    fn the_same_key_is_there_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = file(dir.path());
        authorize(&path, &format!("{} a", ed25519(1))).unwrap();
        authorize(&path, &format!("{} b", ed25519(1))).unwrap();
        authorize(&path, &ed25519(2)).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("{} a\n{}\n", ed25519(1), ed25519(2)));
    }
}
