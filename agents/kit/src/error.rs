//! Why an agent cannot start or go on.

use aios_config::ConfigError;

/// What ends an agent.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The configuration is not right.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The configuration is about another agent.
    #[error("{path}: this file is about the agent `{found}`, not `{wanted}`; name it {found}.toml")]
    Name {
        /// The file.
        path: String,
        /// The name in it.
        found: String,
        /// The agent that was to be started.
        wanted: String,
    },
    /// The process does not have the agent's identity.
    #[error(
        "this process is {found}, so it cannot be the agent `{wanted}`; start it as the user that \
         identities.toml gives the agent"
    )]
    Identity {
        /// Who the process is.
        found: String,
        /// The agent that was to be started.
        wanted: String,
    },
    /// The process could not give up its access to files.
    #[error("cannot give up access to files: {0}")]
    Confine(String),
    /// The orchestrator will never take this agent as it is.
    #[error("the orchestrator refuses this agent: {0}")]
    Refused(aios_kit::Error),
    /// Anything that concerns the sockets.
    #[error(transparent)]
    Kit(#[from] aios_kit::Error),
    /// The server ended although nobody asked it to.
    #[error("the agent's socket is not served any more: {0}")]
    Serving(String),
}
