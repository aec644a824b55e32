//! `net.check_port`: whether something accepts TCP connections.

use std::{
    net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs as _},
    sync::mpsc,
    time::{Duration, Instant},
};

use aios_tool_api::{Capability, Context, Risk, Spec, Tool, ToolError, ToolErrorKind};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::host;

/// Where a port is looked for when no host is named.
const HERE: &str = "127.0.0.1";
/// Longest wait for one connection.
const CONNECT: Duration = Duration::from_secs(3);
/// Pause between two attempts while waiting for a port to open.
const PAUSE: Duration = Duration::from_millis(100);
/// Longest `wait`.
const MAX_WAIT: u32 = 50;

/// Arguments of `net.check_port`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PortArgs {
    /// TCP port, 1 to 65535.
    #[schemars(range(min = 1, max = 65535), extend("format" = "port"))]
    pub port: u16,
    /// Host name or address; this machine (127.0.0.1) when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "host"))]
    pub host: Option<String>,
    /// Seconds to wait for the port to open, for a service that has just been started; at most 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 50))]
    pub wait_s: Option<u32>,
}

impl PortArgs {
    fn host(&self) -> &str {
        self.host.as_deref().unwrap_or(HERE)
    }
}

/// Whether a port is open.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PortState {
    /// The host as asked.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Whether something accepted the connection.
    pub open: bool,
    /// The address that was connected to, or tried last; empty when the name has none.
    pub address: String,
    /// Milliseconds that the connection took, or that were spent trying.
    pub latency_ms: f64,
    /// Why it is not open; empty when it is.
    pub error: String,
}

fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// Looks a name up, on a thread of its own because the system's resolver knows no deadline.
fn addresses(host: &str, port: u16, limit: Duration) -> Result<Vec<SocketAddr>, String> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let (sender, receiver) = mpsc::sync_channel(1);
    let name = host.to_owned();
    std::thread::spawn(move || {
        let found = (name.as_str(), port)
            .to_socket_addrs()
            .map(Iterator::collect::<Vec<_>>);
        // The call may have given up on the answer.
        let _ = sender.send(found);
    });
    match receiver.recv_timeout(limit) {
        Ok(Ok(found)) if !found.is_empty() => Ok(found),
        Ok(Ok(_)) => Err(format!("{host} has no address")),
        Ok(Err(error)) => Err(format!("cannot resolve {host}: {error}")),
        Err(_) => Err(format!("no answer from the name servers about {host}")),
    }
}

/// One attempt at every address.
fn attempt(args: &PortArgs, context: &Context) -> Result<PortState, ToolError> {
    let begin = Instant::now();
    let mut state = PortState {
        host: args.host().to_owned(),
        port: args.port,
        open: false,
        address: String::new(),
        latency_ms: 0.0,
        error: String::new(),
    };
    match addresses(args.host(), args.port, context.remaining().min(CONNECT)) {
        Err(error) => state.error = error,
        Ok(found) => {
            for address in found {
                context.check_alive()?;
                let limit = context
                    .remaining()
                    .min(CONNECT)
                    .max(Duration::from_millis(1));
                state.address = address.to_string();
                let begin = Instant::now();
                match TcpStream::connect_timeout(&address, limit) {
                    Ok(_) => {
                        state.open = true;
                        state.error.clear();
                        state.latency_ms = milliseconds(begin.elapsed());
                        return Ok(state);
                    }
                    Err(error) => state.error = format!("{address}: {error}"),
                }
            }
        }
    }
    state.latency_ms = milliseconds(begin.elapsed());
    Ok(state)
}

/// `net.check_port`
#[derive(Debug, Clone, Copy)]
pub struct CheckPort;

impl Tool for CheckPort {
    type Args = PortArgs;
    type Output = PortState;

    fn spec(&self) -> Spec {
        Spec {
            name: "net.check_port",
            summary: "Check whether a TCP port accepts connections, on this machine or another. \
                      A closed port is a result (`open` is false), not an error.",
            risk: Risk::Low,
            undo: None,
            idempotent: true,
            deadline: Duration::from_secs(60),
            capability: ("net", "check_port"),
        }
    }

    fn normalise(&self, args: PortArgs, _: &Context) -> Result<PortArgs, ToolError> {
        if args.port == 0 {
            return Err(ToolError::invalid("`port` is between 1 and 65535"));
        }
        if args
            .wait_s
            .is_some_and(|wait| !(1..=MAX_WAIT).contains(&wait))
        {
            return Err(ToolError::invalid(format!(
                "`wait_s` is between 1 and {MAX_WAIT}"
            )));
        }
        let host = args.host.as_deref().map(host::canonical).transpose()?;
        Ok(PortArgs {
            host: host.filter(|host| host != HERE),
            ..args
        })
    }

    fn capabilities(&self, args: &PortArgs) -> Vec<Capability> {
        vec![Capability::new("net", "check_port").on(host::with_port(args.host(), args.port))]
    }

    fn execute(&self, args: &PortArgs, context: &Context) -> Result<PortState, ToolError> {
        let end = Instant::now() + Duration::from_secs(args.wait_s.unwrap_or(0).into());
        loop {
            context.check_alive()?;
            let state = match attempt(args, context) {
                Err(error) if error.kind == ToolErrorKind::Timeout => {
                    return Err(error.hint("give the call more time"));
                }
                other => other?,
            };
            if state.open || Instant::now() >= end {
                return Ok(state);
            }
            std::thread::sleep(PAUSE.min(context.remaining()));
        }
    }
}
