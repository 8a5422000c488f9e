//! Ranges of addresses: who is believed, and where a key may be used from.

use core::net::IpAddr;
use std::fmt;
use std::str::FromStr;

/// A range of addresses, such as `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix_bits: u8,
}

impl Network {
    /// Reads `10.0.0.0/8` or a single address; the error says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
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

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits_max = if self.address.is_ipv4() { 32 } else { 128 };
        self.address.fmt(formatter)?;
        if self.prefix_bits == bits_max { Ok(()) } else { write!(formatter, "/{}", self.prefix_bits) }
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
            assert_eq!(network.to_string(), range);
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
