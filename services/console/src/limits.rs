//! How much one party may ask for: requests per identity, handshakes per address, connections.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

/// Requests per second that one identity may make in the long run.
const REQUESTS_PER_SECOND: NonZeroU32 = NonZeroU32::new(100).unwrap();
/// Requests that it may make at once.
const REQUESTS_BURST: NonZeroU32 = NonZeroU32::new(400).unwrap();
/// Handshakes per second that one address may begin in the long run.
const HANDSHAKES_PER_SECOND: NonZeroU32 = NonZeroU32::new(20).unwrap();
/// Handshakes that it may begin at once.
const HANDSHAKES_BURST: NonZeroU32 = NonZeroU32::new(100).unwrap();

/// Longest wait for a TLS handshake to end.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Handshakes that may be going on at the same time.
pub(crate) const HANDSHAKES_AT_ONCE: usize = 64;
/// Connections over the network at the same time.
pub(crate) const REMOTE_CONNECTIONS: usize = 256;
/// Connections on the local socket at the same time.
pub(crate) const LOCAL_CONNECTIONS: usize = 256;
/// Connections of one identity at the same time.
const CONNECTIONS_PER_IDENTITY: usize = 64;
/// Calls on one connection at the same time.
pub(crate) const STREAMS_PER_CONNECTION: u32 = 64;

/// The counters.
#[derive(Debug)]
pub(crate) struct Limits {
    requests: DefaultKeyedRateLimiter<String>,
    handshakes: DefaultKeyedRateLimiter<IpAddr>,
    connections: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl Limits {
    pub(crate) fn new() -> Self {
        Self {
            requests: RateLimiter::keyed(
                Quota::per_second(REQUESTS_PER_SECOND).allow_burst(REQUESTS_BURST),
            ),
            handshakes: RateLimiter::keyed(
                Quota::per_second(HANDSHAKES_PER_SECOND).allow_burst(HANDSHAKES_BURST),
            ),
            connections: Arc::default(),
        }
    }

    /// Whether this identity may make one more request now.
    pub(crate) fn request(&self, identity: &str) -> bool {
        self.requests.check_key(&identity.to_owned()).is_ok()
    }

    /// Whether this address may begin one more handshake now.
    pub(crate) fn handshake(&self, address: IpAddr) -> bool {
        self.handshakes.check_key(&network(address)).is_ok()
    }

    /// A place for one more connection of this identity, until it is dropped.
    pub(crate) fn connection(&self, identity: &str) -> Option<Place> {
        let mut connections = self
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let count = connections.entry(identity.to_owned()).or_default();
        if *count >= CONNECTIONS_PER_IDENTITY {
            return None;
        }
        *count += 1;
        Some(Place {
            identity: identity.to_owned(),
            connections: self.connections.clone(),
        })
    }

    /// Forgets those who have been quiet, so that the tables stay small.
    pub(crate) fn forget_quiet(&self) {
        self.requests.retain_recent();
        self.handshakes.retain_recent();
        self.requests.shrink_to_fit();
        self.handshakes.shrink_to_fit();
    }
}

/// One connection's place; gives it back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    identity: String,
    connections: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut connections = self
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = connections.get_mut(&self.identity) {
            *count -= 1;
            if *count == 0 {
                connections.remove(&self.identity);
            }
        }
    }
}

/// What is counted as one address: an IPv4 address, or the /64 that an IPv6 host chooses from.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_cannot_escape_by_changing_its_address() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("10.0.0.2"), of("10.0.0.1"));
    }

    #[test]
    fn one_identity_does_not_use_up_anothers_share() {
        let limits = Limits::new();
        let granted = (0..1000).filter(|_| limits.request("cert:a")).count();
        assert!((400..450).contains(&granted), "{granted}");
        assert!(limits.request("cert:b"));
    }

    #[test]
    fn a_place_is_given_back() {
        let limits = Limits::new();
        let places: Vec<_> = (0..CONNECTIONS_PER_IDENTITY)
            .map(|_| limits.connection("cert:a").unwrap())
            .collect();
        assert!(limits.connection("cert:a").is_none());
        assert!(limits.connection("cert:b").is_some());
        drop(places);
        assert!(limits.connection("cert:a").is_some());
        assert!(limits.connections.lock().unwrap().is_empty());
    }
}
