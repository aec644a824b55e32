//! Canonical JSON (keys sorted, no white space, absent rather than null) and hashes over it. Ledger
//! records, approvals and idempotency are bound to these bytes.

use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

/// The canonical text of a value: object keys in byte order, members that are null left out.
#[must_use]
pub fn to_string(value: &Value) -> String {
    sorted(value).to_string()
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let mut keys: Vec<&String> = members.keys().collect();
            keys.sort();
            let mut out = Map::new();
            for key in keys {
                if let Some(member) = members.get(key).filter(|member| !member.is_null()) {
                    out.insert(key.clone(), sorted(member));
                }
            }
            Value::Object(out)
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        other => other.clone(),
    }
}

/// SHA-256 in hexadecimal.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The hash that an approval and a grant are bound to: of the tool's name and its canonical
/// arguments.
#[must_use]
pub fn action_hash(tool: &str, args: &Value) -> String {
    let action = serde_json::json!({ "tool": tool, "args": args });
    sha256_hex(to_string(&action).as_bytes())
}

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn order_and_nulls_do_not_matter() {
        let one = json!({"b": 1, "a": {"y": null, "x": [1, {"d": 1, "c": 2}]}});
        let two = json!({"a": {"x": [1, {"c": 2, "d": 1}]}, "b": 1});
        assert_eq!(to_string(&one), r#"{"a":{"x":[1,{"c":2,"d":1}]},"b":1}"#);
        assert_eq!(action_hash("t", &one), action_hash("t", &two));
        assert_ne!(action_hash("t", &one), action_hash("u", &one));
    }
}
