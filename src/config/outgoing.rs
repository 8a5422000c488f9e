//! The section about connections to where tenants say.

use super::address::Network;
use super::place::Section;
use std::time::Duration;

const SECOND_MS: u64 = 1_000;
const MINUTE_MS: u64 = 60 * SECOND_MS;

/// Which connections go out to URLs that tenants give, such as those of webhooks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Whether they may be plain HTTP.
    pub allow_http: bool,
    /// Ranges that they may lead to though they are not public.
    pub allow_private_addresses: Vec<Network>,
    /// Ports that they may lead to; none named: all.
    pub ports: Vec<u16>,
    /// For the addresses of a name to be found.
    pub resolve_timeout: Duration,
    /// For a connection, TLS included.
    pub connect_timeout: Duration,
    /// For a whole exchange.
    pub timeout: Duration,
}

pub(super) fn read_outgoing(section: &Section<'_>) -> Outgoing {
    let timeout = |key, default| section.milliseconds(key, 1..=10 * MINUTE_MS, default);
    let ports = section.numbers("ports", 1..=u64::from(u16::MAX), &[443, 8_443], 64);
    Outgoing {
        allow_http: section.boolean("allow_http", false),
        allow_private_addresses: section.list("allow_private_addresses", Vec::new(), Network::parse),
        ports: ports.into_iter().filter_map(|port| u16::try_from(port).ok()).collect(),
        resolve_timeout: timeout("resolve_timeout_ms", 5 * SECOND_MS),
        connect_timeout: timeout("connect_timeout_ms", 5 * SECOND_MS),
        timeout: timeout("timeout_ms", 15 * SECOND_MS),
    }
}
