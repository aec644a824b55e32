//! Tools: what there is, and calls. A service is started and stopped by its tool too, so that it is
//! in the ledger like everything else.

use aios_proto::v1::{CheckCallRequest, ExecuteReply, ExecuteRequest, ListToolsRequest, ToolInfo};
use serde_json::{Map, Value, json};

use super::{connect, follow::error_of, machine};
use crate::{
    cli::{Global, ServiceCommand, ToolCall, ToolCommand},
    connect::{Machine, repeatable},
    failure::{Exit, Failure},
    output, texts,
};

pub(crate) async fn run(global: &Global, command: ToolCommand) -> Result<Exit, Failure> {
    match command {
        ToolCommand::List { mine } => list(global, mine).await,
        ToolCommand::Show { name } => show(global, &name).await,
        ToolCommand::Check(call) => check(global, call).await,
        ToolCommand::Call { call, dry_run } => {
            let machine = connect(global).await?;
            let arguments = arguments(&machine, &call).await?;
            execute(global, &machine, &call.name, &arguments, dry_run).await
        }
    }
}

pub(crate) async fn service(global: &Global, command: ServiceCommand) -> Result<Exit, Failure> {
    let (tool, arguments) = match command {
        ServiceCommand::List => return machine::services(global).await,
        ServiceCommand::Status { name } => ("service.status", json!({ "name": name })),
        ServiceCommand::Start { name } => ("service.start", json!({ "name": name })),
        ServiceCommand::Stop { name } => ("service.stop", json!({ "name": name })),
        ServiceCommand::Logs { name, lines } => {
            ("service.logs", json!({ "name": name, "lines": lines }))
        }
    };
    let machine = connect(global).await?;
    execute(global, &machine, tool, &arguments.to_string(), false).await
}

async fn tools(machine: &Machine, mine: bool) -> Result<Vec<ToolInfo>, Failure> {
    let reply = repeatable(|| {
        let mut client = machine.tools();
        async move { client.list_tools(ListToolsRequest { mine }).await }
    })
    .await?;
    Ok(reply.tools)
}

async fn find(machine: &Machine, name: &str) -> Result<ToolInfo, Failure> {
    tools(machine, false)
        .await?
        .into_iter()
        .find(|tool| tool.name == name)
        .ok_or_else(|| {
            Failure::not_found(format!("there is no tool `{name}`"))
                .hint("`aios tool list` shows them")
        })
}

async fn list(global: &Global, mine: bool) -> Result<Exit, Failure> {
    let tools = tools(&connect(global).await?, mine).await?;
    if global.json {
        output::json(&json!({ "tools": tools }));
        return Ok(Exit::Ok);
    }
    let rows: Vec<Vec<String>> = tools
        .into_iter()
        .map(|tool| vec![tool.name, tool.risk, tool.capability, tool.summary])
        .collect();
    output::line(texts::table(
        &["NAME", "RISK", "CAPABILITY", "WHAT IT DOES"],
        &rows,
    ));
    Ok(Exit::Ok)
}

async fn show(global: &Global, name: &str) -> Result<Exit, Failure> {
    let tool = find(&connect(global).await?, name).await?;
    if global.json {
        let mut value = serde_json::to_value(&tool).unwrap_or_default();
        if let Value::Object(fields) = &mut value {
            fields.insert("args_schema".to_owned(), output::value(&tool.args_schema));
            fields.insert(
                "result_schema".to_owned(),
                output::value(&tool.result_schema),
            );
        }
        output::json(&value);
        return Ok(Exit::Ok);
    }
    output::line(format!(
        "{}  {}\n  risk {}, capability {}, {} ms at most{}",
        tool.name,
        tool.summary,
        tool.risk,
        tool.capability,
        tool.deadline_ms,
        if tool.undo.is_empty() {
            String::new()
        } else {
            format!("\n  rollback: {}", tool.undo)
        },
    ));
    for argument in described(&tool.args_schema) {
        output::line(format!("  {argument}"));
    }
    Ok(Exit::Ok)
}

