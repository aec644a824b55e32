//! What the console itself can see of the machine: its name, its age, its addresses, and PID 1.

use std::{path::PathBuf, time::Duration};

use aios_init_protocol::{BootReport, Client, ClientError, Reply, Request, UnitReport};
use aios_kit::{Category, Error};
use aios_proto::v1::ServiceInfo;

/// Longest wait for PID 1.
const INIT_TIMEOUT: Duration = Duration::from_secs(5);

/// The name of the machine.
pub(crate) fn hostname() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// Time since the kernel started.
pub(crate) fn uptime() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

/// The addresses by which this machine can be reached.
pub(crate) fn addresses() -> Vec<String> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else {
        return Vec::new();
    };
    let mut list: Vec<String> = interfaces
        .filter_map(|interface| {
            let address = interface.address?;
            if let Some(v4) = address.as_sockaddr_in() {
                return (!v4.ip().is_loopback()).then(|| v4.ip().to_string());
            }
            let v6 = address.as_sockaddr_in6()?.ip();
            let usable = !v6.is_loopback() && !v6.is_unicast_link_local();
            usable.then(|| v6.to_string())
        })
        .collect();
    list.sort();
    list.dedup();
    list
}

/// PID 1, asked on a thread of its own because its client waits.
#[derive(Debug, Clone)]
pub(crate) struct Init {
    socket: PathBuf,
}

impl Init {
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    pub(crate) async fn call(&self, request: Request) -> Result<Reply, Error> {
        let client = Client::new(&self.socket, INIT_TIMEOUT);
        tokio::task::spawn_blocking(move || client.call(&request))
            .await
            .map_err(|error| Error::new(Category::Internal, error.to_string()))?
            .map_err(|error| match error {
                ClientError::Socket { .. } => Error::new(Category::Network, error.to_string())
                    .hint("is this machine running aios-init?"),
                ClientError::Malformed(_) => Error::new(Category::Internal, error.to_string()),
                ClientError::Refused { kind, message } => {
                    if kind == "not_found" {
                        return Error::not_found(message);
                    }
                    let category = match kind.as_str() {
                        "denied" => Category::Auth,
                        "invalid" => Category::Validation,
                        "conflict" | "busy" => Category::Conflict,
                        _ => Category::Internal,
                    };
                    Error::new(category, message)
                }
            })
    }

    pub(crate) async fn boot(&self) -> Result<BootReport, Error> {
        match self.call(Request::Boot).await? {
            Reply::Boot { boot } => Ok(boot),
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) async fn services(&self) -> Result<Vec<ServiceInfo>, Error> {
        match self.call(Request::List).await? {
            Reply::Units { units } => Ok(units.into_iter().map(service_info).collect()),
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) async fn logs(&self, unit: String, lines: u32) -> Result<Vec<String>, Error> {
        match self.call(Request::Logs { unit, lines }).await? {
            Reply::Lines { lines } => Ok(lines),
            other => Err(unexpected(&other)),
        }
    }
}

fn unexpected(reply: &Reply) -> Error {
    let text: String = format!("{reply:?}").chars().take(80).collect();
    Error::new(
        Category::Internal,
        format!("PID 1 answered with something else than was asked: {text}"),
    )
}

/// PID 1 counts from the start of the kernel, the protocol from 1970.
fn service_info(unit: UnitReport) -> ServiceInfo {
    let boot_ms =
        crate::now_ms().saturating_sub(u64::try_from(uptime().as_millis()).unwrap_or(u64::MAX));
    ServiceInfo {
        name: unit.name,
        state: unit.state.name().to_owned(),
        phase: unit.phase,
        pid: unit.pid,
        restarts: unit.restarts,
        since_ms: boot_ms + unit.since_us / 1000,
        status_text: unit.status_text,
        last_exit: unit.last_exit,
        memory_bytes: unit.memory_bytes,
    }
}
