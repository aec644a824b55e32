//! The methods of `aios.v1.Tools`: from the wire to the engine and back. Who may call which method
//! was decided before (see [`crate::access`]).

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use aios_kit::{Category, Error, Identities, Principal, identity::Caller, process::ResidentMemory};
use aios_proto::v1::{self, tools_server::Tools};
use serde_json::{Value, json};
use tonic::{Request, Response, Status};

use crate::{
    authorise::{self, Subject},
    calls::Selection,
    engine::{Chain, Engine},
    grants,
    ledger::{Entry, Filter, Kind, LedgerError, Record, now_ms},
    outcome::{kit_error, ledger_error},
    pipeline::Asked,
    prepare::OnBehalf,
    redact,
};

/// Longest that validating a call may take.
const CHECK_LIMIT: Duration = Duration::from_secs(10);
/// A grant lasts at most so long, whatever was asked for.
const LONGEST_GRANT_MS: u64 = 24 * 3600 * 1000;
/// Longest summary or detail of an event from another daemon, in bytes.
const LONGEST_EVENT: usize = 64 << 10;

/// The service.
#[derive(Debug)]
pub struct ToolsService {
    engine: Arc<Engine>,
    identities: Arc<Identities>,
    memory: Option<ResidentMemory>,
}

type Result1<T> = Result<Response<T>, Status>;

impl ToolsService {
    /// The service over an engine.
    #[must_use]
    pub fn new(engine: Arc<Engine>, identities: Arc<Identities>) -> Self {
        Self {
            engine,
            identities,
            memory: ResidentMemory::open().ok(),
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Engine) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Status> {
        let engine = Arc::clone(&self.engine);
        tokio::task::spawn_blocking(move || work(&engine))
            .await
            .map_err(|error| Error::new(Category::Internal, error.to_string()))?
            .map_err(Status::from)
    }
}

#[tonic::async_trait]
impl Tools for ToolsService {
    async fn list_tools(
        &self,
        request: Request<v1::ListToolsRequest>,
    ) -> Result1<v1::ListToolsReply> {
        let caller = self.identities.caller_on_behalf(&request)?;
        let mine = request.into_inner().mine;
        let engine = &self.engine;
        let rights = match &caller.process {
            Principal::Agent(name) => engine.agents.get(name),
            _ => engine.policy.role(&caller.role),
        };
        let usable = |namespace: &str, action: &str| {
            rights.is_some_and(|rights| rights.may_give(namespace, action))
        };
        let tools = engine
            .catalogue
            .iter()
            .filter(|entry| !mine || usable(entry.spec.capability.0, entry.spec.capability.1))
            .map(|entry| entry.info())
            .collect();
        Ok(Response::new(v1::ListToolsReply { tools }))
    }

    async fn check_call(
        &self,
        request: Request<v1::CheckCallRequest>,
    ) -> Result1<v1::CheckCallReply> {
        let caller = self.identities.caller_on_behalf(&request)?;
        let asked = request.into_inner();
        let reply = self
            .blocking(move |engine| {
                check_call(engine, &caller, &asked).map_err(|error| ledger_error(&error))
            })
            .await?;
        Ok(Response::new(reply))
    }

