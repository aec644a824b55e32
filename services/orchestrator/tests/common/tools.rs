//! A tools daemon: a catalogue, checks, grants, a ledger, and executions that are counted by key.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use aios_kit::{Category, Error as KitError};
use aios_proto::v1::{self, tools_server::Tools};
use aios_tool_api::canonical;
use serde_json::{Value, json};
use tonic::{Request, Response, Status};

use super::Chaos;

/// Names and JSON types.
type Arguments = &'static [(&'static str, &'static str)];

/// The tools of this release as `tools.toml` fixes them: name, risk, required and optional arguments.
const CATALOGUE: &[(&str, &str, Arguments, Arguments)] = &[
    (
        "fs.read",
        "low",
        &[("path", "string")],
        &[("offset", "integer"), ("limit", "integer")],
    ),
    (
        "fs.write",
        "medium",
        &[("path", "string"), ("content", "string")],
        &[("mode", "string"), ("append", "boolean")],
    ),
    (
        "fs.list",
        "low",
        &[("path", "string")],
        &[("recursive", "boolean"), ("hidden", "boolean")],
    ),
    ("fs.stat", "low", &[("path", "string")], &[]),
    (
        "fs.mkdir",
        "medium",
        &[("path", "string")],
        &[("mode", "string")],
    ),
    (
        "fs.delete",
        "high",
        &[("path", "string")],
        &[("recursive", "boolean")],
    ),
    (
        "fs.search",
        "low",
        &[("path", "string")],
        &[
            ("name", "string"),
            ("contains", "string"),
            ("min_size", "string"),
            ("max_size", "string"),
            ("newer_than", "string"),
            ("older_than", "string"),
        ],
    ),
    (
        "fs.disk_usage",
        "low",
        &[("path", "string")],
        &[("depth", "integer")],
    ),
    (
        "process.list",
        "low",
        &[],
        &[
            ("name", "string"),
            ("user", "string"),
            ("sort_by", "string"),
            ("limit", "integer"),
        ],
    ),
    ("process.info", "low", &[("pid", "integer")], &[]),
    ("service.list", "low", &[], &[]),
    ("service.status", "low", &[("name", "string")], &[]),
    ("service.start", "medium", &[("name", "string")], &[]),
    ("service.stop", "medium", &[("name", "string")], &[]),
    (
        "service.define",
        "medium",
        &[("name", "string"), ("command", "string")],
        &[("args", "array"), ("user", "string")],
    ),
    ("service.remove", "high", &[("name", "string")], &[]),
    (
        "service.logs",
        "low",
        &[("name", "string")],
        &[("lines", "integer"), ("since", "string")],
    ),
    ("net.interfaces", "low", &[], &[]),
    (
        "net.check_port",
        "low",
        &[("port", "integer")],
        &[("host", "string")],
    ),
    (
        "net.http_request",
        "low",
        &[("url", "string")],
        &[("method", "string")],
    ),
    ("pkg.search", "low", &[("query", "string")], &[]),
    (
        "pkg.install",
        "medium",
        &[("name", "string")],
        &[("version", "string")],
    ),
    (
        "pkg.remove",
        "high",
        &[("name", "string")],
        &[("purge", "boolean")],
    ),
    ("pkg.list", "low", &[], &[("filter", "string")]),
    ("monitor.cpu", "low", &[], &[]),
    ("monitor.memory", "low", &[], &[]),
    ("monitor.disk", "low", &[], &[]),
    ("monitor.health", "low", &[], &[]),
    ("hw.info", "low", &[], &[]),
    ("storage.format", "critical", &[("device", "string")], &[]),
];

