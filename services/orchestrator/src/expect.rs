//! What a post-condition must find in a tool's result. Data, not code: a pointer and one comparison.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::template::{Scope, check_pointer, fill};

/// One comparison. Exactly one of the members besides `pointer` is set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expectation {
    /// JSON pointer into the result; empty for the whole.
    pub pointer: String,
    /// The value is this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub equals: Option<Value>,
    /// A text has this part, or an array this element.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contains: Option<Value>,
    /// A number that is not smaller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_least: Option<f64>,
    /// A number that is smaller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub below: Option<f64>,
    /// A truth value that is this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_true: Option<bool>,
    /// There is a value there, or there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exists: Option<bool>,
    /// An array has an element with these members.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub some: Option<Map<String, Value>>,
    /// An array has no element with these members.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub none: Option<Map<String, Value>>,
}

impl Expectation {
    /// Checks that it is one comparison.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn validate(&self) -> Result<(), String> {
        check_pointer(&self.pointer)?;
        let set = [
            self.equals.is_some(),
            self.contains.is_some(),
            self.at_least.is_some(),
            self.below.is_some(),
            self.is_true.is_some(),
            self.exists.is_some(),
            self.some.is_some(),
            self.none.is_some(),
        ];
        match set.into_iter().filter(|set| *set).count() {
            1 => Ok(()),
            count => Err(format!(
                "an expectation makes exactly one comparison (equals, contains, at_least, below, is_true, exists, \
                 some or none), this one makes {count}"
            )),
        }
    }

    /// Fills the parameters in.
    ///
    /// # Errors
    /// When it names one that is not there.
    pub fn bind(&self, scope: &Scope<'_>) -> Result<Self, String> {
        let object =
            |members: &Option<Map<String, Value>>| -> Result<Option<Map<String, Value>>, String> {
                match members {
                    None => Ok(None),
                    Some(members) => match fill(&Value::Object(members.clone()), scope)? {
                        Value::Object(filled) if filled.len() == members.len() => Ok(Some(filled)),
                        _ => Err("an expectation names a parameter that is not there".to_owned()),
                    },
                }
            };
        let value =
            |value: &Option<Value>| value.as_ref().map(|value| fill(value, scope)).transpose();
        Ok(Self {
            equals: value(&self.equals)?,
            contains: value(&self.contains)?,
            some: object(&self.some)?,
            none: object(&self.none)?,
            ..self.clone()
        })
    }

    /// Compares; the error says what was expected and what was found.
    ///
    /// # Errors
    /// When the result is not as expected.
    pub fn check(&self, result: &Value) -> Result<(), String> {
        let found = result.pointer(&self.pointer);
        let number = found.and_then(Value::as_f64);
        let matching = |members: &Map<String, Value>| {
            found.and_then(Value::as_array).map(|items| {
                items.iter().any(|item| {
                    members
                        .iter()
                        .all(|(name, value)| item.get(name) == Some(value))
                })
            })
        };
        let (met, expected) = if let Some(value) = &self.equals {
            (
                found.is_some_and(|found| same(found, value)),
                format!("to be {value}"),
            )
        } else if let Some(value) = &self.contains {
            (
                found.is_some_and(|found| contains(found, value)),
                format!("to contain {value}"),
            )
        } else if let Some(least) = self.at_least {
            (
                number.is_some_and(|number| number >= least),
                format!("to be at least {least}"),
            )
        } else if let Some(bound) = self.below {
            (
                number.is_some_and(|number| number < bound),
                format!("to be below {bound}"),
            )
        } else if let Some(value) = self.is_true {
            (
                found.and_then(Value::as_bool) == Some(value),
                format!("to be {value}"),
            )
        } else if let Some(value) = self.exists {
            let there = found.is_some_and(|found| !found.is_null());
            (
                there == value,
                if value {
                    "to be there"
                } else {
                    "not to be there"
                }
                .to_owned(),
            )
        } else if let Some(members) = &self.some {
            (
                matching(members) == Some(true),
                format!("to have an element with {}", Value::Object(members.clone())),
            )
        } else if let Some(members) = &self.none {
            (
                matching(members) == Some(false),
                format!("to have no element with {}", Value::Object(members.clone())),
            )
        } else {
            (
                false,
                "something, but the expectation makes no comparison".to_owned(),
            )
        };
        if met {
            return Ok(());
        }
        let place = if self.pointer.is_empty() {
            "the result"
        } else {
            &self.pointer
        };
        let found = found.map_or_else(|| "nothing".to_owned(), |found| excerpt(&found.to_string()));
        Err(format!(
            "expected {place} {}, found {found}",
            excerpt(&expected)
        ))
    }
}

