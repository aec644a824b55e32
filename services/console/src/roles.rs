//! Who may call what from outside: one table of every method that the console serves or passes on.
//!
//! A method that is not named here is denied, whoever calls. [`NEVER_REMOTE`] names the rest of the
//! protocol, so that a new method has to be put on one side or the other before the tests pass.

use std::{fmt, str::FromStr};

/// What a person may do; each role includes the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Sees.
    Reader,
    /// States goals and calls tools.
    Operator,
    /// Decides who else may.
    Admin,
}

impl Role {
    /// All roles, the weakest first.
    pub const ALL: [Self; 3] = [Self::Reader, Self::Operator, Self::Admin];

    /// The name in certificates, metadata and the ledger.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The text names no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no role; there are admin, operator and reader")]
pub struct UnknownRole(String);

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|role| role.name() == text)
            .ok_or_else(|| UnknownRole(text.to_owned()))
    }
}

/// Which process carries a method out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Backend {
    /// The console itself.
    Console,
    /// `aios-orchestrator`
    Orchestrator,
    /// `aios-tools`
    Tools,
    /// `aios-memory`
    Memory,
    /// `aios-runtime`
    Runtime,
}

impl Backend {
    /// The short name of the daemon, which is also that of its socket.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Console => "console",
            Self::Orchestrator => "orchestrator",
            Self::Tools => "tools",
            Self::Memory => "memory",
            Self::Runtime => "runtime",
        }
    }
}

/// Whether a call leaves the machine as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It only looks. Recorded soon after.
    Reads,
    /// It changes something. Recorded before it is passed on, or not passed on.
    Changes,
}

/// A correction of the message, where its fields could say more than the caller may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rewrite {
    /// Passed on as it came.
    None,
    /// `CheckCallRequest`: principal and role are the caller's, not the message's.
    CheckCall,
    /// `ExecuteRequest`: a task belongs to an agent, so a person's call names none.
    Execute,
}

/// One line of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// `/package.Service/Method`
    pub method: &'static str,
    /// The weakest role that may.
    pub role: Role,
    /// Who does it.
    pub backend: Backend,
    /// What it does to the machine.
    pub effect: Effect,
    /// What is corrected on the way.
    pub rewrite: Rewrite,
}

const fn rule(method: &'static str, role: Role, backend: Backend, effect: Effect) -> Rule {
    Rule {
        method,
        role,
        backend,
        effect,
        rewrite: Rewrite::None,
    }
}

const fn rewritten(mut rule: Rule, rewrite: Rewrite) -> Rule {
    rule.rewrite = rewrite;
    rule
}

use Backend::{Console, Memory, Orchestrator, Runtime, Tools};
use Effect::{Changes, Reads};
use Role::{Admin, Operator, Reader};

/// Every method that can be called through the console.
pub const TABLE: &[Rule] = &[
    rule("/aios.v1.Management/Status", Reader, Console, Reads),
    rule("/aios.v1.Management/BootReport", Reader, Console, Reads),
    rule("/aios.v1.Management/ListServices", Reader, Console, Reads),
    // What services write is theirs, and may hold what a mere observer should not see.
    rule("/aios.v1.Management/ReadLogs", Operator, Console, Reads),
    rule("/aios.v1.Management/GetConfig", Reader, Console, Reads),
    rule("/aios.v1.Management/WhoAmI", Reader, Console, Reads),
    rule(
        "/aios.v1.Management/IssueCertificate",
        Admin,
        Console,
        Changes,
    ),
    rule(
        "/aios.v1.Management/ListCertificates",
        Admin,
        Console,
        Reads,
    ),
    rule(
        "/aios.v1.Management/RevokeCertificate",
        Admin,
        Console,
        Changes,
    ),
    rule(
        "/aios.v1.Management/AuthorizeSshKey",
        Admin,
        Console,
        Changes,
    ),
    rule("/aios.v1.Management/PowerOff", Admin, Console, Changes),
    rule("/aios.v1.Management/Reboot", Admin, Console, Changes),
    rule(
        "/aios.v1.Orchestrator/SubmitGoal",
        Operator,
        Orchestrator,
        Changes,
    ),
    rule(
        "/aios.v1.Orchestrator/PlanGoal",
        Operator,
        Orchestrator,
        Reads,
    ),
    rule("/aios.v1.Orchestrator/GetGoal", Reader, Orchestrator, Reads),
    rule(
        "/aios.v1.Orchestrator/ListGoals",
        Reader,
        Orchestrator,
        Reads,
    ),
    rule(
        "/aios.v1.Orchestrator/CancelGoal",
        Operator,
        Orchestrator,
        Changes,
    ),
    rule(
        "/aios.v1.Orchestrator/PauseGoal",
        Operator,
        Orchestrator,
        Changes,
    ),
    rule(
        "/aios.v1.Orchestrator/ResumeGoal",
        Operator,
        Orchestrator,
        Changes,
    ),
    rule(
        "/aios.v1.Orchestrator/WatchGoal",
        Reader,
        Orchestrator,
        Reads,
    ),
    rule(
        "/aios.v1.Orchestrator/TraceGoal",
        Reader,
        Orchestrator,
        Reads,
    ),
    rule(
        "/aios.v1.Orchestrator/ListApprovals",
        Reader,
        Orchestrator,
        Reads,
    ),
    rule(
        "/aios.v1.Orchestrator/DecideApproval",
        Operator,
        Orchestrator,
        Changes,
    ),
    rule(
        "/aios.v1.Orchestrator/ListAgents",
        Reader,
        Orchestrator,
        Reads,
    ),
    rule(
        "/aios.v1.Orchestrator/ListProcedures",
        Reader,
        Orchestrator,
        Reads,
    ),
    rule(
        "/aios.v1.Orchestrator/OrchestratorHealth",
        Reader,
        Orchestrator,
        Reads,
    ),
    rule("/aios.v1.Tools/ListTools", Reader, Tools, Reads),
    rewritten(
        rule("/aios.v1.Tools/CheckCall", Operator, Tools, Reads),
        Rewrite::CheckCall,
    ),
    rewritten(
        rule("/aios.v1.Tools/Execute", Operator, Tools, Changes),
        Rewrite::Execute,
    ),
    rule("/aios.v1.Tools/Rollback", Operator, Tools, Changes),
    rule("/aios.v1.Tools/ListLedger", Reader, Tools, Reads),
    rule("/aios.v1.Tools/VerifyLedger", Reader, Tools, Reads),
    rule("/aios.v1.Tools/ToolsHealth", Reader, Tools, Reads),
    rule("/aios.v1.Memory/GetGoalRecord", Reader, Memory, Reads),
    rule("/aios.v1.Memory/ListGoalRecords", Reader, Memory, Reads),
    rule("/aios.v1.Memory/ListTaskRecords", Reader, Memory, Reads),
    rule("/aios.v1.Memory/ListDecisions", Reader, Memory, Reads),
    rule("/aios.v1.Memory/ListToolCalls", Reader, Memory, Reads),
    rule("/aios.v1.Memory/ListAgentStates", Reader, Memory, Reads),
    rule("/aios.v1.Memory/ListPatterns", Reader, Memory, Reads),
    rule("/aios.v1.Memory/ListEvents", Reader, Memory, Reads),
    rule("/aios.v1.Memory/WatchEvents", Reader, Memory, Reads),
    rule("/aios.v1.Memory/SearchMemory", Reader, Memory, Reads),
    rule("/aios.v1.Memory/MemoryHealth", Reader, Memory, Reads),
    // Generation costs the machine's one processor, so watching alone does not include it.
    rule("/aios.v1.Runtime/Generate", Operator, Runtime, Reads),
    rule("/aios.v1.Runtime/GenerateStream", Operator, Runtime, Reads),
    rule(
        "/aios.v1.Runtime/CancelGeneration",
        Operator,
        Runtime,
        Changes,
    ),
    rule("/aios.v1.Runtime/Embed", Operator, Runtime, Reads),
    rule("/aios.v1.Runtime/Tokenize", Operator, Runtime, Reads),
    rule("/aios.v1.Runtime/ListModels", Reader, Runtime, Reads),
    rule("/aios.v1.Runtime/LoadModel", Admin, Runtime, Changes),
    rule("/aios.v1.Runtime/UnloadModel", Admin, Runtime, Changes),
    rule("/aios.v1.Runtime/RuntimeHealth", Reader, Runtime, Reads),
];

