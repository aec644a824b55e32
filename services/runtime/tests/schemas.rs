//! Random schemas through the real daemon: what comes out fits, and no schema harms the engine.

mod common;

use aios_proto::v1::GenerateRequest;
use common::{Home, prompt};
use proptest::{prelude::*, strategy::ValueTree as _, test_runner::TestRunner};
use serde_json::{Map, Value, json};

const CASES: u64 = 60;

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({"type": "boolean"})),
        Just(json!({"type": "null"})),
        Just(json!({"type": "integer"})),
        (0..50_i32, 0..50_i32).prop_map(|(a, b)| {
            json!({"type": "integer", "minimum": a.min(b), "maximum": a.max(b)})
        }),
        proptest::collection::vec("[a-z.\"\\\\é]{1,6}", 1..4)
            .prop_map(|words| json!({"enum": words})),
        (0..4_u32, 0..8_u32).prop_map(|(least, more)| {
            json!({"type": "string", "minLength": least, "maxLength": least + more})
        }),
        "[ -~]{0,8}".prop_map(|text| json!({"const": text})),
    ]
}

fn schema() -> impl Strategy<Value = Value> {
    leaf().prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            (proptest::collection::btree_map("[a-z_]{1,5}", inner.clone(), 0..4), any::<bool>()).prop_map(
                |(properties, all)| {
                    let names: Vec<&String> = properties.keys().take(if all { 9 } else { 1 }).collect();
                    let required = json!(names);
                    let properties: Map<String, Value> = properties.into_iter().collect();
                    json!({"type": "object", "properties": properties, "required": required,
                           "additionalProperties": false})
                }
            ),
            (inner.clone(), 0..2_u32, 0..3_u32).prop_map(|(items, least, more)| {
                json!({"type": "array", "items": items, "minItems": least, "maxItems": least + more})
            }),
            proptest::collection::vec(inner, 1..3).prop_map(|any| json!({"anyOf": any})),
        ]
    })
}

#[tokio::test]
async fn every_answer_fits_its_schema() {
    let daemon = Home::new().start();
    let worker = daemon.worker_but(0);
    let mut runner = TestRunner::deterministic();
    let strategy = schema();
    let mut complete = 0;
    for seed in 1..=CASES {
        let schema = strategy.new_tree(&mut runner).unwrap().current();
        let reply = daemon
            .generate(GenerateRequest {
                json_schema: schema.to_string(),
                max_tokens: 800,
                seed,
                temperature: 1.0,
                ..prompt("answer:")
            })
            .await;
        if reply.finish_reason == "length" {
            continue;
        }
        assert_eq!(reply.finish_reason, "stop");
        let value: Value = serde_json::from_str(&reply.text).expect(&reply.text);
        let validator = jsonschema::validator_for(&schema).unwrap();
        assert!(validator.is_valid(&value), "{schema}\n{value}");
        complete += 1;
    }
    assert!(
        complete > CASES * 3 / 4,
        "only {complete} answers were complete"
    );
    assert_eq!(daemon.worker_but(0), worker, "a schema killed the engine");
}
