//! Which host a request names.

use std::net::IpAddr;

use axum::http::header::HOST;
use axum::http::request::Parts;
use axum::http::uri::Authority;

/// Whether the request names this machine: an IP address, `localhost`, or a name below it.
///
/// A server without keys on a loopback address checks this against DNS rebinding: a browser sends the name of the page's site, even
/// when that name resolves to this machine. A request without a `Host` header comes from no browser and is accepted. Everything
/// unclear is refused: several `Host` headers, one that is not a host and a port, user information, and a target that names another
/// host than the header.
#[must_use]
pub fn names_this_machine(request: &Parts) -> bool {
    let mut hosts = request.headers.get_all(HOST).iter();
    let header = hosts.next();
    if hosts.next().is_some() {
        return false;
    }
    let target = request.uri.authority();
    let Some(header) = header else { return target.is_none_or(is_local) };
    let Ok(host) = Authority::try_from(header.as_bytes()) else { return false };
    is_local(&host)
        && target.is_none_or(|target| is_local(target) && target.as_str().eq_ignore_ascii_case(host.as_str()))
}

fn is_local(authority: &Authority) -> bool {
    if authority.as_str().contains('@') || !has_valid_port(authority) {
        return false;
    }
    let host = authority.host();
    if let Some(address) = host.strip_prefix('[') {
        return address.strip_suffix(']').is_some_and(|address| address.parse::<IpAddr>().is_ok());
    }
    // A fully qualified name ends with one dot.
    let name = host.strip_suffix('.').unwrap_or(host);
    let label = name.rsplit('.').next().unwrap_or_default();
    name.parse::<IpAddr>().is_ok() || label.eq_ignore_ascii_case("localhost")
}

/// Whether what follows the host is nothing or `:` and a number of a port.
fn has_valid_port(authority: &Authority) -> bool {
    let rest = authority.as_str().strip_prefix(authority.host());
    rest.is_some_and(|rest| rest.is_empty() || rest.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok()))
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderValue, Request};

    use super::*;

    fn is_ours(target: &str, hosts: &[&[u8]]) -> bool {
        let mut request = Request::get(target).body(()).unwrap();
        for host in hosts {
            request.headers_mut().append(HOST, HeaderValue::from_bytes(host).unwrap());
        }
        names_this_machine(&request.into_parts().0)
    }

    #[test]
    fn addresses_and_localhost_name_this_machine() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:8000",
            "[::1]:8000",
            "192.168.1.2",
            "localhost",
            "LOCALHOST:80",
            "localhost.:80",
            "ep.localhost:1",
        ] {
            assert!(is_ours("/", &[host.as_bytes()]), "{host}");
        }
        assert!(is_ours("/", &[]), "a client that names no host");
        assert!(is_ours("http://localhost:8000/", &[b"localhost:8000"]));
    }

    #[test]
    fn other_names_and_unclear_ones_do_not() {
        for host in [
            "evil.example",
            "evil.example:8000",
            "localhost.evil.example",
            "notlocalhost",
            "127.0.0.1.evil.example",
            "",
            "localhost..",
            "user@localhost",
            "localhost@evil.example",
            "localhost:",
            "localhost:80:80",
            "localhost:99999",
            "[localhost]",
            "[::1",
            "localhost evil.example",
            "localhost,evil.example",
            "localhost/",
        ] {
            assert!(!is_ours("/", &[host.as_bytes()]), "{host:?}");
        }
        assert!(!is_ours("/", &[b"evil\xff.example"]), "not UTF-8");
        assert!(!is_ours("/", &[b"localhost", b"evil.example"]), "two hosts");
        assert!(!is_ours("/", &[b"localhost", b"localhost"]), "two hosts, the same");
        assert!(!is_ours("http://evil.example/", &[b"localhost"]), "the target names another host");
        assert!(!is_ours("http://evil.example/", &[]), "only the target names a host");
        assert!(!is_ours("http://localhost:8000/", &[b"evil.example"]));
    }
}