    async fn open_grant(&self, request: Request<v1::Grant>) -> Result1<v1::Empty> {
        let mut grant = request.into_inner();
        for (value, what) in [
            (&grant.task_id, "task_id"),
            (&grant.agent, "agent"),
            (&grant.tool, "tool"),
            (&grant.action_hash, "action_hash"),
            (&grant.principal, "principal"),
            (&grant.role, "role"),
        ] {
            if value.is_empty() {
                return Err(invalid(format!("a grant without {what} would be of anything")).into());
            }
        }
        self.engine
            .catalogue
            .get(&grant.tool)
            .map_err(|error| kit_error(&error))?;
        if self.identities.agent_uid(&grant.agent).is_none() {
            return Err(invalid(format!("there is no agent `{}`", grant.agent)).into());
        }
        let now = now_ms();
        if grant.expires_ms <= now {
            return Err(invalid("the grant has expired already").into());
        }
        grant.expires_ms = grant.expires_ms.min(now + LONGEST_GRANT_MS);
        let entry = Entry {
            kind: Kind::Grant,
            principal: grant.principal.clone(),
            agent: grant.agent.clone(),
            goal_id: grant.goal_id.clone(),
            task_id: grant.task_id.clone(),
            call_id: String::new(),
            tool: grant.tool.clone(),
            detail: json!({
                "role": grant.role,
                "action_hash": grant.action_hash,
                "expires_ms": grant.expires_ms,
                "approval_id": grant.approval_id,
            }),
        };
        self.engine
            .ledger
            .write(move |batch| {
                grants::put(batch, &grant)?;
                batch.append(entry)
            })
            .await
            .map_err(|error| ledger_error(&error))?;
        Ok(Response::new(v1::Empty {}))
    }

    async fn close_grant(&self, request: Request<v1::CloseGrantRequest>) -> Result1<v1::Empty> {
        let task = request.into_inner().task_id;
        self.engine
            .ledger
            .write(move |batch| grants::close(batch, &task))
            .await
            .map_err(|error| ledger_error(&error))?;
        Ok(Response::new(v1::Empty {}))
    }

    async fn execute(&self, request: Request<v1::ExecuteRequest>) -> Result1<v1::ExecuteReply> {
        let caller = self.identities.caller_on_behalf(&request)?;
        let asked = request.into_inner();
        let args = match parse_args(&asked.args_json) {
            Ok(args) => args,
            Err(error) => {
                return Ok(Response::new(v1::ExecuteReply {
                    outcome: "invalid".to_owned(),
                    error: Some(error.detail()),
                    ..v1::ExecuteReply::default()
                }));
            }
        };
        let asked = Asked {
            caller,
            tool: asked.tool,
            args,
            task_id: asked.task_id,
            key: asked.idempotency_key,
            limit: (asked.deadline_ms > 0).then(|| Duration::from_millis(asked.deadline_ms.into())),
            dry_run: asked.dry_run,
        };
        let reply = Arc::clone(&self.engine).execute(asked).await?;
        Ok(Response::new(reply))
    }

    async fn rollback(&self, request: Request<v1::RollbackRequest>) -> Result1<v1::RollbackReply> {
        let caller = self.identities.caller_on_behalf(&request)?;
        let asked = request.into_inner();
        let chosen: Vec<Selection> = [
            (asked.call_id, Selection::Call as fn(String) -> Selection),
            (asked.task_id, Selection::Task),
            (asked.goal_id, Selection::Goal),
        ]
        .into_iter()
        .filter(|(id, _)| !id.is_empty())
        .map(|(id, selection)| selection(id))
        .collect();
        let [selection] = <[Selection; 1]>::try_from(chosen)
            .map_err(|_| invalid("name exactly one of call, task and goal"))?;
        let reply = self
            .blocking(move |engine| engine.roll_back(&caller, &selection, asked.dry_run))
            .await?;
        Ok(Response::new(reply))
    }