/// Methods that only processes of the machine itself may call, by their own sockets.
pub const NEVER_REMOTE: &[&str] = &[
    "/aios.v1.Agent/RunTask",
    "/aios.v1.Agent/CancelTask",
    "/aios.v1.Agent/PauseAgent",
    "/aios.v1.Agent/ResumeAgent",
    "/aios.v1.Agent/AgentHealth",
    "/aios.v1.Orchestrator/RegisterAgent",
    "/aios.v1.Orchestrator/Heartbeat",
    "/aios.v1.Tools/OpenGrant",
    "/aios.v1.Tools/CloseGrant",
    "/aios.v1.Tools/RecordEvent",
    "/aios.v1.Memory/Commit",
    "/aios.v1.Memory/PushEvent",
];

/// The rule of a method, if it may be called from outside at all.
#[must_use]
pub fn find(method: &str) -> Option<&'static Rule> {
    TABLE.iter().find(|rule| rule.method == method)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message as _;

    use super::*;

    fn every_method() -> BTreeSet<String> {
        let set = prost_types::FileDescriptorSet::decode(aios_proto::FILE_DESCRIPTOR_SET).unwrap();
        set.file
            .iter()
            .flat_map(|file| {
                file.service.iter().flat_map(move |service| {
                    service.method.iter().map(move |method| {
                        format!("/{}.{}/{}", file.package(), service.name(), method.name())
                    })
                })
            })
            .collect()
    }

    #[test]
    fn every_method_is_either_in_the_table_or_never_remote() {
        let methods = every_method();
        assert!(methods.len() > 50, "{} methods found", methods.len());
        for method in &methods {
            let named = usize::from(find(method).is_some())
                + usize::from(NEVER_REMOTE.contains(&method.as_str()));
            assert_eq!(named, 1, "{method} must be on exactly one side");
        }
        for name in TABLE
            .iter()
            .map(|rule| rule.method)
            .chain(NEVER_REMOTE.iter().copied())
        {
            assert!(methods.contains(name), "{name} is in no .proto file");
        }
        let unique: BTreeSet<_> = TABLE.iter().map(|rule| rule.method).collect();
        assert_eq!(unique.len(), TABLE.len(), "a method has two rules");
    }

    #[test]
    fn whoever_may_not_change_anything_is_a_reader() {
        for rule in TABLE {
            if rule.effect == Effect::Changes {
                assert!(
                    rule.role >= Role::Operator,
                    "{} changes things",
                    rule.method
                );
            }
        }
    }

    #[test]
    fn only_exact_names_are_roles() {
        assert_eq!("admin".parse(), Ok(Role::Admin));
        for wrong in ["", "Admin", "admin ", "root", "admin,reader"] {
            assert!(wrong.parse::<Role>().is_err(), "{wrong:?}");
        }
        assert!(Role::Reader < Role::Operator && Role::Operator < Role::Admin);
    }
}
