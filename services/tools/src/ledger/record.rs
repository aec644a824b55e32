//! What a record is and how it is bound to the one before it.

use serde_json::{Value, json};

use aios_tool_api::canonical;

/// The `prev_hash` of the first record.
pub const NO_HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// What a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The first record of a ledger.
    Genesis,
    /// A call is about to act.
    Intent,
    /// What a call will be undone from, saved before it acts.
    PreImage,
    /// How a call ended.
    Outcome,
    /// A call or a method was refused.
    Denial,
    /// A call is about to be undone, or was.
    Rollback,
    /// The orchestrator let an agent make one call.
    Grant,
    /// Somebody managed the machine.
    Management,
    /// A daemon refused something.
    Refusal,
    /// A person approved or rejected an action.
    Approval,
    /// The machine booted.
    Boot,
    /// A daemon or agent started, stopped or recovered.
    Lifecycle,
}

impl Kind {
    /// The name in the ledger.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Genesis => "genesis",
            Self::Intent => "intent",
            Self::PreImage => "pre_image",
            Self::Outcome => "outcome",
            Self::Denial => "denial",
            Self::Rollback => "rollback",
            Self::Grant => "grant",
            Self::Management => "management",
            Self::Refusal => "refusal",
            Self::Approval => "approval",
            Self::Boot => "boot",
            Self::Lifecycle => "lifecycle",
        }
    }

    /// The kinds that another daemon may record.
    #[must_use]
    pub fn of_event(name: &str) -> Option<Self> {
        [
            Self::Management,
            Self::Refusal,
            Self::Approval,
            Self::Boot,
            Self::Lifecycle,
        ]
        .into_iter()
        .find(|kind| kind.name() == name)
    }
}

/// What is to be recorded; time, number and hashes are the ledger's.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What it is about.
    pub kind: Kind,
    /// The person or process that it is done for.
    pub principal: String,
    /// The agent that acts; empty when none does.
    pub agent: String,
    /// The goal; may be empty.
    pub goal_id: String,
    /// The task; may be empty.
    pub task_id: String,
    /// The call; may be empty.
    pub call_id: String,
    /// The tool; may be empty.
    pub tool: String,
    /// Everything else. Secrets have been replaced by their hashes.
    pub detail: Value,
}

impl Entry {
    /// An entry about no call in particular.
    pub fn new(kind: Kind, principal: impl Into<String>, detail: Value) -> Self {
        Self {
            kind,
            principal: principal.into(),
            agent: String::new(),
            goal_id: String::new(),
            task_id: String::new(),
            call_id: String::new(),
            tool: String::new(),
            detail,
        }
    }
}

/// A record as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// From 1, without gaps.
    pub seq: u64,
    /// Milliseconds since the epoch.
    pub time_ms: u64,
    /// See [`Kind::name`].
    pub kind: String,
    /// See [`Entry::principal`].
    pub principal: String,
    /// See [`Entry::agent`].
    pub agent: String,
    /// See [`Entry::goal_id`].
    pub goal_id: String,
    /// See [`Entry::task_id`].
    pub task_id: String,
    /// See [`Entry::call_id`].
    pub call_id: String,
    /// See [`Entry::tool`].
    pub tool: String,
    /// Canonical JSON.
    pub detail_json: String,
    /// The hash of the record before this one.
    pub prev_hash: String,
    /// SHA-256 over all of the above.
    pub hash: String,
}

impl Record {
    /// An entry at its place in the chain.
    #[must_use]
    pub fn chained(entry: Entry, seq: u64, time_ms: u64, prev_hash: &str) -> Self {
        let mut record = Self {
            seq,
            time_ms,
            kind: entry.kind.name().to_owned(),
            principal: entry.principal,
            agent: entry.agent,
            goal_id: entry.goal_id,
            task_id: entry.task_id,
            call_id: entry.call_id,
            tool: entry.tool,
            detail_json: canonical::to_string(&entry.detail),
            prev_hash: prev_hash.to_owned(),
            hash: String::new(),
        };
        record.hash = record.expected_hash();
        record
    }

    /// The hash that the other fields have. The detail goes in as the text that is stored, so that
    /// anyone who reads a record over the wire can recompute it.
    #[must_use]
    pub fn expected_hash(&self) -> String {
        let bound = json!({
            "agent": self.agent,
            "call_id": self.call_id,
            "detail_json": self.detail_json,
            "goal_id": self.goal_id,
            "kind": self.kind,
            "prev_hash": self.prev_hash,
            "principal": self.principal,
            "seq": self.seq,
            "task_id": self.task_id,
            "time_ms": self.time_ms,
            "tool": self.tool,
        });
        canonical::sha256_hex(canonical::to_string(&bound).as_bytes())
    }
}
