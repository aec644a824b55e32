//! Who may call whom, asked of the real daemons over their real sockets by the real uids.

use aios_tests_system::{Machine, Method, as_uid, methods};
use anyhow::Context as _;
use tonic::Code;

/// A local account that has nothing to do with aiOS.
const NOBODY: u32 = 65_534;

fn paths(methods: &[Method], services: &[&str]) -> Vec<String> {
    methods
        .iter()
        .filter(|method| services.contains(&method.service.as_str()))
        .map(|method| method.path.clone())
        .collect()
}

fn is_refusal(code: Code) -> bool {
    matches!(code, Code::PermissionDenied | Code::Unauthenticated)
}

#[test]
fn nobody_is_refused_by_every_method_of_every_daemon_and_agent() -> anyhow::Result<()> {
    let machine = Machine::start()?;
    let methods = methods()?;
    let mut asked = 0;
    for part in machine.parts() {
        let services: &[&str] = match part.as_str() {
            "memory" => &["Memory"],
            "tools" => &["Tools"],
            "orchestrator" => &["Orchestrator"],
            // It passes the methods of the others on.
            "console" => &["Management", "Orchestrator", "Tools", "Memory", "Runtime"],
            _ => &["Agent"],
        };
        let paths = paths(&methods, services);
        assert!(!paths.is_empty(), "{part}");
        let codes =
            as_uid(NOBODY, &machine.socket(&part)?, &paths).with_context(|| part.clone())?;
        for (path, code) in paths.iter().zip(codes) {
            assert!(
                is_refusal(code),
                "{part} answers {path} of uid {NOBODY} with {code:?}"
            );
            asked += 1;
        }
    }
    assert!(asked > 100, "only {asked} methods were asked");
    Ok(())
}

#[test]
fn an_unknown_method_is_refused() -> anyhow::Result<()> {
    let machine = Machine::start()?;
    for part in machine.parts() {
        let paths = [
            "/aios.v1.Tools/Unheard".to_owned(),
            "/other.Service/Call".to_owned(),
        ];
        for code in as_uid(NOBODY, &machine.socket(&part)?, &paths)? {
            assert!(
                is_refusal(code) || code == Code::Unimplemented,
                "{part}: {code:?}"
            );
        }
    }
    Ok(())
}

#[test]
fn a_daemon_or_agent_with_a_uid_of_its_own_gets_only_what_is_its() -> anyhow::Result<()> {
    let machine = Machine::start()?;
    let refused = |who: &str, part: &str, path: &str| -> anyhow::Result<()> {
        let uid = machine.uid(who)?;
        let codes = as_uid(uid, &machine.socket(part)?, &[path.to_owned()])?;
        assert!(
            codes.iter().all(|code| is_refusal(*code)),
            "{path} of {who}: {codes:?}"
        );
        Ok(())
    };
    // An agent cannot widen what it may do, nor write the record of it.
    for method in [
        "OpenGrant",
        "CloseGrant",
        "CheckCall",
        "Rollback",
        "RecordEvent",
        "ListLedger",
    ] {
        refused(
            "agent-network",
            "tools",
            &format!("/aios.v1.Tools/{method}"),
        )?;
    }
    refused("agent-network", "memory", "/aios.v1.Memory/Commit")?;
    refused(
        "agent-network",
        "orchestrator",
        "/aios.v1.Orchestrator/SubmitGoal",
    )?;
    refused(
        "agent-network",
        "orchestrator",
        "/aios.v1.Orchestrator/DecideApproval",
    )?;
    refused("agent-network", "agent-storage", "/aios.v1.Agent/RunTask")?;
    // A daemon is not trusted with more than it is for.
    for who in ["memory", "console", "runtime"] {
        refused(who, "tools", "/aios.v1.Tools/OpenGrant")?;
        refused(who, "agent-storage", "/aios.v1.Agent/RunTask")?;
        refused(who, "orchestrator", "/aios.v1.Orchestrator/RegisterAgent")?;
    }
    refused("orchestrator", "tools", "/aios.v1.Tools/Execute")?;
    refused("memory", "orchestrator", "/aios.v1.Orchestrator/SubmitGoal")?;
    refused("runtime", "memory", "/aios.v1.Memory/Commit")?;
    Ok(())
}