/// The catalogue on the wire.
pub fn catalogue() -> Vec<v1::ToolInfo> {
    CATALOGUE
        .iter()
        .map(|(name, risk, required, optional)| {
            let properties: serde_json::Map<String, Value> = required
                .iter()
                .chain(*optional)
                .map(|(name, kind)| ((*name).to_owned(), json!({ "type": kind })))
                .collect();
            let required: Vec<&str> = required.iter().map(|(name, _)| *name).collect();
            let schema = json!({
                "type": "object", "properties": properties, "required": required, "additionalProperties": false,
            });
            v1::ToolInfo {
                name: (*name).to_owned(),
                summary: format!("{name}."),
                args_schema: schema.to_string(),
                result_schema: "{}".to_owned(),
                risk: (*risk).to_owned(),
                deadline_ms: 3_000,
                capability: name.replace('.', ":"),
                ..v1::ToolInfo::default()
            }
        })
        .collect()
}

/// What a call comes to.
pub type Behaviour = Arc<dyn Fn(&str, &Value, u32) -> Result<Value, KitError> + Send + Sync>;

#[derive(Debug, Default)]
pub struct State {
    pub grants: HashMap<String, (v1::Grant, bool)>,
    pub ledger: Vec<v1::LedgerRecord>,
    pub outcomes: HashMap<String, v1::ExecuteReply>,
    /// How often each key was really carried out.
    pub executed: BTreeMap<String, u32>,
    /// Tools in the order in which they were carried out.
    pub order: Vec<(String, Value)>,
    pub checked: Vec<v1::CheckCallRequest>,
    pub running: usize,
}

#[derive(Clone)]
pub struct FakeTools {
    pub state: Arc<Mutex<State>>,
    pub chaos: Arc<Chaos>,
    pub behaviour: Arc<Mutex<Behaviour>>,
    pub slowness: Arc<Mutex<HashMap<String, Duration>>>,
    turns: Arc<Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>>,
}

impl FakeTools {
    pub fn new(chaos: Arc<Chaos>) -> Self {
        Self {
            state: Arc::default(),
            chaos,
            behaviour: Arc::new(Mutex::new(Arc::new(world))),
            slowness: Arc::default(),
            turns: Arc::default(),
        }
    }

    fn record(
        &self,
        kind: &str,
        principal: &str,
        task: (&str, &str),
        call_id: &str,
        tool: &str,
        detail: &Value,
    ) -> u64 {
        let mut state = self.state.lock().unwrap();
        let seq = state.ledger.len() as u64 + 1;
        state.ledger.push(v1::LedgerRecord {
            seq,
            kind: kind.to_owned(),
            principal: principal.to_owned(),
            goal_id: task.0.to_owned(),
            task_id: task.1.to_owned(),
            call_id: call_id.to_owned(),
            tool: tool.to_owned(),
            detail_json: detail.to_string(),
            ..v1::LedgerRecord::default()
        });
        seq
    }

