//! The agents that are shipped: each file is right, and together they can call every tool.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helper functions too"
)]

use std::path::PathBuf;

use aios_agent_kit::AgentConfig;
use aios_kit::{Identities, Paths};
use aios_tool_api::Capability;

/// What every tool's call needs, with a resource as it would be asked for.
const NEEDED: [(&str, &str, &str); 28] = [
    ("fs", "read", "/srv/motd.txt"),
    ("fs", "write", "/srv/motd.txt"),
    ("fs", "delete", "/srv/motd.txt"),
    ("fs", "read", "/home/workspaces/a"),
    ("fs", "write", "/home/workspaces/a"),
    ("fs", "delete", "/home/workspaces/a"),
    ("process", "list", ""),
    ("process", "info", ""),
    ("service", "list", ""),
    ("service", "status", "nginx"),
    ("service", "start", "nginx"),
    ("service", "stop", "nginx"),
    ("service", "define", "nginx"),
    ("service", "remove", "nginx"),
    ("service", "logs", "nginx"),
    ("net", "interfaces", ""),
    ("net", "check_port", "127.0.0.1:80"),
    ("net", "http_request", "localhost:80"),
    ("pkg", "search", ""),
    ("pkg", "list", ""),
    ("pkg", "install", "nginx"),
    ("pkg", "remove", "nginx"),
    ("monitor", "cpu", ""),
    ("monitor", "memory", ""),
    ("monitor", "disk", ""),
    ("monitor", "health", ""),
    ("hw", "info", ""),
    ("fs", "read", "/etc/hostname"),
];

fn paths() -> Paths {
    let etc = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../etc");
    Paths {
        etc,
        ..Paths::default()
    }
}

fn agents() -> Vec<AgentConfig> {
    let names = Identities::load(&paths().identities_file())
        .unwrap()
        .agents();
    names
        .iter()
        .map(|name| AgentConfig::load(&paths().etc, name).unwrap())
        .collect()
}

fn holders(needed: &Capability, sensitive: bool) -> Vec<String> {
    agents()
        .into_iter()
        .filter(|agent| {
            agent
                .capabilities
                .iter()
                .any(|held| held.gives(needed, sensitive))
        })
        .map(|agent| agent.name)
        .collect()
}

fn needed(namespace: &str, action: &str, resource: &str) -> Capability {
    let needed = Capability::new(namespace, action);
    if resource.is_empty() {
        needed
    } else {
        needed.on(resource)
    }
}

#[test]
fn there_is_a_file_for_every_identity_and_no_other() {
    let names: Vec<String> = agents().into_iter().map(|agent| agent.name).collect();
    let expected = [
        "dev", "monitor", "network", "package", "security", "storage", "system", "task",
    ];
    assert_eq!(names, expected);
    assert_eq!(
        std::fs::read_dir(paths().etc.join("agents"))
            .unwrap()
            .count(),
        expected.len()
    );
}

#[test]
fn every_tool_has_an_agent_and_it_is_the_one_whose_family_it_is() {
    for (namespace, action, resource) in NEEDED {
        let needed = needed(namespace, action, resource);
        let holders = holders(&needed, false);
        assert!(!holders.is_empty(), "nobody holds {needed}");
        let specialists: Vec<AgentConfig> = agents()
            .into_iter()
            .filter(|agent| agent.families.iter().any(|family| family == namespace))
            .collect();
        assert_eq!(specialists.len(), 1, "one agent is meant for {namespace}");
        assert!(holders.contains(&specialists[0].name), "{needed}");
    }
}

#[test]
fn each_agent_holds_only_what_its_role_needs() {
    let who = |namespace, action, resource| holders(&needed(namespace, action, resource), false);
    assert_eq!(who("fs", "write", "/etc/passwd"), ["storage"]);
    assert_eq!(who("fs", "delete", "/srv/x"), ["storage"]);
    assert_eq!(
        who("fs", "write", "/home/workspaces/x"),
        ["dev", "storage", "task"]
    );
    assert_eq!(who("pkg", "install", "nginx"), ["package"]);
    assert_eq!(who("service", "define", "nginx"), ["system"]);
    assert_eq!(who("net", "http_request", "localhost:80"), ["network"]);
    assert_eq!(who("hw", "info", ""), ["monitor", "system"]);
    assert_eq!(who("exec", "run", ""), Vec::<String>::new());
    assert_eq!(
        holders(&needed("fs", "read", "/etc/shadow"), true),
        Vec::<String>::new()
    );
}
