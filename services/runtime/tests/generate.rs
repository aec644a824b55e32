//! Generation through the real daemon: repeatable, constrained, streamed, stopped.

mod common;

use std::time::{Duration, Instant};

use aios_kit::{Category, Error};
use aios_proto::v1::{CancelGenerationRequest, EmbedRequest, GenerateRequest, TokenizeRequest};
use common::{CONSOLE, Home, MEMORY, ORCHESTRATOR, ROOT, long, prompt};
use serde_json::{Value, json};

#[tokio::test]
async fn the_same_seed_gives_the_same_text_whatever_ran_before() {
    let daemon = Home::new().start();
    let first = daemon.generate(prompt("the quick brown fox")).await;
    assert!(!first.text.is_empty());
    assert_eq!(first.model, "aios-untrained");
    let other_seed = GenerateRequest {
        seed: 12,
        ..prompt("the quick brown fox")
    };
    assert_ne!(daemon.generate(other_seed).await.text, first.text);
    // Long enough for the part that is kept from one prompt to the next.
    let shared = "all work and no play makes a dull day. ".repeat(12);
    let long_prompt = prompt(&format!("{shared} first"));
    let alone = daemon.generate(long_prompt.clone()).await;
    assert!(alone.prompt_tokens > 256, "{}", alone.prompt_tokens);
    daemon.generate(prompt(&format!("{shared} second"))).await;
    assert_eq!(daemon.generate(long_prompt.clone()).await.text, alone.text);
    assert_eq!(
        daemon.generate(prompt("the quick brown fox")).await.text,
        first.text
    );
    // A fresh process with nothing kept agrees.
    let fresh = Home::new().start();
    assert_eq!(fresh.generate(long_prompt).await.text, alone.text);
    assert_eq!(
        fresh.generate(prompt("the quick brown fox")).await.text,
        first.text
    );
}

#[tokio::test]
async fn output_under_a_schema_fits_it() {
    let daemon = Home::new().start();
    let schemas = [
        json!({"type": "object", "required": ["tool", "count"], "additionalProperties": false,
               "properties": {"tool": {"enum": ["fs.read", "fs.write"]}, "count": {"type": "integer"}}}),
        json!({"type": "array", "minItems": 2, "maxItems": 4, "items": {"type": "boolean"}}),
        json!({"type": "object", "required": ["steps"], "additionalProperties": false, "properties": {"steps": {
               "type": "array", "minItems": 1, "maxItems": 2, "items": {"type": "object",
               "required": ["name", "args"], "additionalProperties": false, "properties": {
               "name": {"const": "pkg.install"}, "args": {"type": "object", "required": ["package"],
               "additionalProperties": false,
               "properties": {"package": {"type": "string", "minLength": 1, "maxLength": 12}}}}}}}}),
        json!({"anyOf": [{"type": "null"}, {"type": "string", "maxLength": 8}]}),
    ];
    for schema in &schemas {
        for (seed, temperature) in [(1, 0.0), (2, 0.8), (3, 1.5)] {
            let reply = daemon
                .generate(GenerateRequest {
                    json_schema: schema.to_string(),
                    max_tokens: 600,
                    seed,
                    temperature,
                    ..prompt("plan:")
                })
                .await;
            assert_eq!(reply.finish_reason, "stop", "{schema} {:?}", reply.text);
            let value: Value = serde_json::from_str(&reply.text).expect(&reply.text);
            let errors: Vec<String> = jsonschema::validator_for(schema)
                .unwrap()
                .iter_errors(&value)
                .map(|error| error.to_string())
                .collect();
            assert!(errors.is_empty(), "{schema} {value} {errors:?}");
        }
    }
}

