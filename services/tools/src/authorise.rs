//! Whether a call may be made: the role of the person, and of an agent its own capabilities too,
//! must give every capability that the call needs.
//!
//! Invariants: pure but for one look whether a path is a directory; no role, an unknown role or an
//! unknown agent give nothing; a call that needs no capability is not allowed either.

use aios_tool_api::Capability;

use crate::{
    agents::Agents,
    policy::{Policy, Rights},
};

/// For whom a call is made.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The role of the person.
    pub role: &'a str,
    /// The agent that acts, if one does.
    pub agent: Option<&'a str>,
}

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The capability that is missing; empty when it is not about one.
    pub capability: String,
    /// What was refused and why.
    pub message: String,
    /// Who could give it, and how.
    pub hint: String,
}

/// Checks a call against the rights of everyone involved.
///
/// # Errors
/// The first refusal.
pub fn check(
    policy: &Policy,
    agents: &Agents,
    subject: Subject<'_>,
    needed: &[Capability],
    changes: bool,
) -> Result<(), Refusal> {
    if needed.is_empty() {
        return Err(Refusal {
            capability: String::new(),
            message: "this tool does not say what capability it needs, so nobody has it".to_owned(),
            hint: "this is a fault of the tool; report it".to_owned(),
        });
    }
    let Some(role) = policy.role(subject.role) else {
        return Err(Refusal {
            capability: String::new(),
            message: if subject.role.is_empty() {
                "nobody is named on whose behalf this is asked, and nobody has no rights".to_owned()
            } else {
                format!("there is no role `{}`", subject.role)
            },
            hint: "the roles are admin, operator and reader".to_owned(),
        });
    };
    let role_file = policy.path().display().to_string();
    for capability in needed {
        let apart = policy.stands_apart(capability, changes);
        let place = format!("[roles.{}] of {role_file}", subject.role);
        one(
            role,
            &format!("the role `{}`", subject.role),
            &place,
            capability,
            apart.as_deref(),
        )?;
        if let Some(agent) = subject.agent {
            let holder = format!("the agent `{agent}`");
            let place = format!("its file agents/{agent}.toml");
            let nothing = Rights::default();
            let rights = agents.get(agent).unwrap_or(&nothing);
            one(rights, &holder, &place, capability, apart.as_deref())?;
        }
    }
    Ok(())
}

fn one(
    rights: &Rights,
    holder: &str,
    place: &str,
    capability: &Capability,
    apart: Option<&str>,
) -> Result<(), Refusal> {
    if rights.give(capability, apart.is_some()) {
        return Ok(());
    }
    let because = apart.map_or_else(String::new, |why| {
        format!(": {why}, so that only a capability which names exactly this gives it")
    });
    Err(Refusal {
        capability: capability.to_string(),
        message: format!("{holder} does not hold {capability}{because}"),
        hint: format!("whoever administers this machine could add it to {place}"),
    })
}
