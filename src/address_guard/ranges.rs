//! Which addresses are public: not those of IANA's special-purpose registries, nor those that carry one of them inside.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IPv4 ranges that are not public, with what they are: the IANA IPv4 Special-Purpose Address Registry, multicast, and the
/// one public address that leads into every virtual machine's host at a large provider.
const SPECIAL_V4: [(Ipv4Addr, u32, &str); 20] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8, "this network"),
    (Ipv4Addr::new(10, 0, 0, 0), 8, "a private network"),
    (Ipv4Addr::new(100, 64, 0, 0), 10, "a carrier's private network"),
    (Ipv4Addr::new(127, 0, 0, 0), 8, "this machine"),
    (Ipv4Addr::new(169, 254, 0, 0), 16, "the local link, where cloud metadata is served"),
    (Ipv4Addr::new(172, 16, 0, 0), 12, "a private network"),
    (Ipv4Addr::new(192, 0, 0, 0), 24, "reserved for protocols"),
    (Ipv4Addr::new(192, 0, 2, 0), 24, "reserved for documentation"),
    (Ipv4Addr::new(192, 31, 196, 0), 24, "reserved for protocols"),
    (Ipv4Addr::new(192, 52, 193, 0), 24, "reserved for protocols"),
    (Ipv4Addr::new(192, 88, 99, 0), 24, "a relay to IPv6"),
    (Ipv4Addr::new(192, 168, 0, 0), 16, "a private network"),
    (Ipv4Addr::new(192, 175, 48, 0), 24, "reserved for protocols"),
    (Ipv4Addr::new(198, 18, 0, 0), 15, "reserved for measurements"),
    (Ipv4Addr::new(198, 51, 100, 0), 24, "reserved for documentation"),
    (Ipv4Addr::new(203, 0, 113, 0), 24, "reserved for documentation"),
    (Ipv4Addr::new(224, 0, 0, 0), 4, "multicast"),
    (Ipv4Addr::new(240, 0, 0, 0), 4, "reserved"),
    (Ipv4Addr::new(255, 255, 255, 255), 32, "broadcast"),
    (Ipv4Addr::new(168, 63, 129, 16), 32, "a cloud's internal service"),
];

/// Ranges of the one block of IPv6 that is public at all which are not, with what they are.
const SPECIAL_V6: [(Ipv6Addr, u32, &str); 5] = [
    // Teredo, ORCHID, benchmarking and the protocols' own.
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23, "reserved for protocols"),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32, "reserved for documentation"),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16, "a tunnel (6to4)"),
    (Ipv6Addr::new(0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0), 48, "reserved for protocols"),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20, "reserved for documentation"),
];

/// Global unicast, all that IANA gives out.
const PUBLIC_V6: (Ipv6Addr, u32) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);
/// NAT64's own prefix (RFC 6052): where name servers make IPv6 addresses of IPv4 ones, a public one has this form too.
const NAT64: (Ipv6Addr, u32) = (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96);

/// Why an address is not public; none if it is.
pub(super) fn not_public(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => v4(address),
        IpAddr::V6(address) => v6(address),
    }
}

fn v4(address: Ipv4Addr) -> Option<&'static str> {
    let is_in = |range: Ipv4Addr, bits: u32| (address.to_bits() ^ range.to_bits()).leading_zeros() >= bits;
    SPECIAL_V4.iter().find(|(range, bits, _)| is_in(*range, *bits)).map(|(_, _, what)| *what)
}

fn v6(address: Ipv6Addr) -> Option<&'static str> {
    let is_in = |range: Ipv6Addr, bits: u32| (address.to_bits() ^ range.to_bits()).leading_zeros() >= bits;
    if let Some(mapped) = address.to_ipv4_mapped() {
        return v4(mapped);
    }
    if is_in(NAT64.0, NAT64.1) {
        let [.., a, b, c, d] = address.octets();
        return v4(Ipv4Addr::new(a, b, c, d));
    }
    if !is_in(PUBLIC_V6.0, PUBLIC_V6.1) {
        return Some(local_v6(address));
    }
    SPECIAL_V6.iter().find(|(range, bits, _)| is_in(*range, *bits)).map(|(_, _, what)| *what)
}

/// What an address outside of the public block is.
fn local_v6(address: Ipv6Addr) -> &'static str {
    match address {
        Ipv6Addr::LOCALHOST => "this machine",
        Ipv6Addr::UNSPECIFIED => "this network",
        multicast if multicast.is_multicast() => "multicast",
        local if local.is_unicast_link_local() => "the local link",
        local if local.is_unique_local() => "a private network",
        _ => "reserved",
    }
}
