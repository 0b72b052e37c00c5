//! The addresses at which this program listens: no two of its sockets may need the same one.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

/// Whether two sockets cannot be open at the same time.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let (ip, other_ip) = (one.ip().to_canonical(), other.ip().to_canonical());
    // A socket for all addresses of IPv6 takes those of IPv4 too.
    let covers = |all: IpAddr, ip: IpAddr| all.is_unspecified() && (all.is_ipv6() || ip.is_ipv4());
    let is_chosen = one.port() != 0;
    is_chosen && one.port() == other.port() && (ip == other_ip || covers(ip, other_ip) || covers(other_ip, ip))
}

/// Pairs of sockets that need the same address; each has the name of the setting that it comes from.
pub(super) fn collisions(sockets: &[(String, SocketAddr)]) -> impl Iterator<Item = String> {
    let pairs =
        sockets.iter().enumerate().flat_map(|(at, one)| sockets[at + 1..].iter().map(move |other| (one, other)));
    pairs.filter(|((_, one), (_, other))| collide(*one, *other)).map(|((name, address), (other, other_address))| {
        format!("{name} {address} and {other} {other_address} need the same port: choose another one")
    })
}

/// The first of these ports on this machine that one of the sockets needs, with the socket's name.
pub(super) fn needed_of(ports: RangeInclusive<u16>, sockets: &[(String, SocketAddr)]) -> Option<(u16, &str)> {
    let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let (name, address) = sockets
        .iter()
        .find(|(_, address)| ports.contains(&address.port()) && collide(*address, local(address.port())))?;
    Some((address.port(), name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_collide_when_one_socket_takes_what_the_other_needs() {
        for (one, other, expected) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("127.0.0.1:80", "0.0.0.0:80", true),
            ("0.0.0.0:80", "0.0.0.0:80", true),
            ("[::]:80", "127.0.0.1:80", true),
            ("[::]:80", "[::1]:80", true),
            ("0.0.0.0:80", "[::1]:80", false),
            ("[::ffff:127.0.0.1]:80", "127.0.0.1:80", true),
            ("127.0.0.1:0", "127.0.0.1:0", false),
        ] {
            let (a, b): (SocketAddr, SocketAddr) = (one.parse().unwrap(), other.parse().unwrap());
            assert_eq!((collide(a, b), collide(b, a)), (expected, expected), "{one} {other}");
        }
    }
}
