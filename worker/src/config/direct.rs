//! Settings of jobs by HTTP request: RunPod's load-balancing endpoints and its realtime port.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::conflicts::same_port;
use super::description::Description;
use super::environment::Environment;
use super::settings::{Settings, show_duration};
use super::{ConfigErrors, parse};
use crate::base::excerpt;
use crate::direct::DirectConfig;
use crate::http::limits::SPARE_CONNECTIONS;

/// As in RunPod's SDK: the realtime port, or unset or 0 for none.
const REALTIME_PORT: &str = "RUNPOD_REALTIME_PORT";

/// The data center of a worker. Only the platform sets it; a local endpoint does not.
const DATA_CENTER: &str = "RUNPOD_DC_ID";

/// The address at which RunPod's load balancer expects a worker whose endpoint sets no `PORT`.
const PLATFORM: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 80);

/// Running jobs that the default number of connections allows for.
const MAX_RUNNING: usize = 256;

const DEFAULT_PING_PATH: &str = "/ping";

/// Flags of `serve`.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Jobs by HTTP")]
pub struct DirectArgs {
    /// Address that jobs are sent to; on the platform it is 0.0.0.0:80 by default [env: RUNPOD_WORKER_BIND, or PORT for a
    /// port on all addresses] [default: 127.0.0.1:8000]
    #[arg(long, value_name = "ADDRESS")]
    pub bind: Option<String>,

    /// Jobs that may wait for a slot; more are rejected with 503 [env: RUNPOD_WORKER_MAX_WAITING] [default: 100]
    #[arg(long, value_name = "N")]
    pub max_waiting: Option<String>,

    /// How long a job may wait for a slot, also while the model loads, before it is rejected with 503
    /// [env: RUNPOD_WORKER_MAX_WAIT] [default: 2m]
    #[arg(long, value_name = "TIME")]
    pub max_wait: Option<String>,

    /// Connections that may be open; each job that waits or runs has one. Without the flag there is one for each job that may
    /// wait, for each of 256 that may run, and 64 for health checks [env: RUNPOD_WORKER_MAX_CONNECTIONS]
    #[arg(long, value_name = "N")]
    pub max_connections: Option<String>,
}

/// Reads the settings of `serve`.
///
/// # Errors
/// Every mistake at once.
pub fn load_serve(
    args: &DirectArgs,
    http_bind: Option<&str>,
    env: &impl Environment,
) -> Result<(DirectConfig, Description), ConfigErrors> {
    let everywhere = |port: &str| port.parse().map(|port: u16| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)));
    let default = match env.get(DATA_CENTER) {
        Some(_) => PLATFORM,
        None => SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8000),
    };
    load(args, http_bind, env, |settings, flag| {
        settings.read(
            "bind",
            flag,
            &["PORT"],
            default,
            |text| {
                everywhere(text)
                    .ok()
                    .or_else(|| text.parse().ok())
                    .ok_or_else(|| "use an address with a port, such as 127.0.0.1:8000, or a port".to_owned())
            },
            SocketAddr::to_string,
        )
    })
}

/// Reads the settings of the realtime port; `None` when `RUNPOD_REALTIME_PORT` names none.
///
/// # Errors
/// Every mistake at once.
pub fn load_realtime(
    http_bind: Option<&str>,
    env: &impl Environment,
) -> Result<Option<(DirectConfig, Description)>, ConfigErrors> {
    let port = match env.get(REALTIME_PORT).as_deref() {
        None | Some("0") => return Ok(None),
        Some(text) => text.parse().map_err(|_| {
            ConfigErrors::new(vec![format!("{REALTIME_PORT}: `{}` cannot be used: use a port, or 0", excerpt(text))])
        })?,
    };
    let bind = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    load(&DirectArgs::default(), http_bind, env, |settings, _| {
        settings.show("realtime", &bind.to_string(), REALTIME_PORT);
        bind
    })
    .map(Some)
}

fn load<'e, E: Environment>(
    args: &DirectArgs,
    http_bind: Option<&str>,
    env: &'e E,
    bind: impl FnOnce(&mut Settings<'e, E>, Option<&str>) -> SocketAddr,
) -> Result<(DirectConfig, Description), ConfigErrors> {
    let mut settings = Settings::new(env);
    let bind = bind(&mut settings, args.bind.as_deref());
    let max_waiting = settings.number("max-waiting", args.max_waiting.as_deref(), 100, 1..=100_000);
    let default = Duration::from_secs(120);
    let max_wait = settings.read("max-wait", args.max_wait.as_deref(), &[], default, parse::timeout, show_duration);
    let max_connections = settings.number(
        "max-connections",
        args.max_connections.as_deref(),
        max_waiting + MAX_RUNNING + SPARE_CONNECTIONS,
        8..=200_000,
    );
    if max_connections < max_waiting + SPARE_CONNECTIONS {
        settings.problems.push(format!(
            "--max-connections is {max_connections}, but --max-waiting jobs alone need {max_waiting}, and health checks up to \
             {SPARE_CONNECTIONS} more: use more connections, or a smaller --max-waiting"
        ));
    }
    let health = health(&mut settings).filter(|health| health.port() != bind.port());
    let ping_path = ping_path(&mut settings);
    // The worker's own server has its settings elsewhere; its mistakes are reported there.
    if let Some(own) = super::http::http_bind(&mut Settings::new(env), http_bind) {
        let servers = std::iter::once(("--bind or PORT", bind)).chain(health.map(|health| ("PORT_HEALTH", health)));
        settings.problems.extend(servers.filter_map(|server| same_port(server, ("--http-bind", own))));
    }
    if !settings.problems.is_empty() {
        return Err(ConfigErrors::new(settings.problems));
    }
    Ok((DirectConfig { bind, max_waiting, max_wait, max_connections, health, ping_path }, settings.description))
}

