//! Who may call which method of the memory. Only the orchestrator writes records; the console reads
//! for the people behind it; every daemon and agent may report events.

use aios_kit::access::{AccessTable, Party};

const READERS: &[Party] = &[
    Party::Daemon("orchestrator"),
    Party::Daemon("console"),
    Party::Root,
];

/// The table of `aios.v1.Memory`.
pub const ACCESS: AccessTable = AccessTable {
    service: "aios.v1.Memory",
    rows: &[
        ("Commit", &[Party::Daemon("orchestrator")]),
        ("GetGoalRecord", READERS),
        ("ListGoalRecords", READERS),
        ("ListTaskRecords", READERS),
        ("ListDecisions", READERS),
        ("ListToolCalls", READERS),
        ("ListAgentStates", READERS),
        ("ListPatterns", READERS),
        // The tools daemon runs as root.
        (
            "PushEvent",
            &[Party::AnyDaemon, Party::AnyAgent, Party::Root],
        ),
        ("ListEvents", READERS),
        ("WatchEvents", READERS),
        ("SearchMemory", READERS),
        ("MemoryHealth", READERS),
    ],
};

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
            .filter(|file| file.package() == "aios.v1")
            .flat_map(|file| &file.service)
            .filter(|service| service.name() == "Memory")
            .flat_map(|service| &service.method)
            .map(|method| method.name().to_owned())
            .collect()
    }

    #[test]
    fn every_method_of_the_protocol_has_exactly_one_row() {
        let rows: Vec<String> = ACCESS
            .rows
            .iter()
            .map(|(name, _)| (*name).to_owned())
            .collect();
        let unique: BTreeSet<String> = rows.iter().cloned().collect();
        assert_eq!(rows.len(), unique.len(), "a method has two rows");
        assert_eq!(unique, methods());
        assert!(unique.len() >= 13);
    }

    #[test]
    fn nobody_but_the_orchestrator_commits_and_strangers_do_nothing() {
        let daemons = ["runtime", "memory", "gateway", "console"];
        for method in methods() {
            let path = format!("/aios.v1.Memory/{method}");
            assert!(!ACCESS.allows(&path, &Principal::User(1000)), "{method}");
            let agent = Principal::Agent("system".into());
            assert_eq!(
                ACCESS.allows(&path, &agent),
                method == "PushEvent",
                "{method}"
            );
            assert!(
                ACCESS.allows(&path, &Principal::Daemon("orchestrator".into())),
                "{method}"
            );
            if method == "Commit" {
                assert!(!ACCESS.allows(&path, &Principal::Root));
                for daemon in daemons {
                    assert!(
                        !ACCESS.allows(&path, &Principal::Daemon(daemon.into())),
                        "{daemon}"
                    );
                }
            }
        }
    }
}
