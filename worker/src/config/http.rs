//! The address of the worker's HTTP server.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::ConfigErrors;
use super::environment::Environment;
use super::parse;
use super::settings::Settings;

/// Reads `--http-bind`.
pub(super) fn http_bind<E: Environment>(settings: &mut Settings<'_, E>, flag: Option<&str>) -> Option<SocketAddr> {
    let default = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 8001)));
    settings.read("http-bind", flag, &[], default, parse::bind, |bind| {
        bind.map_or_else(|| "none".to_owned(), |address| address.to_string())
    })
}

/// The address at which `probe` asks the worker that runs beside this process. It is read as that worker reads it.
///
/// # Errors
/// Every mistake at once, or that `--http-bind` is `none`.
pub fn probe_address(flag: Option<&str>, env: &impl Environment) -> Result<SocketAddr, ConfigErrors> {
    let mut settings = Settings::new(env);
    let bind = http_bind(&mut settings, flag);
    if !settings.problems.is_empty() {
        return Err(ConfigErrors::new(settings.problems));
    }
    match bind {
        Some(bind) => Ok(reachable(bind)),
        None => Err(ConfigErrors::new(vec![
            "--http-bind is none, so the worker answers no probes: give it an address, or ask the platform for no health check"
                .to_owned(),
        ])),
    }
}

/// A server that listens on every address listens on the loopback one too.
fn reachable(mut bind: SocketAddr) -> SocketAddr {
    if bind.ip().is_unspecified() {
        bind.set_ip(match bind {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    bind
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn address(flag: Option<&str>, env: Option<&str>) -> Result<String, String> {
        let env: BTreeMap<String, String> =
            env.map(|value| ("RUNPOD_WORKER_HTTP_BIND".to_owned(), value.to_owned())).into_iter().collect();
        probe_address(flag, &env).map(|address| address.to_string()).map_err(|errors| errors.to_string())
    }

    #[test]
    fn the_worker_is_asked_where_it_listens() {
        let table = [
            (None, None, "127.0.0.1:8001"),
            (None, Some("0.0.0.0:9000"), "127.0.0.1:9000"),
            (Some("[::]:9000"), Some("0.0.0.0:1"), "[::1]:9000"),
            (None, Some("10.0.0.1:80"), "10.0.0.1:80"),
        ];
        for (flag, env, expected) in table {
            assert_eq!(address(flag, env).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn a_worker_that_serves_nothing_cannot_be_asked() {
        assert!(address(None, Some("none")).unwrap_err().contains("--http-bind is none"));
        assert!(address(Some("8001"), None).unwrap_err().contains("use an address with a port"));
    }
}
