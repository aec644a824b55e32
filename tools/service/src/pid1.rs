//! Asking PID 1, and saying in the terms of tools what went wrong.

use std::{io::ErrorKind, time::Duration};

use aios_init_protocol::{Client, ClientError, Reply, Request, ServiceDefinition, UnitReport};
use aios_tool_api::{Context, ToolError, ToolErrorKind};

/// Shortest wait for a reply; a socket refuses a timeout of zero.
const LEAST_WAIT: Duration = Duration::from_millis(1);

/// One request within what is left of the call's time.
pub(crate) fn ask(context: &Context, request: &Request) -> Result<Reply, ToolError> {
    context.check_alive()?;
    Client::new(&context.init_socket, context.remaining().max(LEAST_WAIT))
        .call(request)
        .map_err(|error| describe(error, request))
}

fn describe(error: ClientError, request: &Request) -> ToolError {
    match error {
        ClientError::Socket { source, .. }
            if matches!(source.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
        {
            ToolError::new(
                ToolErrorKind::Timeout,
                format!("PID 1 did not finish `{}` in time", operation(request)),
            )
            .hint("look at service.status and service.logs: it may still be starting or stopping")
        }
        ClientError::Socket { .. } => ToolError::new(ToolErrorKind::Network, error.to_string())
            .hint("services can be managed only on a machine that aios-init started"),
        ClientError::Malformed(_) => ToolError::new(ToolErrorKind::Internal, error.to_string()),
        ClientError::Refused { kind, message } => refused(&kind, message),
    }
}

fn refused(kind: &str, message: String) -> ToolError {
    let (kind, hint) = match kind {
        "not_found" => (
            ToolErrorKind::NotFound,
            "service.list shows the services; service.define makes one for an installed program",
        ),
        "denied" => (ToolErrorKind::Permission, ""),
        "invalid" => (ToolErrorKind::Invalid, ""),
        "conflict" => (ToolErrorKind::Conflict, ""),
        "busy" => {
            return ToolError::new(ToolErrorKind::Conflict, message)
                .hint("try again when PID 1 has finished with it")
                .with_retryable(true);
        }
        _ => (
            ToolErrorKind::Program,
            "service.logs shows what the service wrote before it failed",
        ),
    };
    ToolError::new(kind, message).hint(hint)
}

fn operation(request: &Request) -> &'static str {
    match request {
        Request::List => "list",
        Request::Status { .. } => "status",
        Request::Start { .. } => "start",
        Request::Stop { .. } => "stop",
        Request::Restart { .. } => "restart",
        Request::Define { .. } => "define",
        Request::Remove { .. } => "remove",
        Request::Definition { .. } => "definition",
        Request::Logs { .. } => "logs",
        Request::Boot => "boot",
        Request::Power { .. } => "power",
    }
}

fn unexpected(request: &Request) -> ToolError {
    ToolError::new(
        ToolErrorKind::Internal,
        format!(
            "PID 1 answered `{}` with something else",
            operation(request)
        ),
    )
}

/// Every unit.
pub(crate) fn units(context: &Context) -> Result<Vec<UnitReport>, ToolError> {
    match ask(context, &Request::List)? {
        Reply::Units { units } => Ok(units),
        _ => Err(unexpected(&Request::List)),
    }
}

/// One unit, or `None` when there is none of that name.
pub(crate) fn find(context: &Context, name: &str) -> Result<Option<UnitReport>, ToolError> {
    match unit(context, name) {
        Ok(unit) => Ok(Some(unit)),
        Err(error) if error.kind == ToolErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// One unit.
pub(crate) fn unit(context: &Context, name: &str) -> Result<UnitReport, ToolError> {
    let request = Request::Status {
        unit: name.to_owned(),
    };
    match ask(context, &request)? {
        Reply::Unit { unit } => Ok(unit),
        _ => Err(unexpected(&request)),
    }
}

/// The definition of a service made on this machine, or `None`.
pub(crate) fn definition(
    context: &Context,
    name: &str,
) -> Result<Option<ServiceDefinition>, ToolError> {
    let request = Request::Definition {
        unit: name.to_owned(),
    };
    match ask(context, &request) {
        Ok(Reply::Definition { service }) => Ok(service),
        Ok(_) => Err(unexpected(&request)),
        Err(error) if error.kind == ToolErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The last lines that a unit wrote.
pub(crate) fn lines(context: &Context, name: &str, lines: u32) -> Result<Vec<String>, ToolError> {
    let request = Request::Logs {
        unit: name.to_owned(),
        lines,
    };
    match ask(context, &request)? {
        Reply::Lines { lines } => Ok(lines),
        _ => Err(unexpected(&request)),
    }
}
