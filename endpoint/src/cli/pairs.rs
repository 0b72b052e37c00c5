//! Settings that are valid alone and cannot work together. They are refused before anything is started.

use std::collections::HashSet;
use std::ffi::OsString;
use std::net::SocketAddr;

use super::addresses::{collisions, needed_of};
use super::args::{ListenArgs, WorkerArgs};
use super::config::{Config, EndpointConfig};
use super::effective::Effective;
use crate::api::{Origin, limits};
use crate::fleet::GpuChoice;
use crate::store::Policy;

/// Settings that contradict each other, each with the fix.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub(crate) struct Contradictions(Vec<String>);

/// A command, as far as its settings depend on each other.
pub(crate) struct Settings<'a> {
    pub(crate) listen: &'a ListenArgs,
    pub(crate) workers: &'a WorkerArgs,
    pub(crate) endpoint_id: &'a str,
    pub(crate) handler: &'a [OsString],
    pub(crate) config: &'a Config,
    pub(crate) effective: &'a Effective,
}

impl Settings<'_> {
    /// Checks all pairs.
    pub(crate) fn check(&self) -> Result<(), Contradictions> {
        let problems: Vec<_> = [
            self.keys(),
            self.origins(),
            self.memory(),
            self.endpoints(),
            self.overflows(),
            self.workers(),
            self.addresses(),
            self.ports(),
            self.gpus(),
        ]
        .into_iter()
        .flatten()
        .collect();
        if problems.is_empty() { Ok(()) } else { Err(Contradictions(problems)) }
    }

    /// Whether this program starts workers.
    fn starts_workers(&self) -> bool {
        !self.handler.is_empty() || self.config.endpoint.iter().any(|endpoint| !endpoint.handler.is_empty())
    }

    /// A client key alone would leave the worker API open, through which every job can be read. Local workers get a generated key.
    fn keys(&self) -> Vec<String> {
        let keys = &self.listen.keys;
        let client = keys.api_key.is_some() || keys.api_key_file.is_some();
        let worker = keys.worker_key.is_some() || keys.worker_key_file.is_some();
        if !client || worker || keys.insecure_no_auth || self.starts_workers() {
            return Vec::new();
        }
        vec![
            "--api-key without --worker-key leaves the worker API open to everyone who reaches it: set both, or pass --insecure-no-auth"
                .to_owned(),
        ]
    }

    /// Without a key, every web page in a browser that reaches this server could run jobs.
    fn origins(&self) -> Vec<String> {
        let keys = &self.listen.keys;
        let is_open = keys.api_key.is_none() && keys.api_key_file.is_none() && !keys.insecure_no_auth;
        if !is_open || !keys.cors_allow_origin.iter().any(Origin::is_any) {
            return Vec::new();
        }
        vec![
            "--cors-allow-origin * without --api-key lets every web page run jobs: name the origins, or set --api-key"
                .to_owned(),
        ]
    }

    /// Every permitted body must fit into the memory of all bodies.
    fn memory(&self) -> Vec<String> {
        let memory = usize::try_from(self.listen.connections.max_request_memory_mib).unwrap_or(usize::MAX);
        let (result, request) = (usize::from(self.listen.jobs.max_result_mib), limits::RUNSYNC_BODY >> 20);
        let needed = result.max(request);
        let mut problems = Vec::new();
        if memory < needed {
            problems.push(format!(
                "--max-request-memory-mib {memory} is less than one request may have ({request} MiB, and --max-result-mib {result}): \
                 give {needed} or more"
            ));
        }
        let memory = usize::try_from(self.listen.connections.max_reply_memory_mib).unwrap_or(usize::MAX);
        if memory < result {
            problems.push(format!(
                "--max-reply-memory-mib {memory} is less than one result may have (--max-result-mib {result}): give {result} or more"
            ));
        }
        problems
    }

    /// Times of endpoints, and handlers of the same endpoint.
    fn endpoints(&self) -> Vec<String> {
        let default = Policy::default();
        let times = self.config.endpoint.iter().filter_map(|endpoint| {
            let (policy, lease) = (endpoint.policy(), endpoint.lease.unwrap_or(self.listen.jobs.lease));
            let shown = |time| humantime::format_duration(time);
            let run = policy.execution_timeout.filter(|run| *run >= policy.ttl);
            let lease = Some(lease).filter(|lease| *lease >= policy.ttl && policy.ttl != default.ttl);
            let (name, time, effect) = match (run, lease) {
                (Some(run), _) => ("execution_timeout", run, "no job could use it up"),
                (None, Some(lease)) => ("lease", lease, "no lost job could be given to another worker"),
                (None, None) => return None,
            };
            Some(format!(
                "endpoint {:?}: `{name}` {} is not less than `ttl` {}, after which a job is removed: {effect}",
                endpoint.id,
                shown(time),
                shown(policy.ttl)
            ))
        });
        let twice = self.config.endpoint.iter().find(|endpoint| {
            endpoint.id == self.endpoint_id && !endpoint.handler.is_empty() && !self.handler.is_empty()
        });
        let twice = twice.map(|endpoint| {
            format!(
                "endpoint {:?} has a handler on the command line and one in --config: remove one, or choose another --endpoint-id",
                endpoint.id
            )
        });
        let keys = &self.listen.keys;
        let open = keys.api_key.is_none() && keys.api_key_file.is_none() && !keys.insecure_no_auth;
        let exposed = self.config.endpoint.iter().filter_map(|endpoint| {
            let bind = endpoint.load_balancer.as_ref().map(|balancer| balancer.bind).filter(|_| open)?;
            (!bind.ip().is_loopback()).then(|| {
                format!(
                    "endpoint {:?}: `load_balancer.bind` {bind} is reachable from the network and there is no key: set --api-key, \
                     bind to 127.0.0.1, or pass --insecure-no-auth",
                    endpoint.id
                )
            })
        });
        times.chain(twice).chain(exposed).collect()
    }

    /// Where jobs go that wait for too long, when, and for which money.
    fn overflows(&self) -> Vec<String> {
        let problem = |endpoint: &EndpointConfig| {
            let (overflow, policy) = (endpoint.overflow.as_ref()?, endpoint.policy());
            let next = |from: &EndpointConfig| {
                let overflow = from.overflow.as_ref()?;
                self.config.endpoint.iter().find(|next| overflow.leads_to(self.listen.bind, &next.id))
            };
            let mut way = std::iter::successors(next(endpoint), |from| next(from)).take(self.config.endpoint.len());
            let shown = |time| humantime::format_duration(time);
            if way.any(|next| next.id == endpoint.id) {
                return Some(
                    "`overflow.url` is, or leads back to, this endpoint itself: give the URL of another one".to_owned(),
                );
            }
            if next(endpoint).is_some_and(|next| next.load_balancer.is_some()) {
                return Some(
                    "`overflow.url` is a load-balancing endpoint, which has no queue: give the URL of another one"
                        .to_owned(),
                );
            }
            if overflow.after >= policy.ttl {
                return Some(format!(
                    "`overflow.after` {} is not less than `ttl` {}, after which a job is removed: no job would be sent",
                    shown(overflow.after),
                    shown(policy.ttl)
                ));
            }
            overflow.affords_none(policy.run_time()).then(|| {
                format!(
                    "`overflow.max_dollars_per_hour` is less than one job may cost, which may run for {}: no job would be sent; raise it, \
                     or lower `execution_timeout`",
                    shown(policy.run_time())
                )
            })
        };
        let problems = self.config.endpoint.iter().filter_map(|endpoint| Some((&endpoint.id, problem(endpoint)?)));
        problems.map(|(id, problem)| format!("endpoint {id:?}: {problem}")).collect()
    }

    /// Numbers of workers.
    fn workers(&self) -> Vec<String> {
        let (min, max) = self.workers.bounds();
        let mut problems = Vec::new();
        if min > max {
            problems.push(format!("--workers-min {min} is more than --workers-max {max}"));
        }
        let given = ["workers", "workers-min", "workers-max"].into_iter().find(|name| !self.effective.is_default(name));
        if let Some(name) = given.filter(|_| !self.starts_workers()) {
            problems.push(format!("--{name} has no effect without a handler: give its program after `--`"));
        }
        problems
    }

    /// The sockets of this server, each with the setting that names its address.
    fn sockets(&self) -> Vec<(String, SocketAddr)> {
        let balancers = self.config.endpoint.iter().filter_map(|endpoint| {
            let bind = endpoint.load_balancer.as_ref()?.bind;
            Some((format!("`load_balancer.bind` of endpoint {:?}", endpoint.id), bind))
        });
        std::iter::once(("--bind".to_owned(), self.listen.bind)).chain(balancers).collect()
    }

    fn addresses(&self) -> Vec<String> {
        collisions(&self.sockets()).collect()
    }

    /// The ports of the local workers: in the range of ports, and none is one of the server's own. If they were not chosen, others are
    /// taken.
    fn ports(&self) -> Vec<String> {
        let first = u32::from(self.workers.worker_http_port);
        if first == 0 || !self.starts_workers() {
            return Vec::new();
        }
        let bounds = self.workers.bounds();
        let own = if self.handler.is_empty() { 0 } else { u32::from(bounds.1) };
        let configured = self.config.endpoint.iter().filter(|endpoint| !endpoint.handler.is_empty());
        let configured: u32 = configured.map(|endpoint| u32::from(endpoint.worker_bounds(bounds).1)).sum();
        let last = first + (own + configured).saturating_sub(1);
        if last > u32::from(u16::MAX) {
            return vec![format!(
                "--worker-http-port {first} leaves no ports for {} workers: choose a lower one, or 0",
                own + configured
            )];
        }
        let (Ok(first), Ok(last)) = (u16::try_from(first), u16::try_from(last)) else { return Vec::new() };
        if self.effective.is_default("worker-http-port") {
            return Vec::new();
        }
        let sockets = self.sockets();
        let needed = needed_of(first..=last, &sockets);
        let problem = needed.map(|(port, name)| {
            format!(
                "the workers' ports {first} to {last} include the server's own port {port} ({name}): choose another --worker-http-port, or 0"
            )
        });
        problem.into_iter().collect()
    }

    /// A list of GPUs must fill sets of equal size. What `auto` finds is checked when the workers are planned.
    fn gpus(&self) -> Vec<String> {
        let wanted = usize::from(self.workers.gpus_per_worker);
        let GpuChoice::These(ids) = &self.workers.gpus else { return Vec::new() };
        let different: HashSet<_> = ids.iter().collect();
        if different.len() < ids.len() {
            return vec!["--gpus names a GPU twice: two workers would share it".to_owned()];
        }
        if ids.len().is_multiple_of(wanted) {
            return Vec::new();
        }
        vec![format!(
            "--gpus names {} GPUs, which cannot be shared out in sets of --gpus-per-worker {wanted}: some worker would get fewer",
            ids.len()
        )]
    }
}

#[cfg(test)]
mod tests;
