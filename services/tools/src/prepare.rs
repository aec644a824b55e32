//! The first two steps of every call, which change nothing: validate, and authorise.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use aios_proto::v1;
use aios_tool_api::{Capability, Context, Risk, ToolError, ToolErrorKind, canonical};
use serde_json::{Value, json};

use crate::{
    authorise::{self, Refusal, Subject},
    catalogue::CatalogueEntry,
    engine::Engine,
    grants,
    ledger::{Entry, Kind, LedgerError, now_ms},
    redact,
};

/// A call whose arguments are right.
pub struct Prepared {
    /// The tool.
    pub entry: Arc<CatalogueEntry>,
    /// The canonical arguments.
    pub args: Value,
    /// The risk of this call.
    pub risk: Risk,
    /// Whether making it twice leaves what making it once leaves.
    pub idempotent: bool,
    /// What it needs.
    pub capabilities: Vec<Capability>,
    /// What approvals and grants are bound to.
    pub action_hash: String,
}

impl Prepared {
    /// Whether the call may change something.
    #[must_use]
    pub fn changes(&self) -> bool {
        CatalogueEntry::changes(self.risk)
    }
}

/// For whom and for what a call is made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OnBehalf {
    /// The person.
    pub principal: String,
    /// Their role.
    pub role: String,
    /// The agent that acts, or empty.
    pub agent: String,
    /// The goal, or empty.
    pub goal_id: String,
    /// The task, or empty.
    pub task_id: String,
}

/// Runs a tool's code; a panic in it is a fault of that call and of nothing else.
///
/// # Errors
/// The tool's error.
pub fn guarded<T>(tool: &str, work: impl FnOnce() -> Result<T, ToolError>) -> Result<T, ToolError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let said = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_default();
        tracing::error!(tool, said, "a tool panicked");
        Err(ToolError::new(
            ToolErrorKind::Internal,
            format!("{tool} has a fault and stopped in the middle: {said}"),
        )
        .hint("look at what it was working on; the fault is in the log of aios-tools"))
    })
}

impl Engine {
    /// Validates: the tool exists, the arguments fit its schema and its type, and get their
    /// canonical form. Blocks.
    ///
    /// # Errors
    /// What is wrong with the name or the arguments.
    pub fn validate(
        &self,
        tool: &str,
        args: &Value,
        context: &Context,
    ) -> Result<Prepared, ToolError> {
        let entry = self.catalogue.get(tool)?;
        entry.validate(args)?;
        let args = guarded(tool, || entry.tool.normalise(args, context))?;
        Self::describe(entry, args)
    }

    /// The facts of a call whose arguments are canonical already.
    ///
    /// # Errors
    /// When the arguments are not the tool's.
    pub fn describe(entry: &Arc<CatalogueEntry>, args: Value) -> Result<Prepared, ToolError> {
        let name = entry.spec.name;
        let (risk, idempotent, capabilities) = guarded(name, || {
            Ok((
                entry.tool.risk(&args)?,
                entry.tool.idempotent(&args)?,
                entry.tool.capabilities(&args)?,
            ))
        })?;
        Ok(Prepared {
            entry: Arc::clone(entry),
            action_hash: canonical::action_hash(name, &args),
            args,
            risk,
            idempotent,
            capabilities,
        })
    }

    /// Whether `subject` may make the call.
    ///
    /// # Errors
    /// What is missing.
    pub fn authorise(&self, call: &Prepared, subject: Subject<'_>) -> Result<(), Refusal> {
        authorise::check(
            &self.policy,
            &self.agents,
            subject,
            &call.capabilities,
            call.changes(),
        )
    }

    /// The grant under which an agent makes a call. Blocks.
    ///
    /// # Errors
    /// The outer: the ledger cannot be read. The inner: there is no grant, or it is of another call.
    pub fn grant(
        &self,
        agent: &str,
        task_id: &str,
        tool: &str,
        action_hash: &str,
    ) -> Result<Result<v1::Grant, Refusal>, LedgerError> {
        let refusal = |message: String| Refusal {
            capability: String::new(),
            message,
            hint: "an agent makes exactly the call that the orchestrator opened for its task"
                .to_owned(),
        };
        if task_id.is_empty() {
            return Ok(Err(refusal(
                "an agent acts only for a task, and this call names none".to_owned(),
            )));
        }
        let Some(grant) = self
            .ledger
            .read(|connection| grants::find(connection, task_id))?
        else {
            return Ok(Err(refusal(format!(
                "nothing was granted for task {task_id}"
            ))));
        };
        Ok(grant
            .covers(agent, tool, action_hash, now_ms())
            .map_err(refusal)
            .map(|()| grant.terms))
    }

    /// Puts a refusal in the ledger and returns its number. Blocks.
    ///
    /// # Errors
    /// When it could not be recorded.
    pub fn record_denial(
        &self,
        call: &Prepared,
        who: &OnBehalf,
        process: &str,
        refusal: &Refusal,
    ) -> Result<u64, LedgerError> {
        let entry = entry_for(
            Kind::Denial,
            who,
            "",
            call.entry.spec.name,
            json!({
                "process": process,
                "role": who.role,
                "missing": refusal.capability,
                "reason": refusal.message,
                "args": redact::for_ledger(&call.args, call.entry.tool.redacted()),
                "action_hash": call.action_hash,
            }),
        );
        self.ledger.write_blocking(move |batch| batch.append(entry))
    }
}

/// A record about a call.
#[must_use]
pub fn entry_for(kind: Kind, who: &OnBehalf, call_id: &str, tool: &str, detail: Value) -> Entry {
    Entry {
        kind,
        principal: who.principal.clone(),
        agent: who.agent.clone(),
        goal_id: who.goal_id.clone(),
        task_id: who.task_id.clone(),
        call_id: call_id.to_owned(),
        tool: tool.to_owned(),
        detail,
    }
}
