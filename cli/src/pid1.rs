//! PID 1's own socket, for the few things that must work on the machine while its console is down.

use std::{path::PathBuf, time::Duration};

use aios_init_protocol::{Client, ClientError, Reply, Request};
use aios_kit::Category;

use crate::{
    cli::Global,
    connect::Target,
    failure::{Exit, Failure},
};

/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// PID 1 of this machine; none when the command is about another machine, or could reach the console.
pub(crate) fn instead(global: &Global, failure: &Failure) -> Option<Pid1> {
    let local = matches!(Target::choose(global), Ok(Target::Local(_)));
    let socket = global.run.join("init.sock");
    (local && failure.exit == Exit::Unreachable && socket.exists()).then_some(Pid1 { socket })
}

/// PID 1.
pub(crate) struct Pid1 {
    socket: PathBuf,
}

impl Pid1 {
    pub(crate) fn call(&self, request: &Request) -> Result<Reply, Failure> {
        Client::new(&self.socket, TIMEOUT)
            .call(request)
            .map_err(|error| match error {
                ClientError::Refused { kind, message } => {
                    let exit = match kind.as_str() {
                        "not_found" => Exit::NotFound,
                        "denied" => Exit::Denied,
                        "invalid" => Exit::Usage,
                        _ => Exit::Failed,
                    };
                    Failure::new(exit, Category::Conflict, message)
                }
                other => Failure::unreachable(other.to_string()),
            })
    }
}
