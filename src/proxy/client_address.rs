//! Whose connection it is: the peer's address, or the one that a trusted load balancer says it passes on.

use super::Runtime;
use http::HeaderMap;
use pingora::protocols::http::ServerSession;
use std::net::IpAddr;

/// The address of the client, for the log and for keys that may be used from some addresses only.
pub(super) fn of(session: &ServerSession, runtime: &Runtime) -> Option<IpAddr> {
    let peer = peer(session)?;
    let is_trusted = |address: IpAddr| runtime.trusted_proxies.iter().any(|network| network.contains(address));
    Some(behind(peer, &session.req_header().headers, is_trusted))
}

/// The address at the other end of the connection.
pub(super) fn peer(session: &ServerSession) -> Option<IpAddr> {
    Some(session.client_addr()?.as_inet()?.ip())
}

/// Reads X-Forwarded-For from the right, as far as those who wrote it are trusted.
fn behind(peer: IpAddr, headers: &HeaderMap, is_trusted: impl Fn(IpAddr) -> bool) -> IpAddr {
    let mut client = peer;
    let lines: Vec<&str> = headers.get_all("x-forwarded-for").iter().filter_map(|line| line.to_str().ok()).collect();
    for hop in lines.iter().rev().flat_map(|line| line.rsplit(',')) {
        if !is_trusted(client) {
            break;
        }
        let Ok(address) = hop.trim().parse() else { break };
        client = address;
    }
    client
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_trusted_hops_wrote_is_believed() {
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        let trusts = |trusted: &'static [&'static str]| move |hop: IpAddr| trusted.contains(&hop.to_string().as_str());
        let mut headers = HeaderMap::new();
        headers.append("x-forwarded-for", "6.6.6.6, 1.2.3.4".parse().expect("a value"));
        headers.append("x-forwarded-for", "10.0.0.2".parse().expect("a value"));
        let peer = address("10.0.0.1");
        assert_eq!(behind(peer, &headers, trusts(&[])), peer);
        assert_eq!(behind(peer, &headers, trusts(&["10.0.0.1"])), address("10.0.0.2"));
        assert_eq!(behind(peer, &headers, trusts(&["10.0.0.1", "10.0.0.2"])), address("1.2.3.4"));
        headers.insert("x-forwarded-for", "garbage".parse().expect("a value"));
        assert_eq!(behind(peer, &headers, trusts(&["10.0.0.1"])), peer);
    }
}