/// One line for each argument: its name, type, whether it may be left out, and what it means.
fn described(schema: &str) -> Vec<String> {
    let schema = output::value(schema);
    let required: Vec<&str> = schema["required"]
        .as_array()
        .map(|names| names.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    let Some(properties) = schema["properties"].as_object() else {
        return Vec::new();
    };
    properties
        .iter()
        .map(|(name, property)| {
            let optional = if required.contains(&name.as_str()) {
                ""
            } else {
                " (optional)"
            };
            let meaning = property["description"].as_str().unwrap_or_default();
            format!("{name}: {}{optional}  {meaning}", kinds(property).join("|"))
                .trim_end()
                .to_owned()
        })
        .collect()
}

/// The JSON types that a property may have.
fn kinds(property: &Value) -> Vec<String> {
    match &property["type"] {
        Value::String(kind) => vec![kind.clone()],
        Value::Array(kinds) => kinds
            .iter()
            .filter_map(Value::as_str)
            .filter(|kind| *kind != "null")
            .map(str::to_owned)
            .collect(),
        _ => ["anyOf", "oneOf"]
            .iter()
            .filter_map(|key| property[*key].as_array())
            .flatten()
            .flat_map(kinds)
            .filter(|kind| kind != "null")
            .collect(),
    }
}

async fn arguments(machine: &Machine, call: &ToolCall) -> Result<String, Failure> {
    if let Some(text) = &call.args {
        let value: Value = serde_json::from_str(text)
            .map_err(|error| Failure::usage(format!("--args is no JSON: {error}")))?;
        if !value.is_object() {
            return Err(Failure::usage("--args must be a JSON object"));
        }
        return Ok(value.to_string());
    }
    if call.pairs.is_empty() {
        return Ok("{}".to_owned());
    }
    let tool = find(machine, &call.name).await?;
    Ok(Value::Object(from_pairs(&tool.args_schema, &call.pairs)?).to_string())
}

/// `key=value` by the tool's own schema: text stays text, everything else is read as JSON.
fn from_pairs(schema: &str, pairs: &[String]) -> Result<Map<String, Value>, Failure> {
    let schema = output::value(schema);
    let mut fields = Map::new();
    for pair in pairs {
        let (name, text) = pair.split_once('=').ok_or_else(|| {
            Failure::usage(format!("`{pair}` is not KEY=VALUE")).hint("or give --args JSON")
        })?;
        let kinds = kinds(&schema["properties"][name]);
        let value = if kinds.iter().any(|kind| kind == "string") {
            Value::String(text.to_owned())
        } else {
            match serde_json::from_str(text) {
                Ok(value) => value,
                Err(_) if kinds.is_empty() => Value::String(text.to_owned()),
                Err(_) => {
                    return Err(Failure::usage(format!(
                        "`{name}` must be {}, which `{text}` is not",
                        kinds.join(" or ")
                    )));
                }
            }
        };
        if fields.insert(name.to_owned(), value).is_some() {
            return Err(Failure::usage(format!("`{name}` is given twice")));
        }
    }
    Ok(fields)
}

async fn check(global: &Global, call: ToolCall) -> Result<Exit, Failure> {
    let machine = connect(global).await?;
    let args_json = arguments(&machine, &call).await?;
    let request = CheckCallRequest {
        tool: call.name,
        args_json,
        ..CheckCallRequest::default()
    };
    let reply = repeatable(|| {
        let mut client = machine.tools();
        let request = request.clone();
        async move { client.check_call(request).await }
    })
    .await?;
    if global.json {
        output::json(&reply);
    } else {
        output::line(format!("{}: risk {}", reply.verdict, reply.risk));
        for line in [
            &reply.reason,
            &reply.canonical_args_json,
            &reply.action_hash,
        ] {
            if !line.is_empty() {
                output::line(format!("  {line}"));
            }
        }
    }
    Ok(exit_of(&reply.verdict))
}

fn exit_of(outcome: &str) -> Exit {
    match outcome {
        "ok" => Exit::Ok,
        "denied" => Exit::Denied,
        "invalid" => Exit::Usage,
        "timeout" => Exit::Timeout,
        _ => Exit::Failed,
    }
}

async fn execute(
    global: &Global,
    machine: &Machine,
    tool: &str,
    args_json: &str,
    dry_run: bool,
) -> Result<Exit, Failure> {
    let request = ExecuteRequest {
        tool: tool.to_owned(),
        args_json: args_json.to_owned(),
        // Sent again after a broken connection, it is still the same call.
        idempotency_key: uuid::Uuid::now_v7().to_string(),
        dry_run,
        ..ExecuteRequest::default()
    };
    let reply = repeatable(|| {
        let mut client = machine.tools();
        let request = request.clone();
        async move { client.execute(request).await }
    })
    .await?;
    if global.json {
        output::json(&reply);
    } else {
        print(&reply);
    }
    Ok(exit_of(&reply.outcome))
}

fn print(reply: &ExecuteReply) {
    match output::value(&reply.result_json) {
        Value::Null => {}
        // The usual result of a log or of a file is its text.
        Value::Object(fields) if fields.len() == 1 && fields.values().all(Value::is_string) => {
            for text in fields.values().filter_map(Value::as_str) {
                output::line(text.trim_end_matches('\n'));
            }
        }
        value => output::line(serde_json::to_string_pretty(&value).unwrap_or_default()),
    }
    if reply.outcome != "ok" {
        output::note(format!(
            "{}: {}",
            reply.outcome,
            error_of(reply.error.as_ref())
        ));
    }
    if reply.reversible && reply.outcome == "ok" {
        output::note(format!(
            "undo it with: aios rollback call {}",
            reply.call_id
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMA: &str = r#"{"properties":{
        "path":{"type":"string"},
        "limit":{"type":["integer","null"],"description":"how many"},
        "deep":{"anyOf":[{"type":"boolean"},{"type":"null"}]}},
        "required":["path"]}"#;

    fn pairs(pairs: &[&str]) -> Result<Map<String, Value>, Failure> {
        from_pairs(
            SCHEMA,
            &pairs
                .iter()
                .map(|pair| (*pair).to_owned())
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn values_have_the_types_of_the_schema() {
        let fields = pairs(&["path=123", "limit=5", "deep=true", "other=a=b"]).unwrap();
        assert_eq!(
            Value::Object(fields),
            json!({"path": "123", "limit": 5, "deep": true, "other": "a=b"})
        );
        for wrong in [&["path"][..], &["limit=many"], &["path=a", "path=b"]] {
            assert!(pairs(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn arguments_are_described() {
        assert_eq!(
            described(SCHEMA),
            [
                "path: string",
                "limit: integer (optional)  how many",
                "deep: boolean (optional)"
            ]
        );
    }
}
