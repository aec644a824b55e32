//! Who may tell an agent what: the orchestrator, and nobody else.

use aios_kit::access::{AccessTable, Party};

const ORCHESTRATOR: &[Party] = &[Party::Daemon("orchestrator")];

/// The table of `aios.v1.Agent`.
pub const ACCESS: AccessTable = AccessTable {
    service: "aios.v1.Agent",
    rows: &[
        ("RunTask", ORCHESTRATOR),
        ("CancelTask", ORCHESTRATOR),
        ("PauseAgent", ORCHESTRATOR),
        ("ResumeAgent", ORCHESTRATOR),
        ("AgentHealth", ORCHESTRATOR),
    ],
};

#[cfg(test)]
mod tests {
    use aios_kit::Principal;
    use prost::Message as _;

    use super::*;

    #[test]
    fn every_method_has_a_row_and_is_for_the_orchestrator_alone() {
        let set = prost_types::FileDescriptorSet::decode(aios_proto::FILE_DESCRIPTOR_SET).unwrap();
        let mut methods: Vec<&str> = set
            .file
            .iter()
            .flat_map(|file| &file.service)
            .filter(|service| service.name() == "Agent")
            .flat_map(|service| service.method.iter().map(|method| method.name()))
            .collect();
        let mut rows: Vec<&str> = ACCESS.rows.iter().map(|(name, _)| *name).collect();
        methods.sort_unstable();
        rows.sort_unstable();
        assert_eq!(rows, methods);
        for method in methods {
            let path = format!("/aios.v1.Agent/{method}");
            assert!(ACCESS.allows(&path, &Principal::Daemon("orchestrator".into())));
            for other in [
                Principal::Root,
                Principal::User(1000),
                Principal::Agent("dev".into()),
                Principal::Daemon("console".into()),
            ] {
                assert!(!ACCESS.allows(&path, &other), "{method} by {other}");
            }
        }
    }
}
