//! The rule: which addresses are public.

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use reqwest::Url;

/// Lets public addresses through, and those of the given networks.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    allowed: Arc<[IpNet]>,
}

/// The address, or every address of the host name, is neither public nor allowed, or the name has no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the address is not public")]
pub struct PrivateAddress;

impl PrivateAddress {
    /// Whether this is why a request failed: the resolver's answer is one of the causes of reqwest's error.
    #[must_use]
    pub fn caused(error: &reqwest::Error) -> bool {
        std::iter::successors(error.source(), |cause| (**cause).source()).any(|cause| cause.is::<Self>())
    }
}

/// The text is no network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("give a network such as 10.0.0.0/8 or fd00::/8, or one address such as 127.0.0.1")]
pub struct BadNetwork;

/// The network that a text names; an address is a network of its own.
///
/// # Errors
/// [`BadNetwork`] with the forms that there are.
pub fn network(text: &str) -> Result<IpNet, BadNetwork> {
    let text = text.trim();
    text.parse().or_else(|_| text.parse().map(|ip: IpAddr| IpNet::from(ip))).map_err(|_| BadNetwork)
}

impl Guard {
    /// A guard that also lets `allowed` through.
    #[must_use]
    pub fn new(allowed: &[IpNet]) -> Self {
        Self { allowed: Arc::from(allowed) }
    }

    /// Whether a connection to `ip` may be opened.
    #[must_use]
    pub fn permits(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        names_a_host(ip) && (self.allowed.iter().any(|network| network.contains(&ip)) || is_public(ip))
    }

    /// Checks an address that stands in the URL itself, which no resolver is asked about. A host name passes: it is checked when it
    /// is resolved.
    ///
    /// # Errors
    /// [`PrivateAddress`] for an address that may not be reached.
    pub fn check(&self, url: &Url) -> Result<(), PrivateAddress> {
        let host = url.host_str().unwrap_or_default();
        match host.trim_start_matches('[').trim_end_matches(']').parse() {
            Ok(ip) if !self.permits(ip) => Err(PrivateAddress),
            _ => Ok(()),
        }
    }
}

/// Whether a connection to `ip` can lead to one host at all: not to a group of them, to all, or to wherever a server listens.
#[must_use]
pub fn names_a_host(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.octets()[0] != 0 && !ip.is_multicast() && !ip.is_broadcast(),
        IpAddr::V6(ip) => !ip.is_unspecified() && !ip.is_multicast(),
    }
}

fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

/// By the IANA registry of special-purpose addresses.
fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let special = ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_documentation()
        || matches!((a, b, c), (0, ..) | (100, 64..=127, _) | (192, 0, 0) | (192, 88, 99) | (198, 18 | 19, _))
        // Multicast, reserved and broadcast.
        || a >= 224;
    !special
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let [a, b, c, d, e, f, g, h] = ip.segments();
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match (a, b, c, d, e, f) {
        // Translated and tunnelled IPv4: what counts is where the packet comes out.
        (0x64, 0xff9b, 0, 0, 0, 0) => embedded(g, h),
        (0x2002, high, low, ..) => embedded(high, low),
        // Protocol assignments (Teredo among them) and documentation.
        (0x2001, 0..=0x1ff, ..) | (0x2001, 0xdb8, ..) | (0x3fff, 0..=0xfff, ..) => false,
        // All global unicast is in 2000::/3: loopback, link-local, unique local and multicast are not.
        _ => a & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_network_of_its_own() {
        for (text, inside, outside) in [
            ("127.0.0.1", "127.0.0.1", "127.0.0.2"),
            (" 10.0.0.0/8 ", "10.9.9.9", "11.0.0.1"),
            ("fd00::1", "fd00::1", "fd00::2"),
        ] {
            let network = network(text).unwrap();
            let contains = |ip: &str| network.contains(&ip.parse::<IpAddr>().unwrap());
            assert!(contains(inside) && !contains(outside), "{text}");
        }
        for bad in ["", "localhost", "127.0.0.1:80", "10.0.0.0/33", "[::1]"] {
            assert!(network(bad).unwrap_err().to_string().contains("127.0.0.1"), "{bad}");
        }
    }

    #[test]
    fn only_public_addresses_pass() {
        let guard = Guard::default();
        for private in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.8.8.8",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.168.1.1",
            "198.18.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "198.51.100.1",
            "203.0.113.7",
            "224.0.0.1",
            "239.255.255.250",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::808:808",
            "5f00::1",
            "100::1",
            "2002:7f00:1::",
            "2001:0:1::1",
            "2001:db8::1",
            "3fff::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!guard.permits(private.parse().unwrap()), "{private}");
        }
        for public in ["1.1.1.1", "172.15.0.1", "172.32.0.1", "::ffff:8.8.8.8", "2606:4700::1", "64:ff9b::808:808"] {
            assert!(guard.permits(public.parse().unwrap()), "{public}");
        }
    }

    #[test]
    fn a_network_can_be_allowed() {
        let guard = Guard::new(&["10.0.0.0/24".parse().unwrap()]);
        assert!(guard.permits("10.0.0.9".parse().unwrap()));
        assert!(guard.permits("::ffff:10.0.0.9".parse().unwrap()));
        assert!(!guard.permits("10.0.1.9".parse().unwrap()));
    }

    #[test]
    fn an_address_of_no_host_is_never_allowed() {
        let guard = Guard::new(&["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()]);
        for none in
            ["0.0.0.0", "0.1.2.3", "224.0.0.1", "239.1.1.1", "255.255.255.255", "::", "ff02::1", "::ffff:0.0.0.0"]
        {
            assert!(!guard.permits(none.parse().unwrap()), "{none}");
        }
        assert!(guard.permits("10.255.255.255".parse().unwrap()), "a host may have it");
    }

    #[test]
    fn an_address_in_a_url_is_checked_in_every_spelling() {
        let check = |url: &str| Guard::default().check(&Url::parse(url).unwrap());
        for private in [
            "http://127.0.0.1/",
            "http://127.1/",
            "http://2130706433/",
            "http://0x7f.0.0.1/",
            "http://0177.0.0.1/",
            "http://[::1]/",
            "http://[::ffff:127.0.0.1]/",
            "http://user:word@10.0.0.1:8080/a",
            "http://\u{ff11}\u{ff12}\u{ff17}.0.0.1/",
        ] {
            assert_eq!(check(private), Err(PrivateAddress), "{private}");
        }
        assert_eq!(check("http://1.1.1.1/"), Ok(()));
        assert_eq!(check("http://localhost/"), Ok(()), "a name is checked when it is resolved");
    }
}
