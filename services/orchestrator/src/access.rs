//! Who may call which method. Two tables, both deny by default: which process may call at all (the
//! kernel's word), and which role the person behind it needs.

use aios_kit::{
    Category, Error, Identities,
    access::{AccessTable, Party},
    identity::Caller,
};
use tonic::Request;

const PEOPLE: &[Party] = &[Party::Daemon("console"), Party::Root];
const AGENTS: &[Party] = &[Party::AnyAgent];

/// The processes.
pub const ACCESS: AccessTable = AccessTable {
    service: "aios.v1.Orchestrator",
    rows: &[
        ("SubmitGoal", PEOPLE),
        ("PlanGoal", PEOPLE),
        ("GetGoal", PEOPLE),
        ("ListGoals", PEOPLE),
        ("CancelGoal", PEOPLE),
        ("PauseGoal", PEOPLE),
        ("ResumeGoal", PEOPLE),
        ("WatchGoal", PEOPLE),
        ("TraceGoal", PEOPLE),
        ("ListApprovals", PEOPLE),
        ("DecideApproval", PEOPLE),
        ("ListAgents", PEOPLE),
        ("ListProcedures", PEOPLE),
        ("RegisterAgent", AGENTS),
        ("Heartbeat", AGENTS),
        (
            "OrchestratorHealth",
            &[Party::AnyDaemon, Party::AnyAgent, Party::Root],
        ),
    ],
};

/// Roles that may make the machine do something.
const ACTING: &[&str] = &["admin", "operator"];
/// Roles that may look.
const LOOKING: &[&str] = &["admin", "operator", "reader"];

/// The roles of a person for each method that a person may call.
pub const ROLES: &[(&str, &[&str])] = &[
    ("SubmitGoal", ACTING),
    ("PlanGoal", ACTING),
    ("GetGoal", LOOKING),
    ("ListGoals", LOOKING),
    ("CancelGoal", ACTING),
    ("PauseGoal", ACTING),
    ("ResumeGoal", ACTING),
    ("WatchGoal", LOOKING),
    ("TraceGoal", LOOKING),
    ("ListApprovals", LOOKING),
    ("DecideApproval", ACTING),
    ("ListAgents", LOOKING),
    ("ListProcedures", LOOKING),
];

/// Whether a role may call a method.
#[must_use]
pub fn role_may(method: &str, role: &str) -> bool {
    ROLES
        .iter()
        .any(|(name, roles)| *name == method && roles.contains(&role))
}

/// The person behind a request, if that person's role may call the method.
///
/// # Errors
/// When nobody is named, or the role may not.
pub fn person<T>(
    identities: &Identities,
    request: &Request<T>,
    method: &str,
) -> Result<Caller, tonic::Status> {
    let caller = identities.caller_on_behalf(request)?;
    if role_may(method, &caller.role) {
        return Ok(caller);
    }
    let role = if caller.role.is_empty() {
        "nobody's role".to_owned()
    } else {
        format!("the role {}", caller.role)
    };
    Err(Error::new(
        Category::Auth,
        format!("{} may not call {method} with {role}", caller.principal),
    )
    .hint("ask an admin for a certificate with another role")
    .into())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use aios_kit::Principal;
    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::*;

    fn methods() -> BTreeSet<String> {
        let set = FileDescriptorSet::decode(aios_proto::FILE_DESCRIPTOR_SET).unwrap();
        set.file
            .iter()
            .flat_map(|file| &file.service)
            .filter(|service| service.name() == "Orchestrator")
            .flat_map(|service| &service.method)
            .map(|method| method.name().to_owned())
            .collect()
    }

    #[test]
    fn every_method_has_exactly_one_row() {
        let rows: Vec<String> = ACCESS
            .rows
            .iter()
            .map(|(name, _)| (*name).to_owned())
            .collect();
        let unique: BTreeSet<String> = rows.iter().cloned().collect();
        assert_eq!(rows.len(), unique.len());
        assert_eq!(unique, methods());
        assert!(unique.len() >= 16);
    }

    #[test]
    fn people_need_a_role_for_every_method_that_is_theirs() {
        for method in methods() {
            let theirs = ACCESS.row(&method) == Some(PEOPLE);
            assert_eq!(
                ROLES.iter().any(|(name, _)| *name == method),
                theirs,
                "{method}"
            );
            for role in ["", "root", "Admin"] {
                assert!(!role_may(&method, role), "{method} {role}");
            }
        }
        assert!(!role_may("Unheard", "admin"));
        for changing in [
            "SubmitGoal",
            "CancelGoal",
            "PauseGoal",
            "ResumeGoal",
            "DecideApproval",
        ] {
            assert!(!role_may(changing, "reader"), "{changing}");
            assert!(role_may(changing, "operator"), "{changing}");
        }
    }

    #[test]
    fn agents_register_and_nothing_else() {
        let agent = Principal::Agent("dev".into());
        for method in methods() {
            let may = ACCESS.allows(&format!("/aios.v1.Orchestrator/{method}"), &agent);
            assert_eq!(
                may,
                ["RegisterAgent", "Heartbeat", "OrchestratorHealth"].contains(&method.as_str()),
                "{method}"
            );
            let user = Principal::User(4711);
            assert!(
                !ACCESS.allows(&format!("/aios.v1.Orchestrator/{method}"), &user),
                "{method}"
            );
        }
    }
}