    /// What an agent's call comes to: once per key, and only under a grant for exactly this.
    pub async fn execute(&self, agent: &str, request: &v1::RunTaskRequest) -> v1::ExecuteReply {
        let turn = self
            .turns
            .lock()
            .unwrap()
            .entry(request.idempotency_key.clone())
            .or_default()
            .clone();
        let _turn = turn.lock().await;
        let args: Value = serde_json::from_str(&request.args_json).unwrap();
        let hash = canonical::action_hash(&request.tool, &args);
        let key = &request.idempotency_key;
        if let Some(done) = self.state.lock().unwrap().outcomes.get(key) {
            return v1::ExecuteReply {
                replayed: true,
                ..done.clone()
            };
        }
        let granted = self
            .state
            .lock()
            .unwrap()
            .grants
            .get(&request.task_id)
            .cloned();
        let fits = granted.as_ref().is_some_and(|(grant, open)| {
            *open && grant.agent == agent && grant.tool == request.tool && grant.action_hash == hash
        });
        let Some((grant, _)) = granted.filter(|_| fits) else {
            return v1::ExecuteReply {
                outcome: "denied".to_owned(),
                error: Some(KitError::new(Category::Auth, "no grant covers this").detail()),
                ..v1::ExecuteReply::default()
            };
        };
        let call_id = format!("call-{key}");
        let task = (request.goal_id.as_str(), request.task_id.as_str());
        let intent_seq = self.record(
            "intent",
            &grant.principal,
            task,
            &call_id,
            &request.tool,
            &args,
        );
        self.state.lock().unwrap().running += 1;
        let slow = self
            .slowness
            .lock()
            .unwrap()
            .get(&request.tool)
            .copied()
            .unwrap_or_default();
        tokio::time::sleep(slow).await;
        let count = {
            let mut state = self.state.lock().unwrap();
            state.running -= 1;
            state.order.push((request.tool.clone(), args.clone()));
            let count = state.executed.entry(key.clone()).or_default();
            *count += 1;
            state
                .order
                .iter()
                .filter(|(tool, _)| *tool == request.tool)
                .count()
        };
        let behaviour = self.behaviour.lock().unwrap().clone();
        let result = behaviour(&request.tool, &args, u32::try_from(count).unwrap());
        let (outcome, result_json, error) = match &result {
            Ok(value) => ("ok", value.to_string(), None),
            Err(error) if error.message() == "unknown" => {
                ("unknown", String::new(), Some(error.detail()))
            }
            Err(error) => ("failed", String::new(), Some(error.detail())),
        };
        let detail = json!({ "outcome": outcome });
        let outcome_seq = self.record(
            "outcome",
            &grant.principal,
            task,
            &call_id,
            &request.tool,
            &detail,
        );
        let reply = v1::ExecuteReply {
            call_id,
            outcome: outcome.to_owned(),
            result_json,
            error,
            intent_seq,
            outcome_seq,
            ..v1::ExecuteReply::default()
        };
        self.state
            .lock()
            .unwrap()
            .outcomes
            .insert(key.clone(), reply.clone());
        reply
    }
}

