//! Decides which request is hit by which fault.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::alarms::Alarms;
use super::script::{Fault, FaultKind, FaultRoute, Script, ScriptError};

/// Jobs with faults of their own; older ones make room.
const MAX_JOBS: usize = 10_000;

/// Endpoints whose last job is remembered for duplicates.
const MAX_ENDPOINTS: usize = 1000;

/// A signal to a worker process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProcessSignal {
    Terminate,
    Kill,
}

/// The properties of a request by which faults are chosen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) route: FaultRoute,
    pub(crate) endpoint: &'a str,
    pub(crate) worker: &'a str,
}

/// The faults of a server, and how often each has struck.
#[derive(Debug)]
pub struct Faults {
    start: Instant,
    accept_header: bool,
    server: Mutex<Counters>,
    jobs: Mutex<JobFaults>,
    last_jobs: Mutex<HashMap<String, Bytes>>,
    pub(crate) stops: Alarms<Arc<str>>,
    pub(crate) signals: Alarms<ProcessSignal>,
}

#[derive(Debug, Default)]
struct JobFaults {
    by_job: HashMap<Arc<str>, Counters>,
    order: VecDeque<Arc<str>>,
}

#[derive(Debug, Default)]
struct Counters {
    seed: u64,
    faults: Vec<Counted>,
}

/// A fault, and how often it was met.
#[derive(Debug)]
struct Counted {
    fault: Arc<Fault>,
    /// Requests that it applies to.
    seen: u64,
    /// Those of them that it has struck.
    struck: u64,
}

impl Faults {
    /// The faults of `script`; with `accept_header` each submission may bring its own.
    #[must_use]
    pub fn new(script: Script, accept_header: bool) -> Self {
        Self {
            start: Instant::now(),
            accept_header,
            server: Mutex::new(Counters::new(script)),
            jobs: Mutex::default(),
            last_jobs: Mutex::default(),
            stops: Alarms::default(),
            signals: Alarms::default(),
        }
    }

    /// Gives one job faults of its own. Without permission to do so the header is ignored, as on the platform.
    pub(crate) fn attach(&self, job: &Arc<str>, header: &str) -> Result<(), ScriptError> {
        if !self.accept_header {
            return Ok(());
        }
        let script = Script::parse_header(header)?;
        let mut jobs = self.jobs.lock();
        if jobs.order.len() >= MAX_JOBS
            && let Some(oldest) = jobs.order.pop_front()
        {
            jobs.by_job.remove(&oldest);
        }
        jobs.order.push_back(Arc::clone(job));
        jobs.by_job.insert(Arc::clone(job), Counters::new(script));
        Ok(())
    }

    /// The fault that strikes this request, if one does. `jobs` are the jobs that the request names.
    pub(crate) fn strike(&self, target: Target<'_>, jobs: &[&str]) -> Option<Arc<Fault>> {
        self.strike_jobs(target, jobs).or_else(|| {
            let now = self.start.elapsed();
            self.server.lock().strike(target, now, |kind| kind != FaultKind::Stop)
        })
    }

    /// As [`strike`](Self::strike), from the jobs' own faults only.
    pub(crate) fn strike_jobs(&self, target: Target<'_>, jobs: &[&str]) -> Option<Arc<Fault>> {
        let now = self.start.elapsed();
        let mut attached = self.jobs.lock();
        jobs.iter().find_map(|job| {
            let counters = attached.by_job.get_mut(*job)?;
            counters.strike(target, now, |kind| kind != FaultKind::Stop)
        })
    }

    /// A worker has taken jobs: sets the alarms of the faults that are to strike it.
    pub(crate) fn taken(&self, target: Target<'_>, jobs: &[Arc<str>], json: &Bytes) {
        let mut last = self.last_jobs.lock();
        if last.len() < MAX_ENDPOINTS || last.contains_key(target.endpoint) {
            last.insert(target.endpoint.to_owned(), json.clone());
        }
        drop(last);
        let now = self.start.elapsed();
        for job in jobs {
            let stop = Target { route: FaultRoute::JobStop, ..target };
            let process = Target { route: FaultRoute::Worker, ..target };
            let strike = |target: Target<'_>, fits: fn(FaultKind) -> bool| {
                let own = self.jobs.lock().by_job.get_mut(job).and_then(|own| own.strike(target, now, fits));
                own.or_else(|| self.server.lock().strike(target, now, fits))
            };
            if let Some(fault) = strike(stop, |kind| kind == FaultKind::Stop) {
                self.stops.set(target.worker, fault.after.unwrap_or_default(), Arc::clone(job));
            }
            if let Some(fault) = strike(process, |kind| kind != FaultKind::Stop) {
                let signal = match fault.kind {
                    FaultKind::Kill => ProcessSignal::Kill,
                    _ => ProcessSignal::Terminate,
                };
                self.signals.set(target.worker, fault.after.unwrap_or_default(), signal);
            }
        }
    }

    /// The reply that handed out a job last.
    pub(crate) fn last_job(&self, endpoint: &str) -> Option<Bytes> {
        self.last_jobs.lock().get(endpoint).cloned()
    }
}

