//! Who may call which method of this daemon. What is called *within* a method (a tool, a rollback)
//! is decided there, for the person and the agent.

use aios_kit::access::{AccessTable, Party};

const ORCHESTRATOR: Party = Party::Daemon("orchestrator");
const CONSOLE: Party = Party::Daemon("console");

/// The table; a method without a row is closed to everyone.
pub const TABLE: AccessTable = AccessTable {
    service: "aios.v1.Tools",
    rows: &[
        (
            "ListTools",
            &[ORCHESTRATOR, CONSOLE, Party::AnyAgent, Party::Root],
        ),
        ("CheckCall", &[ORCHESTRATOR, CONSOLE, Party::Root]),
        ("OpenGrant", &[ORCHESTRATOR]),
        ("CloseGrant", &[ORCHESTRATOR]),
        ("Execute", &[CONSOLE, Party::AnyAgent, Party::Root]),
        ("Rollback", &[ORCHESTRATOR, CONSOLE, Party::Root]),
        ("RecordEvent", &[Party::AnyDaemon]),
        ("ListLedger", &[ORCHESTRATOR, CONSOLE, Party::Root]),
        ("VerifyLedger", &[ORCHESTRATOR, CONSOLE, Party::Root]),
        (
            "ToolsHealth",
            &[Party::AnyDaemon, Party::AnyAgent, Party::Root],
        ),
    ],
};

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use aios_kit::Principal;
    use prost::Message as _;

    use super::*;

    fn methods() -> BTreeSet<String> {
        // The few fields of descriptor.proto that matter here, by their numbers.
        #[derive(prost::Message)]
        struct Set {
            #[prost(message, repeated, tag = "1")]
            files: Vec<File>,
        }
        #[derive(prost::Message)]
        struct File {
            #[prost(string, tag = "2")]
            package: String,
            #[prost(message, repeated, tag = "6")]
            services: Vec<Service>,
        }
        #[derive(prost::Message)]
        struct Service {
            #[prost(string, tag = "1")]
            name: String,
            #[prost(message, repeated, tag = "2")]
            methods: Vec<Method>,
        }
        #[derive(prost::Message)]
        struct Method {
            #[prost(string, tag = "1")]
            name: String,
        }
        Set::decode(aios_proto::FILE_DESCRIPTOR_SET)
            .unwrap()
            .files
            .iter()
            .flat_map(|file| file.services.iter().map(move |service| (file, service)))
            .filter(|(file, service)| format!("{}.{}", file.package, service.name) == TABLE.service)
            .flat_map(|(_, service)| service.methods.iter().map(|method| method.name.clone()))
            .collect()
    }

    #[test]
    fn every_method_has_a_row_and_every_row_a_method() {
        let rows: BTreeSet<String> = TABLE
            .rows
            .iter()
            .map(|(name, _)| (*name).to_owned())
            .collect();
        assert_eq!(rows, methods());
        assert_eq!(rows.len(), TABLE.rows.len());
    }

    #[test]
    fn nobody_else_gets_in() {
        let allowed = |method: &str, caller: &Principal| {
            TABLE.allows(&format!("/aios.v1.Tools/{method}"), caller)
        };
        let agent = Principal::Agent("network".to_owned());
        let memory = Principal::Daemon("memory".to_owned());
        let orchestrator = Principal::Daemon("orchestrator".to_owned());
        for method in methods() {
            assert!(!allowed(&method, &Principal::User(1000)), "{method}");
            assert_eq!(
                allowed(&method, &agent),
                ["ListTools", "Execute", "ToolsHealth"].contains(&method.as_str()),
                "{method}"
            );
            assert_eq!(
                allowed(&method, &memory),
                ["RecordEvent", "ToolsHealth"].contains(&method.as_str()),
                "{method}"
            );
        }
        assert!(!allowed("Execute", &orchestrator));
        for method in ["OpenGrant", "CloseGrant"] {
            assert!(!allowed(method, &Principal::Root), "{method}");
            assert!(
                !allowed(method, &Principal::Daemon("console".to_owned())),
                "{method}"
            );
        }
    }
}
