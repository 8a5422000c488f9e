//! Reading a URL strictly: what two readers could understand in two ways is refused.

use super::Refused;
use reqwest::Url;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Longest URL.
pub const URL_BYTES_MAX: usize = 2_048;
/// Domains whose names are never public: RFC 6761, 6762, 7686, 8375 and 9476, and what ICANN set aside for private use.
const LOCAL_DOMAINS: [&str; 8] = ["localhost", "local", "internal", "arpa", "onion", "alt", "test", "invalid"];

/// Reads a URL with an https scheme, or http where that is allowed.
pub(super) fn read(text: &str, allow_http: bool) -> Result<Url, Refused> {
    let wrong = |problem| Err(Refused::Url(problem));
    if text.len() > URL_BYTES_MAX {
        return wrong("is longer than 2048 bytes");
    }
    // URL parsers drop or rewrite these, each in its own way.
    if text.chars().any(|letter| letter.is_control() || letter.is_whitespace() || letter == '\\') {
        return wrong("must not hold spaces, control characters or backslashes");
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return wrong("must begin with https://");
    };
    match scheme.to_ascii_lowercase().as_str() {
        "https" => {}
        "http" if allow_http => {}
        _ => return wrong("must begin with https://"),
    }
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    if authority.contains('@') {
        return wrong("must not hold a user name or a password");
    }
    if text.contains('#') {
        return wrong("must not hold a fragment");
    }
    let Ok(url) = Url::parse(text) else {
        return wrong("is not one that can be read");
    };
    // An @ that only the parser finds, and anything else that it and we see in different places.
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return wrong("must not hold a user name, a password or a fragment");
    }
    refuse_odd_host(authority, &url)?;
    Ok(url)
}

/// The address that stands in place of a name.
pub(super) fn literal(url: &Url) -> Option<IpAddr> {
    let host = url.host_str()?;
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match inner {
        Some(address) => address.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => host.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

/// Refuses names that only a local network can know.
pub(super) fn refuse_local_name(host: &str) -> Result<(), Refused> {
    let Some((_, top)) = host.rsplit_once('.') else {
        return Err(Refused::Url("must name a host with its whole name, such as hooks.example.com"));
    };
    if LOCAL_DOMAINS.contains(&top) {
        return Err(Refused::Url("names a host of a domain that is never public"));
    }
    Ok(())
}

/// Refuses a host that the parser reads as another one than stands there: addresses in octal, hexadecimal, decimal or short
/// form, names with percent signs, with full stops of other scripts, or with letters that vanish.
fn refuse_odd_host(authority: &str, url: &Url) -> Result<(), Refused> {
    if let Some(bracketed) = authority.strip_prefix('[') {
        let (inner, port) = bracketed.split_once(']').unwrap_or((bracketed, ""));
        // Zones (fe80::1%eth0) are no addresses to this parser.
        return match inner.parse::<Ipv6Addr>() {
            Ok(_) => refuse_odd_port(port),
            Err(_) => Err(Refused::Url("holds an IPv6 address that can't be read")),
        };
    }
    let (host, port) = authority.find(':').map_or((authority, ""), |at| authority.split_at(at));
    refuse_odd_port(port)?;
    let is_plain = |letter: char| letter.is_alphanumeric() || matches!(letter, '-' | '.' | '_');
    if host.is_empty() || !host.chars().all(is_plain) {
        return Err(Refused::Url("holds a host name with characters that names don't have"));
    }
    match literal(url) {
        Some(address) if address.to_string() != host => {
            Err(Refused::Url("holds an address in an odd form; write it like 192.0.2.1"))
        }
        Some(_) => Ok(()),
        None => refuse_odd_name(url.host_str().unwrap_or_default()),
    }
}

/// Refuses what can't be a name in the form that name servers know.
fn refuse_odd_name(name: &str) -> Result<(), Refused> {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    if name.len() > 253 || !name.split('.').all(is_label) {
        return Err(Refused::Url("holds a host name with an empty or overlong part"));
    }
    Ok(())
}

fn refuse_odd_port(after_host: &str) -> Result<(), Refused> {
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|number| number > 0 && number.to_string() == port);
    match after_host.strip_prefix(':') {
        None if after_host.is_empty() => Ok(()),
        Some(port) if is_port(port) => Ok(()),
        Some(_) | None => Err(Refused::Url("holds a port that is not a number from 1 to 65535")),
    }
}
