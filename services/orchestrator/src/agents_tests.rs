//! Tests of the registry of agents.

use super::*;

fn agents(names: &[&str]) -> (Agents, mpsc::UnboundedReceiver<AgentState>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    (Agents::new(&names, sender), receiver)
}

fn brings(capabilities: &[&str], families: &[&str], max_tasks: u32) -> RegisterAgentRequest {
    RegisterAgentRequest {
        capabilities: capabilities.iter().map(|&text| text.to_owned()).collect(),
        tool_families: families.iter().map(|&text| text.to_owned()).collect(),
        max_tasks,
        ..RegisterAgentRequest::default()
    }
}

#[tokio::test]
async fn leases_go_to_specialists_and_are_bounded() {
    let (agents, mut changes) = agents(&["package", "system"]);
    agents
        .register("system", &brings(&["*:*"], &["fs"], 1), "s")
        .unwrap();
    agents
        .register(
            "package",
            &brings(&["pkg:install", "fs:write:/srv/**"], &["pkg"], 1),
            "p",
        )
        .unwrap();
    assert_eq!(changes.recv().await.unwrap().state, "running");
    let lease = agents.lease(5, 1, &["pkg:install".to_owned()], "").await;
    assert_eq!(lease.agent, "package");
    let needed = ["pkg:install".to_owned()];
    let second = agents.lease(5, 1, &needed, "");
    assert!(
        tokio::time::timeout(Duration::from_millis(20), second)
            .await
            .is_err()
    );
    drop(lease);
    assert_eq!(
        agents
            .lease(5, 1, &["pkg:install".to_owned()], "")
            .await
            .agent,
        "package"
    );
    assert_eq!(agents.candidates("fs:write"), ["system", "package"]);
    assert_eq!(
        agents
            .infos()
            .iter()
            .map(|info| info.running_tasks)
            .sum::<u32>(),
        0
    );
}

#[tokio::test]
async fn a_task_waits_for_the_agent_that_holds_its_very_resource() {
    let (agents, _changes) = agents(&["dev", "storage"]);
    agents
        .register(
            "dev",
            &brings(&["fs:read:/home/workspaces/**"], &["dev"], 1),
            "d",
        )
        .unwrap();
    let needed = ["fs:read:/srv/motd.txt".to_owned()];
    // The storage agent is away; the one that may read elsewhere is no stand-in for it.
    let wait = agents.lease(5, 1, &needed, "storage");
    assert!(
        tokio::time::timeout(Duration::from_millis(20), wait)
            .await
            .is_err()
    );
    agents
        .register("storage", &brings(&["fs:read"], &["fs"], 1), "s")
        .unwrap();
    assert_eq!(
        agents.lease(5, 1, &needed, "storage").await.agent,
        "storage"
    );
}

#[test]
fn strangers_and_malformed_patterns_are_refused() {
    let (agents, _changes) = agents(&["dev"]);
    assert!(agents.register("evil", &brings(&[], &[], 1), "s").is_err());
    assert!(
        agents
            .register("dev", &brings(&["fs"], &[], 1), "s")
            .is_err()
    );
    assert!(
        agents
            .heartbeat("dev", &HeartbeatRequest::default())
            .is_err()
    );
    agents
        .register("dev", &brings(&["fs:read"], &[], 1), "s")
        .unwrap();
    let beat = |session: &str| HeartbeatRequest {
        session: session.to_owned(),
        ..HeartbeatRequest::default()
    };
    assert!(agents.heartbeat("dev", &beat("old")).is_err());
    agents.heartbeat("dev", &beat("s")).unwrap();
    agents.suspect("dev");
    assert_eq!(agents.counts(), (1, 1));
}