    async fn record_event(
        &self,
        request: Request<v1::RecordEventRequest>,
    ) -> Result1<v1::RecordEventReply> {
        let caller = self.identities.caller_on_behalf(&request)?;
        let event = request.into_inner();
        let kind = Kind::of_event(&event.kind).ok_or_else(|| {
            invalid(format!(
                "`{}` is not an event that a daemon records",
                event.kind
            ))
            .hint("management, refusal, approval, boot and lifecycle are")
        })?;
        if event.summary.len() + event.detail_json.len() > LONGEST_EVENT {
            return Err(invalid(format!("an event has at most {LONGEST_EVENT} bytes")).into());
        }
        let detail: Value = if event.detail_json.is_empty() {
            Value::Null
        } else {
            serde_json::from_str(&event.detail_json)
                .map_err(|error| invalid(format!("detail_json: {error}")))?
        };
        let may_speak_for_others = matches!(&caller.process,
            Principal::Daemon(name) if name == "console" || name == "orchestrator");
        let principal = if may_speak_for_others && !event.principal.is_empty() {
            event.principal
        } else {
            caller.principal
        };
        let mut entry = Entry::new(
            kind,
            principal,
            json!({
                "process": caller.process.to_string(),
                "summary": event.summary,
                "detail": redact::for_ledger(&detail, &[]),
            }),
        );
        entry.goal_id = event.goal_id;
        entry.task_id = event.task_id;
        let seq = self
            .engine
            .ledger
            .write(move |batch| batch.append(entry))
            .await
            .map_err(|error| ledger_error(&error))?;
        Ok(Response::new(v1::RecordEventReply { seq }))
    }

    async fn list_ledger(
        &self,
        request: Request<v1::ListLedgerRequest>,
    ) -> Result1<v1::ListLedgerReply> {
        let caller = self.identities.caller_on_behalf(&request)?;
        self.may_read_ledger(&caller)?;
        let asked = request.into_inner();
        let filter = Filter {
            after_seq: asked.after_seq,
            limit: asked.limit,
            goal_id: asked.goal_id,
            call_id: asked.call_id,
            tool: asked.tool,
            kind: asked.kind,
            principal: asked.principal,
            newest_first: asked.newest_first,
        };
        let page = self
            .blocking(move |engine| {
                engine
                    .ledger
                    .list(&filter)
                    .map_err(|error| ledger_error(&error))
            })
            .await?;
        Ok(Response::new(v1::ListLedgerReply {
            records: page.records.into_iter().map(wire_record).collect(),
            head_seq: page.head_seq,
            head_hash: page.head_hash,
        }))
    }

    async fn verify_ledger(&self, request: Request<v1::Empty>) -> Result1<v1::VerifyLedgerReply> {
        let caller = self.identities.caller_on_behalf(&request)?;
        self.may_read_ledger(&caller)?;
        let (verdict, at_start) = self
            .blocking(|engine| {
                let verdict = engine
                    .ledger
                    .verify()
                    .map_err(|error| ledger_error(&error))?;
                Ok((verdict, engine.chain()))
            })
            .await?;
        // What did not fit at start stays so until the daemon is started on a ledger that fits.
        let bad = verdict.bad.or(match at_start {
            Chain::Broken { seq, problem } => Some((seq, problem)),
            Chain::Checking | Chain::Intact => None,
        });
        let (bad_seq, problem) = bad.clone().unwrap_or_default();
        Ok(Response::new(v1::VerifyLedgerReply {
            ok: bad.is_none(),
            records: verdict.records,
            head_hash: verdict.head_hash,
            bad_seq,
            problem,
        }))
    }