#[tokio::test]
async fn a_wrong_constraint_is_the_callers_fault_and_harms_nobody() {
    let daemon = Home::new().start();
    let worker = daemon.worker_but(0);
    for request in [
        GenerateRequest {
            grammar: "root ::= undefined-rule".to_owned(),
            ..prompt("x")
        },
        GenerateRequest {
            grammar: "no rules at all".to_owned(),
            ..prompt("x")
        },
        GenerateRequest {
            grammar: "root ::= root \"a\" | \"b\"".to_owned(),
            ..prompt("x")
        },
        GenerateRequest {
            json_schema: r#"{"type": 7}"#.to_owned(),
            ..prompt("x")
        },
        GenerateRequest {
            json_schema: r##"{"$ref": "#/nowhere"}"##.to_owned(),
            ..prompt("x")
        },
        GenerateRequest {
            temperature: f32::NAN,
            ..prompt("x")
        },
        prompt(""),
        prompt(&"word ".repeat(4000)),
    ] {
        let status = daemon
            .client(ORCHESTRATOR)
            .generate(request.clone())
            .await
            .unwrap_err();
        let error = Error::from(status);
        assert_eq!(
            error.category(),
            Category::Validation,
            "{error} {:?}",
            request.grammar
        );
        assert!(!error.retryable());
    }
    assert!(!daemon.generate(prompt("still there")).await.text.is_empty());
    assert_eq!(
        daemon.worker_but(0),
        worker,
        "the engine died of a wrong request"
    );
}

#[tokio::test]
async fn a_grammar_forces_the_output() {
    let daemon = Home::new().start();
    let reply = daemon
        .generate(GenerateRequest {
            grammar: "root ::= (\"yes\" | \"no\") \" € \" [0-9]{3}".to_owned(),
            ..prompt("well?")
        })
        .await;
    let (word, digits) = reply.text.split_once(" € ").unwrap();
    assert!(word == "yes" || word == "no", "{}", reply.text);
    assert!(digits.len() == 3 && digits.bytes().all(|byte| byte.is_ascii_digit()));
    assert_eq!(reply.finish_reason, "stop");
}

#[tokio::test]
async fn a_stream_gives_the_text_of_a_single_reply() {
    let daemon = Home::new().start();
    for request in [
        prompt("once upon a time"),
        GenerateRequest {
            max_tokens: 200,
            temperature: 1.5,
            ..prompt("é € ü")
        },
        GenerateRequest {
            grammar: "root ::= [äöü€]{20}".to_owned(),
            max_tokens: 100,
            ..prompt("x")
        },
    ] {
        let whole = daemon.generate(request.clone()).await;
        let mut stream = daemon
            .client(ORCHESTRATOR)
            .generate_stream(request)
            .await
            .unwrap()
            .into_inner();
        let mut text = String::new();
        let mut summary = None;
        while let Some(chunk) = stream.message().await.unwrap() {
            assert!(summary.is_none(), "a chunk after the last one");
            assert_eq!(chunk.done, chunk.summary.is_some());
            text += &chunk.text;
            summary = chunk.summary;
        }
        let summary = summary.unwrap();
        assert_eq!(text, whole.text);
        assert_eq!(summary.finish_reason, whole.finish_reason);
        assert_eq!(summary.completion_tokens, whole.completion_tokens);
        assert_eq!(summary.text, "");
    }
}

#[tokio::test]
async fn a_stop_text_ends_the_output_before_it() {
    let daemon = Home::new().start();
    let request = GenerateRequest {
        grammar: "root ::= \"one two three four\"".to_owned(),
        stop: vec!["thr".to_owned()],
        ..prompt("count")
    };
    let reply = daemon.generate(request).await;
    assert_eq!(
        (reply.text.as_str(), reply.finish_reason.as_str()),
        ("one two ", "stop")
    );
    let reply = daemon
        .generate(GenerateRequest {
            max_tokens: 3,
            ..long()
        })
        .await;
    assert_eq!(
        (reply.completion_tokens, reply.finish_reason.as_str()),
        (3, "length")
    );
}

#[tokio::test]
async fn a_deadline_ends_with_what_there_is() {
    let daemon = Home::new().start();
    let started = Instant::now();
    let reply = daemon
        .generate(GenerateRequest {
            deadline_ms: 40,
            ..long()
        })
        .await;
    assert_eq!(reply.finish_reason, "deadline");
    assert!(
        started.elapsed() < Duration::from_secs(3),
        "{:?}",
        started.elapsed()
    );
    assert!(reply.completion_tokens < 1900);
}

