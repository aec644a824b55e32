//! `net.interfaces`: what the kernel knows of its network interfaces.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use aios_tool_api::{Capability, Context, Risk, Spec, Tool, ToolError};
use nix::{ifaddrs::getifaddrs, net::if_::InterfaceFlags, sys::socket::SockaddrStorage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where the kernel shows its interfaces.
const SYSFS: &str = "/sys/class/net";

/// Takes no arguments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoArgs {}

/// One network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Interface {
    /// Name, e.g. `eth0`.
    pub name: String,
    /// Hardware address; empty when it has none.
    pub mac: String,
    /// Whether it is switched on.
    pub up: bool,
    /// Whether it is connected and can carry traffic.
    pub running: bool,
    /// Whether it leads to the machine itself.
    pub loopback: bool,
    /// Largest packet, in bytes; 0 when not known.
    pub mtu: u32,
    /// Addresses with their prefix length, e.g. `192.0.2.7/24`.
    pub addresses: Vec<String>,
}

/// Every interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Listed {
    /// The interfaces, in the order of their names.
    pub interfaces: Vec<Interface>,
}

fn sysfs(name: &str, file: &str) -> Option<String> {
    let text = fs::read_to_string(Path::new(SYSFS).join(name).join(file)).ok()?;
    Some(text.trim().to_owned())
}

/// The number of leading ones of a net mask.
fn prefix(mask: &SockaddrStorage) -> Option<u32> {
    if let Some(mask) = mask.as_sockaddr_in() {
        return Some(u32::from(mask.ip()).leading_ones());
    }
    mask.as_sockaddr_in6()
        .map(|mask| u128::from(mask.ip()).leading_ones())
}

fn address(address: &SockaddrStorage, mask: Option<&SockaddrStorage>) -> Option<String> {
    let ip = if let Some(four) = address.as_sockaddr_in() {
        four.ip().to_string()
    } else {
        address.as_sockaddr_in6()?.ip().to_string()
    };
    Some(match mask.and_then(prefix) {
        Some(prefix) => format!("{ip}/{prefix}"),
        None => ip,
    })
}

fn read() -> Result<Vec<Interface>, ToolError> {
    let mut found: BTreeMap<String, Interface> = BTreeMap::new();
    let entries = getifaddrs()
        .map_err(|error| ToolError::io("cannot list the network interfaces", &error.into()))?;
    for entry in entries {
        let name = entry.interface_name;
        let interface = found.entry(name.clone()).or_insert_with(|| Interface {
            mac: sysfs(&name, "address")
                .filter(|mac| !mac.is_empty() && mac != "00:00:00:00:00:00")
                .unwrap_or_default(),
            up: entry.flags.contains(InterfaceFlags::IFF_UP),
            running: entry.flags.contains(InterfaceFlags::IFF_RUNNING),
            loopback: entry.flags.contains(InterfaceFlags::IFF_LOOPBACK),
            mtu: sysfs(&name, "mtu")
                .and_then(|mtu| mtu.parse().ok())
                .unwrap_or(0),
            addresses: Vec::new(),
            name,
        });
        let text = entry
            .address
            .as_ref()
            .and_then(|one| address(one, entry.netmask.as_ref()));
        interface.addresses.extend(text);
    }
    Ok(found.into_values().collect())
}

/// `net.interfaces`
#[derive(Debug, Clone, Copy)]
pub struct Interfaces;

impl Tool for Interfaces {
    type Args = NoArgs;
    type Output = Listed;

    fn spec(&self) -> Spec {
        Spec {
            name: "net.interfaces",
            summary: "List the network interfaces with their addresses and whether they are up.",
            risk: Risk::Low,
            undo: None,
            idempotent: true,
            deadline: Duration::from_secs(5),
            capability: ("net", "interfaces"),
        }
    }

    fn capabilities(&self, _: &NoArgs) -> Vec<Capability> {
        vec![Capability::new("net", "interfaces")]
    }

    fn execute(&self, _: &NoArgs, context: &Context) -> Result<Listed, ToolError> {
        context.check_alive()?;
        Ok(Listed {
            interfaces: read()?,
        })
    }
}
