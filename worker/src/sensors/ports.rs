//! Ports of the container and the addresses at which they can be reached.

use std::net::{IpAddr, SocketAddr};

/// A port of the container and how it is reached from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Address to reach it at, where it is known.
    pub ip: Option<IpAddr>,
    /// Number inside the container.
    pub private: u16,
    /// Number outside.
    pub public: u16,
    /// `http` or `tcp`.
    pub kind: &'static str,
}

impl Port {
    /// The worker's own server.
    pub fn http(address: SocketAddr) -> Self {
        Self { ip: Some(address.ip()), private: address.port(), public: address.port(), kind: "http" }
    }

    /// Whether its address can be reached from everywhere.
    pub fn is_public(&self) -> bool {
        match self.ip {
            Some(IpAddr::V4(ip)) => {
                let [first, second, ..] = ip.octets();
                // Shared by the customers of a provider: RFC 6598.
                let shared = first == 100 && (64..128).contains(&second);
                !(ip.is_private() || ip.is_loopback() || ip.is_link_local() || ip.is_unspecified() || shared)
            }
            Some(IpAddr::V6(ip)) => {
                !(ip.is_loopback() || ip.is_unspecified() || ip.is_unique_local() || ip.is_unicast_link_local())
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_for_use_inside_are_not_public() {
        let is_public = |ip: &str| Port { ip: ip.parse().ok(), private: 1, public: 1, kind: "tcp" }.is_public();
        for ip in ["8.8.8.8", "100.128.0.1", "2606:4700::1"] {
            assert!(is_public(ip), "{ip}");
        }
        for ip in ["127.0.0.1", "0.0.0.0", "10.0.0.1", "100.65.0.1", "169.254.1.1", "::1", "fe80::1", "fd00::1", "?"] {
            assert!(!is_public(ip), "{ip}");
        }
    }
}