#[tokio::test]
async fn a_cancel_by_name_ends_it_for_its_owner_only() {
    let daemon = Home::new().start();
    let mut client = daemon.client(ORCHESTRATOR);
    let named = GenerateRequest {
        request_id: "plan-1".to_owned(),
        ..long()
    };
    let mut stream = client
        .generate_stream(named.clone())
        .await
        .unwrap()
        .into_inner();
    stream.message().await.unwrap().unwrap();
    let twice = client.generate(named).await.unwrap_err();
    assert_eq!(Error::from(twice).category(), Category::Conflict);
    let cancel = || CancelGenerationRequest {
        request_id: "plan-1".to_owned(),
    };
    // The console may call this, but the generation is not its own.
    daemon
        .client(CONSOLE)
        .cancel_generation(cancel())
        .await
        .unwrap();
    stream.message().await.unwrap().unwrap();
    client.cancel_generation(cancel()).await.unwrap();
    let started = Instant::now();
    let mut finish = String::new();
    while let Some(chunk) = stream.message().await.unwrap() {
        finish = chunk
            .summary
            .map(|summary| summary.finish_reason)
            .unwrap_or(finish);
    }
    assert_eq!(finish, "cancelled");
    assert!(started.elapsed() < Duration::from_secs(2));
    // It has ended, so that the name is free and cancelling it is no error.
    client.cancel_generation(cancel()).await.unwrap();
}

#[tokio::test]
async fn a_dropped_call_stops_computing() {
    let daemon = Home::new().start();
    let mut client = daemon.client(ORCHESTRATOR);
    let mut stream = client.generate_stream(long()).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    assert_eq!(daemon.health().await.running, 1);
    drop(stream);
    let unary = tokio::time::timeout(Duration::from_millis(20), client.generate(long())).await;
    assert!(unary.is_err(), "it was not long enough to be dropped");
    let end = Instant::now() + Duration::from_secs(2);
    loop {
        let health = daemon.health().await;
        if (health.running, health.queued) == (0, 0) {
            break;
        }
        assert!(Instant::now() < end, "still computing");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn texts_become_vectors_of_length_one() {
    let daemon = Home::new().start();
    let texts = ["disk is full", "a reader", "disk is full"]
        .map(str::to_owned)
        .to_vec();
    let request = EmbedRequest {
        model: String::new(),
        texts,
    };
    let reply = daemon
        .client(MEMORY)
        .embed(request)
        .await
        .unwrap()
        .into_inner();
    let vectors: Vec<&Vec<f32>> = reply.embeddings.iter().map(|e| &e.values).collect();
    assert_eq!(vectors.len(), 3);
    assert_eq!(vectors[0], vectors[2]);
    assert_ne!(vectors[0], vectors[1]);
    for vector in vectors {
        let length: f32 = vector.iter().map(|x| x * x).sum();
        assert!((length - 1.0).abs() < 1e-3, "{length}");
    }
    let too_long = EmbedRequest {
        model: String::new(),
        texts: vec!["word ".repeat(2000)],
    };
    let error = Error::from(daemon.client(MEMORY).embed(too_long).await.unwrap_err());
    assert_eq!(error.category(), Category::Validation);
    // Both kinds of work share a worker and do not disturb each other.
    let text = daemon.generate(prompt("between")).await.text;
    let again = EmbedRequest {
        model: String::new(),
        texts: vec!["disk is full".to_owned()],
    };
    daemon.client(MEMORY).embed(again).await.unwrap();
    assert_eq!(daemon.generate(prompt("between")).await.text, text);
}

#[tokio::test]
async fn tokens_are_those_of_a_prompt() {
    let daemon = Home::new().start();
    let request = TokenizeRequest {
        model: String::new(),
        text: "the € 7".to_owned(),
    };
    let tokens = daemon
        .client(ROOT)
        .tokenize(request)
        .await
        .unwrap()
        .into_inner()
        .tokens;
    // Beginning of text, then at least the three bytes of the euro sign, which is no token.
    assert_eq!(tokens[0], 1);
    assert!(tokens.len() > 5, "{tokens:?}");
    let reply = daemon.generate(prompt("the € 7")).await;
    assert_eq!(reply.prompt_tokens as usize, tokens.len());
}
