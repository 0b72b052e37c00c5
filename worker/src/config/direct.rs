//! Settings of jobs by HTTP request: RunPod's load-balancing endpoints and its realtime port.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::environment::Environment;
use super::settings::{Settings, describe, show_duration};
use super::{ConfigErrors, parse};

/// RunPod's SDK serves its realtime port when this is a port.
const REALTIME_PORT: &str = "RUNPOD_REALTIME_PORT";

/// The data center of a worker. The platform sets it; a local endpoint, whose variables a developer may export, does not.
const DATA_CENTER: &str = "RUNPOD_DC_ID";

/// Where RunPod's load balancer looks for a worker whose endpoint sets no `PORT`.
const PLATFORM: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 80);

const DEFAULT_PING_PATH: &str = "/ping";

/// Flags of `serve`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct DirectArgs {
    /// Address that jobs are sent to [env: PORT, for a port on all addresses] [default: 127.0.0.1:8000;
    /// on the platform 0.0.0.0:80]
    #[arg(long, value_name = "ADDRESS")]
    pub bind: Option<String>,

    /// Jobs that may wait for a slot; more are refused with 503 [env: RUNPOD_WORKER_MAX_WAITING] [default: 100]
    #[arg(long, value_name = "N")]
    pub max_waiting: Option<String>,

    /// How long a job may wait for a slot before it is refused with 503, the start of the model included
    /// [env: RUNPOD_WORKER_MAX_WAIT] [default: 2m]
    #[arg(long, value_name = "TIME")]
    pub max_wait: Option<String>,
}

/// Where and how jobs come by HTTP.
#[derive(Clone, Debug)]
pub struct DirectConfig {
    /// Where jobs are sent to.
    pub bind: SocketAddr,
    /// How many may wait for a slot.
    pub max_waiting: usize,
    /// How long each may.
    pub max_wait: Duration,
    /// Where the platform asks for health too, when that is a port of its own.
    pub health: Option<SocketAddr>,
    /// The path that it asks.
    pub ping_path: String,
    description: String,
}

impl DirectConfig {
    /// Settings of `serve`.
    ///
    /// # Errors
    /// Every mistake at once.
    pub fn serve(args: &DirectArgs, env: &impl Environment) -> Result<Self, ConfigErrors> {
        let everywhere = |port: &str| port.parse().map(|port: u16| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)));
        let default = match env.get(DATA_CENTER) {
            Some(_) => PLATFORM,
            None => SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8000),
        };
        Self::load(args, env, |settings, flag| {
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

    /// Settings of the realtime port; `None` when `RUNPOD_REALTIME_PORT` names none.
    ///
    /// # Errors
    /// Every mistake at once.
    pub fn realtime(env: &impl Environment) -> Result<Option<Self>, ConfigErrors> {
        let port = match env.get(REALTIME_PORT).as_deref() {
            None | Some("0") => return Ok(None),
            Some(text) => text.parse().map_err(|_| {
                ConfigErrors::new(vec![format!("{REALTIME_PORT}: `{text}` cannot be used: use a port, or 0")])
            })?,
        };
        let bind = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        Self::load(&DirectArgs::default(), env, |settings, _| {
            settings.show("realtime", &bind.to_string(), REALTIME_PORT);
            bind
        })
        .map(Some)
    }

    fn load<'e, E: Environment>(
        args: &DirectArgs,
        env: &'e E,
        bind: impl FnOnce(&mut Settings<'e, E>, Option<&str>) -> SocketAddr,
    ) -> Result<Self, ConfigErrors> {
        let mut settings = Settings::new(env);
        let bind = bind(&mut settings, args.bind.as_deref());
        let max_waiting = settings.number("max-waiting", args.max_waiting.as_deref(), 100, 1..=100_000);
        let default = Duration::from_secs(120);
        let max_wait = settings.read("max-wait", args.max_wait.as_deref(), &[], default, parse::timeout, show_duration);
        let health = health(&mut settings).filter(|health| health.port() != bind.port());
        let ping_path = ping_path(&mut settings);
        if !settings.problems.is_empty() {
            return Err(ConfigErrors::new(settings.problems));
        }
        let description = describe(&settings.shown);
        Ok(Self { bind, max_waiting, max_wait, health, ping_path, description })
    }

    /// Where to listen: for jobs, then for health checks if that is another port.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        std::iter::once(self.bind).chain(self.health)
    }

    /// The effective values and where each comes from, one line each.
    pub fn describe(&self) -> &str {
        &self.description
    }
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

/// The router takes some characters for patterns.
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
    fn the_platforms_ports_are_for_everyone_and_the_default_is_for_this_machine() {
        let bind = |pairs: &[_]| DirectConfig::serve(&DirectArgs::default(), &env(pairs)).unwrap().bind.to_string();
        assert_eq!(bind(&[]), "127.0.0.1:8000");
        assert_eq!(bind(&[("RUNPOD_ENDPOINT_ID", "local")]), "127.0.0.1:8000", "a local endpoint says so too");
        assert_eq!(bind(&[(DATA_CENTER, "EU-RO-1")]), "0.0.0.0:80");
        assert_eq!(bind(&[(DATA_CENTER, "EU-RO-1"), ("PORT", "8000")]), "0.0.0.0:8000");
        assert_eq!(bind(&[("PORT", "80")]), "0.0.0.0:80");
        let flags = DirectArgs { bind: Some("127.0.0.1:99".to_owned()), ..DirectArgs::default() };
        assert_eq!(DirectConfig::serve(&flags, &env(&[("PORT", "80")])).unwrap().bind.to_string(), "127.0.0.1:99");
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let mistakes = env(&[
            ("PORT", "http"),
            ("PORT_HEALTH", "x"),
            ("HEALTH_CHECK_PATH", "up"),
            ("RUNPOD_WORKER_MAX_WAIT", "soon"),
        ]);
        let error = DirectConfig::serve(&DirectArgs::default(), &mistakes).unwrap_err().to_string();
        for name in ["PORT: ", "PORT_HEALTH: ", "HEALTH_CHECK_PATH: ", "RUNPOD_WORKER_MAX_WAIT: "] {
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn the_realtime_port_is_off_unless_it_is_a_port() {
        assert!(DirectConfig::realtime(&env(&[])).unwrap().is_none());
        assert!(DirectConfig::realtime(&env(&[(REALTIME_PORT, "0")])).unwrap().is_none());
        let config = DirectConfig::realtime(&env(&[(REALTIME_PORT, "8080")])).unwrap().unwrap();
        assert_eq!(config.bind.to_string(), "0.0.0.0:8080");
        assert!(DirectConfig::realtime(&env(&[(REALTIME_PORT, "no")])).is_err());
    }
}