fn health<E: Environment>(settings: &mut Settings<'_, E>) -> Option<SocketAddr> {
    let text = settings.variable("PORT_HEALTH")?;
    match text.parse::<u16>() {
        Ok(port) => Some(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))),
        Err(_) => {
            settings.problems.push(format!("PORT_HEALTH: `{text}` cannot be used: use a port"));
            None
        }
    }
}

/// Some characters are patterns to the router, so they are refused.
fn ping_path<E: Environment>(settings: &mut Settings<'_, E>) -> String {
    let path = settings.variable("HEALTH_CHECK_PATH").unwrap_or_else(|| DEFAULT_PING_PATH.to_owned());
    if path.starts_with('/') && !path.contains(['{', '}', '*', '?']) && path != "/runsync" {
        return path;
    }
    settings.problems.push(format!("HEALTH_CHECK_PATH: `{path}` cannot be used: use a path such as /ping"));
    DEFAULT_PING_PATH.to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn ports_of_the_platform_are_on_all_addresses_and_the_default_is_local() {
        let bind = |pairs: &[_]| load_serve(&DirectArgs::default(), None, &env(pairs)).unwrap().0.bind.to_string();
        assert_eq!(bind(&[]), "127.0.0.1:8000");
        assert_eq!(bind(&[("RUNPOD_ENDPOINT_ID", "local")]), "127.0.0.1:8000", "a local endpoint sets it too");
        assert_eq!(bind(&[(DATA_CENTER, "EU-RO-1")]), "0.0.0.0:80");
        assert_eq!(bind(&[(DATA_CENTER, "EU-RO-1"), ("PORT", "8000")]), "0.0.0.0:8000");
        assert_eq!(bind(&[("PORT", "80")]), "0.0.0.0:80");
        let flags = DirectArgs { bind: Some("127.0.0.1:99".to_owned()), ..DirectArgs::default() };
        assert_eq!(load_serve(&flags, None, &env(&[("PORT", "80")])).unwrap().0.bind.to_string(), "127.0.0.1:99");
    }

    #[test]
    fn all_mistakes_are_reported_at_once() {
        let mistakes = env(&[
            ("PORT", "http"),
            ("PORT_HEALTH", "x"),
            ("HEALTH_CHECK_PATH", "up"),
            ("RUNPOD_WORKER_MAX_WAIT", "soon"),
        ]);
        let error = load_serve(&DirectArgs::default(), None, &mistakes).unwrap_err().to_string();
        for name in ["PORT: ", "PORT_HEALTH: ", "HEALTH_CHECK_PATH: ", "RUNPOD_WORKER_MAX_WAIT: "] {
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn a_port_of_the_platform_that_is_the_workers_own_is_refused() {
        for (pairs, name) in [(&[("PORT", "8001")][..], "--bind or PORT"), (&[("PORT_HEALTH", "8001")], "PORT_HEALTH")]
        {
            let error = load_serve(&DirectArgs::default(), None, &env(pairs)).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("are the same port"), "{error}");
            assert!(load_serve(&DirectArgs::default(), Some("none"), &env(pairs)).is_ok());
            assert!(load_serve(&DirectArgs::default(), Some("127.0.0.1:9001"), &env(pairs)).is_ok());
        }
        assert!(load_realtime(None, &env(&[(REALTIME_PORT, "8001")])).is_err());
    }

    #[test]
    fn each_waiting_job_has_a_connection() {
        let load = |pairs: &[_]| load_serve(&DirectArgs::default(), None, &env(pairs));
        assert_eq!(load(&[]).unwrap().0.max_connections, 420);
        let more = load(&[("RUNPOD_WORKER_MAX_WAITING", "1000")]).unwrap().0;
        assert_eq!(more.max_connections, 1320, "the default follows --max-waiting");
        let error = load(&[("RUNPOD_WORKER_MAX_CONNECTIONS", "100")]).unwrap_err().to_string();
        assert!(error.contains("--max-connections is 100"), "{error}");
    }

    #[test]
    fn the_realtime_port_is_off_unless_it_is_a_port() {
        assert!(load_realtime(None, &env(&[])).unwrap().is_none());
        assert!(load_realtime(None, &env(&[(REALTIME_PORT, "0")])).unwrap().is_none());
        let (config, _) = load_realtime(None, &env(&[(REALTIME_PORT, "8080")])).unwrap().unwrap();
        assert_eq!(config.bind.to_string(), "0.0.0.0:8080");
        assert!(load_realtime(None, &env(&[(REALTIME_PORT, "no")])).is_err());
    }
}