impl Counters {
    fn new(script: Script) -> Self {
        let count = |fault| Counted { fault: Arc::new(fault), seen: 0, struck: 0 };
        let faults = script.fault.into_iter().map(count).collect();
        Self { seed: script.seed, faults }
    }

    fn strike(&mut self, target: Target<'_>, now: Duration, fits: impl Fn(FaultKind) -> bool) -> Option<Arc<Fault>> {
        let seed = self.seed;
        self.faults.iter_mut().enumerate().find_map(|(index, Counted { fault, seen, struck })| {
            let applies = fault.on == target.route
                && fits(fault.kind)
                && fault.worker.as_deref().is_none_or(|worker| worker == target.worker)
                && fault.endpoint.as_deref().is_none_or(|endpoint| endpoint == target.endpoint)
                && fault.from.is_none_or(|from| now >= from)
                && fault.until.is_none_or(|until| now < until);
            if !applies {
                return None;
            }
            *seen += 1;
            let due = *seen > fault.skip && fault.times.is_none_or(|times| *struck < times);
            if !due || fault.chance.is_some_and(|chance| draw(seed, index, *seen) >= chance) {
                return None;
            }
            *struck += 1;
            Some(Arc::clone(fault))
        })
    }
}

/// A number from 0 to 1 that depends on its arguments alone: SplitMix64.
fn draw(seed: u64, fault: usize, request: u64) -> f64 {
    let mut state = seed ^ (fault as u64).rotate_left(32) ^ request.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    state = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    state ^= state >> 31;
    // The upper 32 bits fit a double exactly.
    f64::from((state >> 32) as u32) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAKE: Target<'_> = Target { route: FaultRoute::JobTake, endpoint: "ep", worker: "w1" };

    fn faults(script: &str) -> Faults {
        Faults::new(Script::parse(script).unwrap(), true)
    }

    fn pattern(faults: &Faults, requests: usize) -> Vec<bool> {
        (0..requests).map(|_| faults.strike(TAKE, &[]).is_some()).collect()
    }

    #[tokio::test]
    async fn skip_and_times_count_requests() {
        let faults = faults("[[fault]]\non = \"job-take\"\nkind = \"reset\"\nskip = 1\ntimes = 2");
        assert_eq!(pattern(&faults, 5), [false, true, true, false, false]);
    }

    #[tokio::test]
    async fn the_seed_decides_every_chance() {
        let script = |seed| format!("seed = {seed}\n[[fault]]\non = \"job-take\"\nkind = \"reset\"\nchance = 0.3");
        let first = pattern(&faults(&script(1)), 1000);
        assert_eq!(first, pattern(&faults(&script(1)), 1000));
        assert_ne!(first, pattern(&faults(&script(2)), 1000));
        let struck = first.iter().filter(|struck| **struck).count();
        assert!((200..400).contains(&struck), "{struck}");
    }

    #[tokio::test]
    async fn a_fault_strikes_what_it_names_only() {
        let faults = faults("[[fault]]\non = \"job-take\"\nkind = \"reset\"\nworker = \"w2\"\nendpoint = \"ep\"");
        assert!(faults.strike(TAKE, &[]).is_none());
        assert!(faults.strike(Target { worker: "w2", endpoint: "other", ..TAKE }, &[]).is_none());
        assert!(faults.strike(Target { worker: "w2", route: FaultRoute::Ping, ..TAKE }, &[]).is_none());
        assert!(faults.strike(Target { worker: "w2", ..TAKE }, &[]).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_fault_has_its_time() {
        let faults = faults("[[fault]]\non = \"job-take\"\nkind = \"reset\"\nfrom = \"10s\"\nuntil = \"20s\"");
        let mut struck = Vec::new();
        for _ in 0..3 {
            struck.push(faults.strike(TAKE, &[]).is_some());
            tokio::time::advance(Duration::from_secs(10)).await;
        }
        assert_eq!(struck, [false, true, false]);
    }

    #[tokio::test]
    async fn a_jobs_own_fault_strikes_this_job_only() {
        let faults = faults("");
        let job = Arc::from("job");
        faults.attach(&job, r#"[{on = "job-done", kind = "status", status = 500}]"#).unwrap();
        let done = Target { route: FaultRoute::JobDone, ..TAKE };
        assert!(faults.strike(done, &["other"]).is_none());
        assert!(faults.strike(done, &["job"]).is_some());
    }
}
