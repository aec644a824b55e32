//! The ledger: reading it, checking it, and taking back what it holds.

use aios_proto::v1::{Empty, LedgerRecord, ListLedgerRequest, RollbackRequest};

use super::connect;
use crate::{
    cli::{AuditCommand, Global},
    connect::{Machine, repeatable},
    failure::{Exit, Failure},
    output, texts,
};

pub(crate) async fn run(global: &Global, command: AuditCommand) -> Result<Exit, Failure> {
    let machine = connect(global).await?;
    match command {
        AuditCommand::List {
            goal,
            call,
            tool,
            kind,
            principal,
            after,
            limit,
        } => {
            let request = ListLedgerRequest {
                after_seq: after.unwrap_or(0),
                limit,
                goal_id: goal.unwrap_or_default(),
                call_id: call.unwrap_or_default(),
                tool: tool.unwrap_or_default(),
                kind: kind.unwrap_or_default(),
                principal: principal.unwrap_or_default(),
                newest_first: after.is_none(),
            };
            list(global, &machine, request).await
        }
        AuditCommand::Verify => verify(global, &machine).await,
    }
}

async fn list(
    global: &Global,
    machine: &Machine,
    request: ListLedgerRequest,
) -> Result<Exit, Failure> {
    let newest_first = request.newest_first;
    let mut reply = repeatable(|| {
        let mut client = machine.tools();
        let request = request.clone();
        async move { client.list_ledger(request).await }
    })
    .await?;
    if newest_first {
        reply.records.reverse();
    }
    if global.json {
        output::json(&reply);
    } else {
        for record in &reply.records {
            output::line(record_line(record));
        }
    }
    Ok(Exit::Ok)
}

/// One record on one line.
pub(crate) fn record_line(record: &LedgerRecord) -> String {
    let who = if record.agent.is_empty() {
        record.principal.clone()
    } else {
        format!("{} via {}", record.principal, record.agent)
    };
    let what = format!("{} {}", record.tool, detail(&record.detail_json));
    let what = what.trim();
    format!(
        "{:>6}  {}  {:<10} {who}  {}",
        record.seq,
        texts::time(record.time_ms),
        record.kind,
        texts::shortened(what, 160)
    )
}

/// What a record says, for a person: hashes, keys and times are for `--json`. A summary says it all.
fn detail(json: &str) -> String {
    const FOR_MACHINES: [&str; 8] = [
        "action_hash",
        "approval_id",
        "capabilities",
        "expires_ms",
        "fingerprint",
        "key",
        "process",
        "sha256",
    ];
    let serde_json::Value::Object(mut fields) = output::value(json) else {
        return texts::arguments(json);
    };
    if let Some(summary) = fields.get("summary").and_then(serde_json::Value::as_str) {
        return summary.to_owned();
    }
    fields.retain(|name, _| !FOR_MACHINES.contains(&name.as_str()));
    texts::arguments(&serde_json::Value::Object(fields).to_string())
}

async fn verify(global: &Global, machine: &Machine) -> Result<Exit, Failure> {
    let reply = repeatable(|| {
        let mut client = machine.tools();
        async move { client.verify_ledger(Empty {}).await }
    })
    .await?;
    if global.json {
        output::json(&reply);
    } else if reply.ok {
        output::line(format!(
            "the ledger is whole: {} records, head {}",
            reply.records, reply.head_hash
        ));
    } else {
        output::line(format!(
            "the ledger is BROKEN at record {}: {}",
            reply.bad_seq, reply.problem
        ));
    }
    Ok(if reply.ok { Exit::Ok } else { Exit::Failed })
}

/// What an id that was given without its kind can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Call,
    Task,
    Goal,
}

pub(crate) async fn rollback(
    global: &Global,
    what: &[String],
    dry_run: bool,
) -> Result<Exit, Failure> {
    let (kind, id) = match what {
        [kind, id] => {
            let kind = match kind.as_str() {
                "call" => Kind::Call,
                "task" => Kind::Task,
                "goal" => Kind::Goal,
                other => {
                    return Err(Failure::usage(format!(
                        "`{other}` cannot be rolled back; there are call, task and goal"
                    )));
                }
            };
            (Some(kind), id.clone())
        }
        [id] => (None, id.clone()),
        _ => return Err(Failure::usage("say what to roll back")),
    };
    let machine = connect(global).await?;
    let kind = match kind {
        Some(kind) => kind,
        None => detect(&machine, &id).await?,
    };
    let mut request = RollbackRequest {
        dry_run,
        ..RollbackRequest::default()
    };
    match kind {
        Kind::Call => request.call_id = id,
        Kind::Task => request.task_id = id,
        Kind::Goal => request.goal_id = id,
    }
    let reply = machine.tools().rollback(request).await?.into_inner();
    if global.json {
        output::json(&reply);
    } else {
        for call in &reply.calls {
            output::line(format!(
                "{}  {} {}  {}",
                call.call_id, call.tool, call.outcome, call.detail
            ));
        }
        if reply.calls.is_empty() {
            output::line("there is nothing to undo");
        } else if !reply.complete {
            output::line("not everything could be undone");
        }
    }
    Ok(if reply.complete || dry_run {
        Exit::Ok
    } else {
        Exit::Failed
    })
}

/// Looks in the ledger for what an id belongs to.
async fn detect(machine: &Machine, id: &str) -> Result<Kind, Failure> {
    let ledger = |request: ListLedgerRequest| {
        let mut client = machine.tools();
        async move { Ok::<_, Failure>(client.list_ledger(request).await?.into_inner().records) }
    };
    let one = ListLedgerRequest {
        limit: 1,
        ..ListLedgerRequest::default()
    };
    let by_call = ListLedgerRequest {
        call_id: id.to_owned(),
        ..one.clone()
    };
    if !ledger(by_call).await?.is_empty() {
        return Ok(Kind::Call);
    }
    let by_goal = ListLedgerRequest {
        goal_id: id.to_owned(),
        ..one
    };
    if !ledger(by_goal).await?.is_empty() {
        return Ok(Kind::Goal);
    }
    // Tasks have no filter of their own; the recent part of the ledger is enough to find one.
    let recent = ListLedgerRequest {
        limit: 1000,
        newest_first: true,
        ..ListLedgerRequest::default()
    };
    if ledger(recent)
        .await?
        .iter()
        .any(|record| record.task_id == id)
    {
        return Ok(Kind::Task);
    }
    Err(
        Failure::not_found(format!("the ledger has nothing under the id {id}")).hint(
            "`aios audit list` and `aios goal trace ID` show ids; or say `aios rollback task ID`",
        ),
    )
}