    async fn tools_health(&self, _: Request<v1::Empty>) -> Result1<v1::ToolsHealthReply> {
        let (state, reason) = match self.engine.chain() {
            Chain::Intact => ("ok", String::new()),
            Chain::Checking => ("ok", "the ledger is being verified".to_owned()),
            Chain::Broken { seq, problem } => (
                "degraded",
                format!(
                    "nothing is changed: the ledger does not verify from record {seq} on: {problem}"
                ),
            ),
        };
        let uptime = self.engine.started.elapsed().as_millis();
        Ok(Response::new(v1::ToolsHealthReply {
            health: Some(v1::HealthReply {
                state: state.to_owned(),
                reason,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                uptime_ms: u64::try_from(uptime).unwrap_or(u64::MAX),
                resident_bytes: self.memory.as_ref().map_or(0, ResidentMemory::bytes),
            }),
            tools: u32::try_from(self.engine.catalogue.len()).unwrap_or(u32::MAX),
            ledger_records: self.engine.ledger.tail().seq,
            calls_interrupted: self.engine.interrupted.load(Ordering::Relaxed),
        }))
    }
}

impl ToolsService {
    /// A person needs a role that holds `ledger:read`; the orchestrator may read for itself.
    fn may_read_ledger(&self, caller: &Caller) -> Result<(), Error> {
        let for_itself = caller.principal == caller.process.to_string();
        if for_itself && caller.process == Principal::Daemon("orchestrator".to_owned()) {
            return Ok(());
        }
        let subject = Subject {
            role: &caller.role,
            agent: None,
        };
        let needed = [aios_tool_api::Capability::new("ledger", "read")];
        authorise::check(
            &self.engine.policy,
            &self.engine.agents,
            subject,
            &needed,
            false,
        )
        .map_err(|refusal| Error::new(Category::Auth, refusal.message).hint(refusal.hint))
    }
}

fn check_call(
    engine: &Engine,
    caller: &Caller,
    asked: &v1::CheckCallRequest,
) -> Result<v1::CheckCallReply, LedgerError> {
    let refused = |verdict: &str, error: &Error| v1::CheckCallReply {
        verdict: verdict.to_owned(),
        reason: error.to_string(),
        ..v1::CheckCallReply::default()
    };
    let args = match parse_args(&asked.args_json) {
        Ok(args) => args,
        Err(error) => return Ok(refused("invalid", &error)),
    };
    let context = engine.context(CHECK_LIMIT);
    let prepared = match engine.validate(&asked.tool, &args, &context) {
        Ok(prepared) => prepared,
        Err(error) => return Ok(refused("invalid", &kit_error(&error))),
    };
    // The two daemons that may call for others say for whom in the message or in the metadata.
    let forwards = matches!(caller.process, Principal::Daemon(_));
    let said = |text: &str, otherwise: &str| {
        if forwards && !text.is_empty() {
            text.to_owned()
        } else {
            otherwise.to_owned()
        }
    };
    let who = OnBehalf {
        principal: said(&asked.principal, &caller.principal),
        role: said(&asked.role, &caller.role),
        agent: asked.agent.clone(),
        goal_id: asked.goal_id.clone(),
        task_id: String::new(),
    };
    let subject = Subject {
        role: &who.role,
        agent: (!who.agent.is_empty()).then_some(&who.agent),
    };
    let verdict = engine.authorise(&prepared, subject);
    let mut reply = v1::CheckCallReply {
        verdict: "ok".to_owned(),
        risk: prepared.risk.name().to_owned(),
        action_hash: prepared.action_hash.clone(),
        canonical_args_json: aios_tool_api::canonical::to_string(&prepared.args),
        reversible: prepared.entry.spec.undo.is_some(),
        capabilities: prepared
            .capabilities
            .iter()
            .map(ToString::to_string)
            .collect(),
        deadline_ms: u32::try_from(prepared.entry.spec.deadline.as_millis()).unwrap_or(u32::MAX),
        ..v1::CheckCallReply::default()
    };
    if let Err(refusal) = verdict {
        reply.verdict = "denied".to_owned();
        reply.reason = format!("{} ({})", refusal.message, refusal.hint);
        let process = caller.process.to_string();
        reply.ledger_seq = engine.record_denial(&prepared, &who, &process, &refusal)?;
    }
    Ok(reply)
}

fn parse_args(text: &str) -> Result<Value, Error> {
    if text.trim().is_empty() {
        return Ok(json!({}));
    }
    serde_json::from_str(text)
        .map_err(|error| invalid(format!("the arguments are not JSON: {error}")))
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Category::Validation, message)
}

fn wire_record(record: Record) -> v1::LedgerRecord {
    v1::LedgerRecord {
        seq: record.seq,
        time_ms: record.time_ms,
        kind: record.kind,
        principal: record.principal,
        agent: record.agent,
        goal_id: record.goal_id,
        task_id: record.task_id,
        call_id: record.call_id,
        tool: record.tool,
        detail_json: record.detail_json,
        prev_hash: record.prev_hash,
        hash: record.hash,
    }
}
