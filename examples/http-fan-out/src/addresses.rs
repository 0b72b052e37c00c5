//! Which addresses may be fetched. Whoever may submit jobs chooses the URLs, so they must not lead into the network of the worker.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, ClientBuilder, Url, redirect};

/// With this environment variable set to `1`, private addresses may be fetched, too.
const VARIABLE: &str = "RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS";
/// Most redirects that are followed for one URL.
const MAX_REDIRECTS: usize = 5;

/// Which addresses may be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// Those of the public internet.
    Public,
    /// All.
    Any,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum AddressError {
    #[error("{0} is a private address, and only public ones may be fetched; {VARIABLE}=1 permits all")]
    Private(String),
    #[error("more than {MAX_REDIRECTS} redirects")]
    Redirects,
    #[error("only http and https are fetched")]
    Scheme,
}

impl Addresses {
    pub(crate) fn from_environment() -> Self {
        if std::env::var(VARIABLE).as_deref() == Ok("1") { Self::Any } else { Self::Public }
    }

    /// A client that connects to no other address, whatever names and redirects lead to.
    pub(crate) fn client(self) -> reqwest::Result<Client> {
        let policy = redirect::Policy::custom(move |attempt| {
            let error = if attempt.previous().len() > MAX_REDIRECTS {
                Some(AddressError::Redirects)
            } else {
                self.check(attempt.url()).err()
            };
            match error {
                Some(error) => attempt.error(error),
                None => attempt.follow(),
            }
        });
        // A proxy would resolve the names itself.
        ClientBuilder::new().redirect(policy).dns_resolver(self).no_proxy().build()
    }

    /// Checks what no resolver sees: the scheme, and an address in place of a name.
    pub(crate) fn check(self, url: &Url) -> Result<(), AddressError> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(AddressError::Scheme);
        }
        let host = url.host_str().unwrap_or_default();
        match host.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(address) if !self.permits(address) => Err(AddressError::Private(host.to_owned())),
            _ => Ok(()),
        }
    }

    fn permits(self, address: IpAddr) -> bool {
        self == Self::Any
            || match address {
                IpAddr::V4(address) => is_public_v4(address),
                IpAddr::V6(address) => is_public_v6(address),
            }
    }
}

impl Resolve for Addresses {
    fn resolve(&self, name: Name) -> Resolving {
        let addresses = *self;
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let permitted: Vec<SocketAddr> = found.filter(|found| addresses.permits(found.ip())).collect();
            if permitted.is_empty() {
                return Err(AddressError::Private(name.as_str().to_owned()).into());
            }
            Ok(Box::new(permitted.into_iter()) as Addrs)
        })
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    // RFC 6890: shared address space, protocol assignments, benchmarking, and what is reserved.
    let special =
        a == 0 || a >= 240 || (a, b & 0xc0) == (100, 64) || (a, b, c) == (192, 0, 0) || (a, b & 0xfe) == (198, 18);
    !(special
        || address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_documentation())
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    // Only 2000::/3 is assigned to the internet; parts of it lead to addresses of IPv4 (6to4, Teredo) or nowhere.
    let [first, second, ..] = address.segments();
    let leads_elsewhere =
        first == 0x2002 || (first, second & 0xfe00) == (0x2001, 0) || (first, second) == (0x2001, 0xdb8);
    first & 0xe000 == 0x2000 && !leads_elsewhere
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_permitted() {
        for address in ["1.1.1.1", "93.184.216.34", "2606:4700::1"] {
            assert!(Addresses::Public.permits(address.parse().unwrap()), "{address}");
        }
        for address in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "198.18.0.1",
            "192.0.0.1",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "::ffff:10.0.0.1",
            "2002:7f00:1::",
            "2001:db8::1",
            "64:ff9b::a00:1",
        ] {
            assert!(!Addresses::Public.permits(address.parse().unwrap()), "{address}");
            assert!(Addresses::Any.permits(address.parse().unwrap()), "{address}");
        }
    }
}