/// How the tools of a small world behave.
pub fn world(tool: &str, args: &Value, _count: u32) -> Result<Value, KitError> {
    let text = |name: &str| args.get(name).and_then(Value::as_str).unwrap_or_default();
    Ok(match tool {
        "fs.write" => {
            json!({"path": text("path"), "bytes": text("content").len(), "mode": "0644", "created": true})
        }
        "fs.read" => json!({"path": text("path"), "content": "welcome aboard", "lines": 1}),
        "process.list" => json!({
            "processes": [{"pid": 7, "name": "aios-runtime", "user": "aios-runtime", "memory_bytes": 1_610_612_736_u64}],
            "matched": 1, "total": 1, "truncated": false,
        }),
        "monitor.disk" => json!({"filesystems": [{
            "mount_point": "/", "device": "overlay", "kind": "overlay", "used_percent": 12.4, "used_bytes": 1024,
            "size_bytes": 4096, "available_bytes": 3072,
        }]}),
        "pkg.install" => json!({"name": text("name"), "version": "1.22", "installed": []}),
        "pkg.remove" => json!({"name": text("name"), "removed": [], "was_installed": true}),
        "pkg.list" => {
            json!({"packages": [{"name": "nginx-common", "version": "1.22"}], "total": 1})
        }
        "service.define" => json!({"name": text("name"), "state": "stopped"}),
        "service.start" | "service.stop" => {
            json!({"service": {"name": text("name"), "state": "ready", "pid": 42}})
        }
        "service.remove" => json!({"name": text("name"), "was_running": false}),
        "service.list" => {
            json!({"services": [{"name": "console", "state": "ready"}], "total": 1, "running": 1})
        }
        "service.status" => json!({"name": text("name"), "state": "ready", "running": true}),
        "net.check_port" => {
            json!({"host": "127.0.0.1", "port": args["port"], "open": true, "error": ""})
        }
        "net.http_request" => {
            json!({"url": text("url"), "status": 200, "body": "hello", "duration_ms": 3})
        }
        "fs.delete" => json!({"path": text("path"), "removed": 1}),
        _ => json!({}),
    })
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Tools for FakeTools {
    async fn list_tools(&self, _: Request<v1::ListToolsRequest>) -> Answer<v1::ListToolsReply> {
        Ok(Response::new(v1::ListToolsReply { tools: catalogue() }))
    }

    async fn check_call(
        &self,
        request: Request<v1::CheckCallRequest>,
    ) -> Answer<v1::CheckCallReply> {
        if self.chaos.point() {
            return Err(Status::unavailable("struck"));
        }
        let request = request.into_inner();
        self.state.lock().unwrap().checked.push(request.clone());
        let args: Value = serde_json::from_str(&request.args_json).unwrap();
        let info = catalogue()
            .into_iter()
            .find(|info| info.name == request.tool)
            .unwrap();
        let path = args.get("path").and_then(Value::as_str).unwrap_or_default();
        let mut reply = v1::CheckCallReply {
            verdict: "ok".to_owned(),
            risk: info.risk,
            action_hash: canonical::action_hash(&request.tool, &args),
            canonical_args_json: canonical::to_string(&args),
            deadline_ms: 3_000,
            capabilities: vec![info.capability],
            ..v1::CheckCallReply::default()
        };
        if path == "/etc/shadow" || request.role.is_empty() {
            "denied".clone_into(&mut reply.verdict);
            "no capability names /etc/shadow".clone_into(&mut reply.reason);
            let task = (request.goal_id.as_str(), "");
            reply.ledger_seq =
                self.record("denial", &request.principal, task, "", &request.tool, &args);
        } else if path.contains("..") {
            "invalid".clone_into(&mut reply.verdict);
            "the path is not canonical".clone_into(&mut reply.reason);
        }
        Ok(Response::new(reply))
    }

    async fn open_grant(&self, request: Request<v1::Grant>) -> Answer<v1::Empty> {
        if self.chaos.point() {
            return Err(Status::unavailable("struck"));
        }
        let grant = request.into_inner();
        self.state
            .lock()
            .unwrap()
            .grants
            .insert(grant.task_id.clone(), (grant, true));
        Ok(Response::new(v1::Empty {}))
    }

    async fn close_grant(&self, request: Request<v1::CloseGrantRequest>) -> Answer<v1::Empty> {
        if self.chaos.point() {
            return Err(Status::unavailable("struck"));
        }
        if let Some((_, open)) = self
            .state
            .lock()
            .unwrap()
            .grants
            .get_mut(&request.into_inner().task_id)
        {
            *open = false;
        }
        Ok(Response::new(v1::Empty {}))
    }

    async fn execute(&self, _: Request<v1::ExecuteRequest>) -> Answer<v1::ExecuteReply> {
        Err(Status::permission_denied(
            "agents call in this process here",
        ))
    }

    async fn rollback(&self, _: Request<v1::RollbackRequest>) -> Answer<v1::RollbackReply> {
        Err(Status::unimplemented("not asked for here"))
    }

    async fn record_event(
        &self,
        request: Request<v1::RecordEventRequest>,
    ) -> Answer<v1::RecordEventReply> {
        let event = request.into_inner();
        let detail: Value = serde_json::from_str(&event.detail_json).unwrap();
        let task = (event.goal_id.as_str(), event.task_id.as_str());
        let seq = self.record(&event.kind, &event.principal, task, "", "", &detail);
        Ok(Response::new(v1::RecordEventReply { seq }))
    }

    async fn list_ledger(
        &self,
        request: Request<v1::ListLedgerRequest>,
    ) -> Answer<v1::ListLedgerReply> {
        let request = request.into_inner();
        let state = self.state.lock().unwrap();
        let fits = |record: &&v1::LedgerRecord| {
            record.seq > request.after_seq
                && (request.goal_id.is_empty() || record.goal_id == request.goal_id)
        };
        let records = state
            .ledger
            .iter()
            .filter(fits)
            .take(request.limit as usize)
            .cloned()
            .collect();
        Ok(Response::new(v1::ListLedgerReply {
            records,
            ..v1::ListLedgerReply::default()
        }))
    }

    async fn verify_ledger(&self, _: Request<v1::Empty>) -> Answer<v1::VerifyLedgerReply> {
        Err(Status::unimplemented("not asked for here"))
    }

    async fn tools_health(&self, _: Request<v1::Empty>) -> Answer<v1::ToolsHealthReply> {
        Err(Status::unimplemented("not asked for here"))
    }
}
