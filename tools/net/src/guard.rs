//! Which addresses HTTP requests may reach. The check is made on the addresses that a name resolves
//! to, at the moment of connecting and again after every redirect, so that neither a name nor a
//! redirect leads around it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ureq::{
    Error,
    config::Config,
    http::Uri,
    unversioned::{
        resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver},
        transport::NextTimeout,
    },
};

/// The port of aiOS' own remote management.
const MANAGEMENT: u16 = 9090;
/// The metadata service of one cloud in a private IPv6 range.
const METADATA_V6: &str = "fd00:ec2::254";

/// Why an address may not be reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Blocked {
    /// Cloud metadata and other things that only the machine itself should see.
    #[error("{0} is a link-local or metadata address, which requests may not reach")]
    LinkLocal(IpAddr),
    /// aiOS itself.
    #[error("{0} is this machine's own management port, which requests may not reach")]
    Management(SocketAddr),
}

/// Whether an address may be reached; `own` are the addresses of this machine.
pub(crate) fn check(address: SocketAddr, own: &[IpAddr]) -> Result<(), Blocked> {
    let ip = address.ip().to_canonical();
    let link_local = match ip {
        IpAddr::V4(four) => four.is_link_local(),
        IpAddr::V6(six) => six.is_unicast_link_local() || METADATA_V6.parse() == Ok(six),
    };
    if link_local {
        return Err(Blocked::LinkLocal(ip));
    }
    let here = ip.is_loopback() || ip.is_unspecified() || own.contains(&ip);
    if here && address.port() == MANAGEMENT {
        return Err(Blocked::Management(address));
    }
    Ok(())
}

/// The addresses of this machine's interfaces.
fn own_addresses() -> Vec<IpAddr> {
    let Ok(entries) = nix::ifaddrs::getifaddrs() else {
        return vec![Ipv4Addr::LOCALHOST.into()];
    };
    entries
        .filter_map(|entry| {
            let address = entry.address?;
            if let Some(four) = address.as_sockaddr_in() {
                return Some(IpAddr::V4(four.ip()));
            }
            address.as_sockaddr_in6().map(|six| IpAddr::V6(six.ip()))
        })
        .collect()
}

/// The system's resolver, without the addresses that may not be reached.
#[derive(Debug, Default)]
pub(crate) struct GuardedResolver(DefaultResolver);

impl Resolver for GuardedResolver {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let found = self.0.resolve(uri, config, timeout)?;
        let own = own_addresses();
        for address in found.iter() {
            check(*address, &own).map_err(|blocked| Error::Other(Box::new(blocked)))?;
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_and_management_are_out_of_reach() {
        let own = ["10.0.2.15".parse().unwrap()];
        for address in [
            "169.254.169.254:80",
            "[::ffff:169.254.169.254]:80",
            "[fe80::1]:80",
            "[fd00:ec2::254]:80",
            "127.0.0.1:9090",
            "127.8.8.8:9090",
            "[::1]:9090",
            "0.0.0.0:9090",
            "[::]:9090",
            "10.0.2.15:9090",
            "[::ffff:127.0.0.1]:9090",
        ] {
            assert!(check(address.parse().unwrap(), &own).is_err(), "{address}");
        }
        for address in [
            "127.0.0.1:80",
            "10.0.2.2:9090",
            "10.0.2.15:80",
            "[2001:db8::1]:443",
        ] {
            assert_eq!(check(address.parse().unwrap(), &own), Ok(()), "{address}");
        }
    }
}
