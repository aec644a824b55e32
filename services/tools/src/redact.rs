//! What of a call's arguments stands in the ledger, and what is kept so that the call can be undone.
//!
//! The ledger gets everything but secrets (the pointers that a tool names) and long texts (file
//! contents): of those it gets the SHA-256 and the length. What `rollback` will need of them goes to
//! the pre-image store, which only root can read, and only for calls that can be undone at all.

use std::io::{self, Read as _};

use aios_tool_api::{BlobId, BlobStore, canonical};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Longest text that stands in the ledger in full, in bytes.
pub const LONGEST_TEXT: usize = 1024;

/// The form for the ledger.
#[must_use]
pub fn for_ledger(value: &Value, secret: &[&str]) -> Value {
    let mut value = value.clone();
    for pointer in withheld(&value, secret) {
        if let Some(part) = value.pointer_mut(&pointer) {
            let text = text_of(part);
            *part = json!({
                "sha256": canonical::sha256_hex(text.as_bytes()),
                "bytes": text.len(),
            });
        }
    }
    value
}

/// Arguments with what was withheld from the ledger moved to the pre-image store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The arguments, null where a part was moved.
    args: Value,
    /// Where it was, and where it is now; nowhere when the call cannot be undone.
    moved: Vec<(String, Option<BlobId>)>,
}

impl Kept {
    /// Moves what the ledger must not show. Without a store (the call cannot be undone) it is
    /// dropped.
    ///
    /// # Errors
    /// When the store cannot take it.
    pub fn new(args: &Value, secret: &[&str], store: Option<&BlobStore>) -> io::Result<Self> {
        let mut args = args.clone();
        let mut moved = Vec::new();
        for pointer in withheld(&args, secret) {
            if let Some(part) = args.pointer_mut(&pointer) {
                let text = canonical::to_string(&part.take());
                let blob = store.map(|store| store.put(text.as_bytes())).transpose()?;
                moved.push((pointer, blob));
            }
        }
        Ok(Self { args, moved })
    }

    /// The whole arguments again.
    ///
    /// # Errors
    /// When a part was not kept, or the store no longer has it.
    pub fn restore(&self, store: &BlobStore) -> io::Result<Value> {
        let mut args = self.args.clone();
        for (pointer, blob) in &self.moved {
            let blob = blob.as_ref().ok_or_else(|| {
                io::Error::new(io::ErrorKind::NotFound, format!("{pointer} was not kept"))
            })?;
            let mut text = String::new();
            store.open(blob)?.read_to_string(&mut text)?;
            if canonical::sha256_hex(text.as_bytes()) != blob.sha256 {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("stored content {} is damaged", blob.sha256),
                ));
            }
            if let Some(part) = args.pointer_mut(pointer) {
                *part = serde_json::from_str(&text)?;
            }
        }
        Ok(args)
    }

    /// The whole arguments again, with the missing parts from a repeated request, which is known to
    /// ask for the same.
    #[must_use]
    pub fn completed_from(&self, request: &Value) -> Value {
        let mut args = self.args.clone();
        for (pointer, _) in &self.moved {
            if let (Some(part), Some(same)) = (args.pointer_mut(pointer), request.pointer(pointer))
            {
                *part = same.clone();
            }
        }
        args
    }
}

/// The pointers of everything that is secret or too long.
fn withheld(value: &Value, secret: &[&str]) -> Vec<String> {
    let mut pointers: Vec<String> = secret
        .iter()
        .filter(|pointer| value.pointer(pointer).is_some_and(|part| !part.is_null()))
        .map(|pointer| (*pointer).to_owned())
        .collect();
    find_long(value, &mut String::new(), &mut pointers);
    pointers
}

fn find_long(value: &Value, at: &mut String, found: &mut Vec<String>) {
    if found.iter().any(|pointer| pointer == at) {
        return;
    }
    let mut step = |name: &str, part: &Value| {
        let length = at.len();
        at.push('/');
        at.push_str(&name.replace('~', "~0").replace('/', "~1"));
        find_long(part, at, found);
        at.truncate(length);
    };
    match value {
        Value::String(text) if text.len() > LONGEST_TEXT => found.push(at.clone()),
        Value::Array(parts) => {
            for (index, part) in parts.iter().enumerate() {
                step(&index.to_string(), part);
            }
        }
        Value::Object(parts) => {
            for (name, part) in parts {
                step(name, part);
            }
        }
        _ => {}
    }
}

/// A string is hashed as its own bytes, anything else as its canonical JSON.
fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => canonical::to_string(other),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn secrets_and_long_texts_leave_only_their_hash() {
        let args = json!({
            "password": "hunter2",
            "a/b": {"list": ["short", "x".repeat(2000)]},
            "path": "/srv/x",
        });
        let shown = for_ledger(&args, &["/password", "/absent"]);
        let text = shown.to_string();
        assert!(
            !text.contains("hunter2") && !text.contains("xxxx"),
            "{text}"
        );
        assert_eq!(shown["password"]["bytes"], 7);
        assert_eq!(
            shown["password"]["sha256"],
            canonical::sha256_hex(b"hunter2")
        );
        assert_eq!(shown["a/b"]["list"][1]["bytes"], 2000);
        assert_eq!(shown["a/b"]["list"][0], "short");
        assert_eq!(shown["path"], "/srv/x");
    }

    #[test]
    fn what_was_not_kept_is_missed_and_comes_from_a_repeated_request() {
        let args = json!({"password": "hunter2"});
        let kept = Kept::new(&args, &["/password"], None).unwrap();
        assert!(!serde_json::to_string(&kept).unwrap().contains("hunter2"));
        let dir = tempfile::tempdir().unwrap();
        assert!(kept.restore(&BlobStore::new(dir.path())).is_err());
        assert_eq!(kept.completed_from(&args), args);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn kept_arguments_come_back_whole(
            short in ".{0,20}", long in "[a-zß\"\\\\]{1100,1300}", key in "[a-z/~]{1,6}",
        ) {
            let dir = tempfile::tempdir().unwrap();
            let store = BlobStore::new(dir.path());
            let args = json!({"secret": short, key: {"deep": [long, 1, true]}});
            let kept = Kept::new(&args, &["/secret"], Some(&store)).unwrap();
            let text = serde_json::to_string(&kept).unwrap();
            let again: Kept = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(again.restore(&store).unwrap(), args);
        }
    }
}
