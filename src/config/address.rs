//! Where things are on the network: base URLs and address ranges.

use std::net::IpAddr;

/// An absolute http(s) URL without query: where a provider or a proxy is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUrl {
    /// Whether it is https.
    pub tls: bool,
    /// Host name or address, IPv6 without brackets.
    pub host: String,
    /// The port, named or the scheme's own.
    pub port: u16,
    /// What paths begin with, without a slash at its end: empty or such as `/v1`.
    pub path: String,
}

/// A range of addresses, such as `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix_bits: u8,
}

impl BaseUrl {
    /// Reads `https://host[:port][/path]`; the error says what is wrong.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let not_absolute = || "not an absolute http(s) URL".to_owned();
        let uri: http::Uri = text.parse().map_err(|_| not_absolute())?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            Some(_) | None => return Err(not_absolute()),
        };
        let authority = uri.authority().ok_or_else(not_absolute)?;
        if authority.as_str().contains('@') {
            return Err("must not hold a user name or a password".to_owned());
        }
        if uri.query().is_some() || text.contains('#') {
            return Err("must not have a query or a fragment".to_owned());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        // `http::Uri` lets `host:` and `host:99999` pass as an authority without a port.
        let has_odd_port = authority.port_u16().is_none() && !authority.as_str().ends_with(authority.host());
        if host.is_empty() || port == 0 || has_odd_port {
            return Err(not_absolute());
        }
        Ok(Self { tls, host, port, path: uri.path().trim_end_matches('/').to_owned() })
    }
}

impl Network {
    /// Reads `10.0.0.0/8` or a single address.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || "not an address or a range such as 10.0.0.0/8".to_owned();
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let bits_max = if address.is_ipv4() { 32 } else { 128 };
        let prefix_bits = match bits {
            Some(bits) => bits.parse().ok().filter(|bits| *bits <= bits_max).ok_or_else(wrong)?,
            None => bits_max,
        };
        let network = Self { address, prefix_bits };
        // 10.1.2.3/8 is more often a slip than a way to write 10.0.0.0/8.
        if network.first_bits(address) == Some(as_bits(address)) {
            Ok(network)
        } else {
            Err("the address has bits beyond the range".to_owned())
        }
    }

    /// Whether an address is in the range. An IPv4 address mapped into IPv6 counts as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.first_bits(address.to_canonical()) == Some(as_bits(self.address))
    }

    /// The bits of an address without those beyond the range; none if it is of the other family.
    fn first_bits(&self, address: IpAddr) -> Option<u128> {
        let width = if self.address.is_ipv4() { 32 } else { 128 };
        let beyond = width - u32::from(self.prefix_bits);
        let mask = u128::MAX.checked_shl(beyond).unwrap_or(0);
        (address.is_ipv4() == self.address.is_ipv4()).then(|| as_bits(address) & mask)
    }
}

fn as_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_urls_are_taken_apart() {
        let url = |tls, host: &str, port, path: &str| BaseUrl { tls, host: host.into(), port, path: path.into() };
        for (text, parts) in [
            ("https://api.openai.com/v1", url(true, "api.openai.com", 443, "/v1")),
            ("https://api.anthropic.com", url(true, "api.anthropic.com", 443, "")),
            ("http://127.0.0.1:8000/", url(false, "127.0.0.1", 8000, "")),
            ("http://[::1]:8000/a/b/", url(false, "::1", 8000, "/a/b")),
        ] {
            assert_eq!(BaseUrl::parse(text), Ok(parts), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_base_url_is_refused() {
        for text in [
            "",
            "api.openai.com",
            "/v1",
            "ftp://host/",
            "https://",
            "https://host:99999",
            "https://host:",
            "https://host:0",
            "https://user:password@host/",
            "https://host/v1?key=1",
            "https://host/#v1",
            "https://ho st/",
        ] {
            assert!(BaseUrl::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ranges_contain_their_addresses() {
        for (range, address, contains) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.0.0.1", true),
            ("0.0.0.0/0", "192.0.2.1", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "2001:db8::1", true),
            ("2001:db8::/32", "2001:db8:1::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7", "192.0.2.8", false),
        ] {
            let network = Network::parse(range).expect(range);
            assert_eq!(network.contains(address.parse().expect(address)), contains, "{range} {address}");
        }
    }

    #[test]
    fn what_is_not_a_range_is_refused() {
        for text in ["", "10.0.0.0/33", "10.0.0.0/", "10.0.0.1/8", "::/129", "host", "10.0.0.0/-1"] {
            assert!(Network::parse(text).is_err(), "{text}");
        }
    }
}
