//! Who may call which method. What is not listed is denied; agents are in no list, since what a model
//! says reaches them only as a checked task.

use aios_kit::{Category, Error, Principal};

/// The methods of the service, one per RPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Text, at once.
    Generate,
    /// Text, as it comes.
    GenerateStream,
    /// Stop a generation.
    CancelGeneration,
    /// Vectors.
    Embed,
    /// Tokens.
    Tokenize,
    /// What models there are.
    ListModels,
    /// Load one.
    LoadModel,
    /// Unload one.
    UnloadModel,
    /// How it goes.
    RuntimeHealth,
}

impl Method {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Generate,
        Self::GenerateStream,
        Self::CancelGeneration,
        Self::Embed,
        Self::Tokenize,
        Self::ListModels,
        Self::LoadModel,
        Self::UnloadModel,
        Self::RuntimeHealth,
    ];

    /// The name in the protocol.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Generate => "Generate",
            Self::GenerateStream => "GenerateStream",
            Self::CancelGeneration => "CancelGeneration",
            Self::Embed => "Embed",
            Self::Tokenize => "Tokenize",
            Self::ListModels => "ListModels",
            Self::LoadModel => "LoadModel",
            Self::UnloadModel => "UnloadModel",
            Self::RuntimeHealth => "RuntimeHealth",
        }
    }

    /// The daemons that may call it. The superuser may call all.
    fn daemons(self) -> &'static [&'static str] {
        match self {
            Self::Generate | Self::GenerateStream | Self::CancelGeneration => {
                &["orchestrator", "console"]
            }
            Self::Embed | Self::Tokenize | Self::ListModels | Self::RuntimeHealth => {
                &["orchestrator", "console", "memory"]
            }
            // Only for a person with the role `admin`, see `needs_admin`.
            Self::LoadModel | Self::UnloadModel => &["console"],
        }
    }

    /// Whether the person on whose behalf a daemon calls must be an administrator.
    fn needs_admin(self) -> bool {
        matches!(self, Self::LoadModel | Self::UnloadModel)
    }
}

/// Decides a call. `role` is that of the person on whose behalf a daemon calls, empty for none.
///
/// # Errors
/// An `Auth` error that names the caller and the method.
pub fn check(method: Method, caller: &Principal, role: &str) -> Result<(), Error> {
    let allowed = match caller {
        Principal::Root => true,
        Principal::Daemon(name) => {
            method.daemons().contains(&name.as_str()) && (!method.needs_admin() || role == "admin")
        }
        Principal::Agent(_) | Principal::User(_) => false,
    };
    if allowed {
        return Ok(());
    }
    let error = Error::new(
        Category::Auth,
        format!("{caller} may not call {} of the runtime", method.name()),
    );
    Err(match caller {
        Principal::User(_) => error.hint("go through the console: `aios`"),
        _ if method.needs_admin() => error.hint("this takes the role admin"),
        _ => error,
    })
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    fn daemon(name: &str) -> Principal {
        Principal::Daemon(name.to_owned())
    }

    #[test]
    fn the_table_has_every_method_of_the_protocol() {
        let set = prost_types::FileDescriptorSet::decode(aios_proto::FILE_DESCRIPTOR_SET).unwrap();
        let service = set
            .file
            .iter()
            .flat_map(|file| &file.service)
            .find(|service| service.name() == "Runtime")
            .unwrap();
        let mut protocol: Vec<&str> = service.method.iter().map(|method| method.name()).collect();
        let mut table: Vec<&str> = Method::ALL.iter().map(|method| method.name()).collect();
        protocol.sort_unstable();
        table.sort_unstable();
        assert_eq!(protocol, table);
    }

    #[test]
    fn agents_users_and_other_daemons_may_nothing() {
        for method in Method::ALL {
            for caller in [
                Principal::Agent("task".to_owned()),
                Principal::User(1000),
                daemon("gateway"),
                daemon("runtime"),
            ] {
                assert!(
                    check(method, &caller, "admin").is_err(),
                    "{method:?} {caller}"
                );
            }
            assert!(check(method, &Principal::Root, "").is_ok());
        }
    }

    #[test]
    fn memory_may_embed_and_not_generate() {
        assert!(check(Method::Embed, &daemon("memory"), "").is_ok());
        assert!(check(Method::Generate, &daemon("memory"), "").is_err());
        assert!(check(Method::Generate, &daemon("orchestrator"), "").is_ok());
    }

    #[test]
    fn models_are_changed_for_administrators_only() {
        for method in [Method::LoadModel, Method::UnloadModel] {
            assert!(check(method, &daemon("console"), "admin").is_ok());
            assert!(check(method, &daemon("console"), "operator").is_err());
            assert!(check(method, &daemon("console"), "").is_err());
            assert!(check(method, &daemon("orchestrator"), "admin").is_err());
        }
    }
}