fn same(found: &Value, value: &Value) -> bool {
    found == value
        || matches!((found.as_f64(), value.as_f64()), (Some(a), Some(b)) if a.total_cmp(&b).is_eq())
}

fn contains(found: &Value, value: &Value) -> bool {
    match (found, value) {
        (Value::String(text), Value::String(part)) => text.contains(part.as_str()),
        (Value::Array(items), value) => items.contains(value),
        _ => false,
    }
}

fn excerpt(text: &str) -> String {
    const MAX: usize = 200;
    if text.chars().count() <= MAX {
        text.to_owned()
    } else {
        text.chars().take(MAX).chain(['…']).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn expectation(value: Value) -> Expectation {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn every_comparison_tells_right_from_wrong() {
        let result = json!({"open": true, "status": 200, "text": "welcome", "list": [{"name": "a", "x": 1}]});
        let cases = [
            (
                json!({"pointer": "/status", "equals": 200}),
                json!({"pointer": "/status", "equals": 201}),
            ),
            (
                json!({"pointer": "/text", "contains": "come"}),
                json!({"pointer": "/text", "contains": "bye"}),
            ),
            (
                json!({"pointer": "/status", "at_least": 200.0}),
                json!({"pointer": "/status", "at_least": 201.0}),
            ),
            (
                json!({"pointer": "/status", "below": 500.0}),
                json!({"pointer": "/status", "below": 200.0}),
            ),
            (
                json!({"pointer": "/open", "is_true": true}),
                json!({"pointer": "/open", "is_true": false}),
            ),
            (
                json!({"pointer": "/open", "exists": true}),
                json!({"pointer": "/gone", "exists": true}),
            ),
            (
                json!({"pointer": "/gone", "exists": false}),
                json!({"pointer": "/open", "exists": false}),
            ),
            (
                json!({"pointer": "/list", "some": {"name": "a"}}),
                json!({"pointer": "/list", "some": {"name": "b"}}),
            ),
            (
                json!({"pointer": "/list", "none": {"name": "b"}}),
                json!({"pointer": "/list", "none": {"name": "a"}}),
            ),
        ];
        for (right, wrong) in cases {
            expectation(right.clone())
                .check(&result)
                .unwrap_or_else(|error| panic!("{right}: {error}"));
            let error = expectation(wrong.clone()).check(&result).unwrap_err();
            assert!(
                error.contains("expected") && error.contains("found"),
                "{error}"
            );
        }
    }

    #[test]
    fn what_is_not_there_satisfies_no_claim_about_it() {
        for claim in [
            json!({"pointer": "/x", "none": {"a": 1}}),
            json!({"pointer": "/x", "below": 9.0}),
        ] {
            assert!(expectation(claim).check(&json!({})).is_err());
        }
    }

    #[test]
    fn exactly_one_comparison() {
        assert!(expectation(json!({"pointer": "/a"})).validate().is_err());
        assert!(
            expectation(json!({"pointer": "/a", "exists": true, "is_true": true}))
                .validate()
                .is_err()
        );
        assert!(
            expectation(json!({"pointer": "a", "exists": true}))
                .validate()
                .is_err()
        );
        expectation(json!({"pointer": "/a", "exists": true}))
            .validate()
            .unwrap();
    }
}
