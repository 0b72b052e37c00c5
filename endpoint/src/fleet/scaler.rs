//! How many workers there should be: the decision alone, without clock and processes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// One worker is added at a time, so that a worker that starts quickly can show that it is enough.
const STEP: Duration = Duration::from_secs(1);

/// No job waits for longer.
const LONGEST_DELAY: Duration = Duration::from_secs(7 * 24 * 3600);

/// When workers are added. RunPod's two scaling types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScalerRule {
    /// While the first job has waited for this long or longer.
    QueueDelay(Duration),
    /// One worker for this many jobs, waiting and running, and one for the work of low priority.
    RequestCount(u32),
}

impl Default for ScalerRule {
    fn default() -> Self {
        Self::QueueDelay(Duration::from_secs(4))
    }
}

impl fmt::Display for ScalerRule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::QueueDelay(delay) => write!(formatter, "queue-delay={}", humantime::format_duration(*delay)),
            Self::RequestCount(count) => write!(formatter, "request-count={count}"),
        }
    }
}

impl FromStr for ScalerRule {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FIX: &str = "give queue-delay, queue-delay=4s (at most 7d), request-count or request-count=4";
        let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
        match (name, value) {
            ("queue-delay", None) => Ok(Self::default()),
            ("queue-delay", Some(value)) => match humantime::parse_duration(value) {
                Ok(delay) if delay <= LONGEST_DELAY => Ok(Self::QueueDelay(delay)),
                _ => Err(FIX),
            },
            ("request-count", None) => Ok(Self::RequestCount(4)),
            ("request-count", Some(value)) => match value.parse() {
                Ok(count @ 1..) => Ok(Self::RequestCount(count)),
                _ => Err(FIX),
            },
            _ => Err(FIX),
        }
    }
}

/// The bounds and times of one pool of workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ScaleSettings {
    /// Always running.
    pub(crate) min: u16,
    /// Never exceeded.
    pub(crate) max: u16,
    /// When to add.
    pub(crate) rule: ScalerRule,
    /// A worker without jobs for this long leaves.
    pub(crate) idle_timeout: Duration,
}

/// What the worker in a place does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activity {
    /// Not ready for jobs yet, or waiting for its restart after a crash.
    Starting,
    /// It cannot take jobs, and it is not known whether it ever can again: unhealthy.
    Out,
    /// Without a job; `taken` so far.
    Idle {
        /// Jobs taken so far: a change means that it was busy between two readings.
        taken: u64,
    },
    /// Holding jobs.
    Busy,
    /// Stopping.
    Leaving,
}

/// Queue and workers at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reading {
    /// Jobs that wait, without those of low priority.
    pub(crate) waiting: usize,
    /// How long the first of them has waited.
    pub(crate) oldest: Option<Duration>,
    /// Jobs held by workers, without those of low priority.
    pub(crate) in_progress: usize,
    /// There is work for one worker beside these jobs.
    pub(crate) background: bool,
    /// Places in use.
    pub(crate) places: BTreeMap<u16, Activity>,
    /// Places whose workers are to be started because requests wait for them alone.
    pub(crate) resumed: BTreeSet<u16>,
    /// Workers at other hosts that take jobs from the same queue.
    pub(crate) other_hosts: OtherHosts,
}

/// Workers that somebody else starts and ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct OtherHosts {
    /// Those that have jobs or wait for some, and those that start.
    pub(crate) present: u16,
    /// Those that start.
    pub(crate) starting: u16,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Start(u16),
    Retire(u16),
}

/// Decides from one reading after the other.
#[derive(Debug)]
pub(crate) struct Scaler {
    settings: ScaleSettings,
    /// Since when the worker in a place is idle, and its job count then.
    idle: BTreeMap<u16, (Duration, u64)>,
    last_start: Option<Duration>,
}

impl Scaler {
    pub(crate) fn new(settings: ScaleSettings) -> Self {
        Self { settings, idle: BTreeMap::new(), last_start: None }
    }

    /// What to do at `now`, counted from any fixed origin.
    pub(crate) fn decide(&mut self, now: Duration, reading: &Reading) -> Vec<Action> {
        self.note_idle(now, reading);
        let ScaleSettings { min, max, .. } = self.settings;
        let count = |counts: fn(&Activity) -> bool| {
            u16::try_from(reading.places.values().filter(|activity| counts(activity)).count()).unwrap_or(u16::MAX)
        };
        let out = count(|activity| *activity == Activity::Out);
        let able = count(|activity| !matches!(activity, Activity::Out | Activity::Leaving));
        let wanted = self.wanted(now, reading, able).min(max);
        let is_free = |place: &u16| *place < max && !reading.places.contains_key(place);
        let resumed: BTreeSet<_> = reading.resumed.iter().copied().filter(is_free).collect();
        // Jobs wait for workers that can take them. Without jobs, one that is out is not replaced: the next one may fail in the same way.
        let needed = wanted.max(min.saturating_sub(out));
        let more = usize::from(needed.saturating_sub(able)).saturating_sub(resumed.len());
        if more > 0 || !resumed.is_empty() {
            let free = (0..max).filter(|place| is_free(place) && !resumed.contains(place));
            let starts: Vec<_> = resumed.iter().copied().chain(free.take(more)).map(Action::Start).collect();
            if !starts.is_empty() {
                self.last_start = Some(now);
            }
            return starts;
        }
        let surplus = able.saturating_sub(wanted.max(min));
        let idle_timeout = self.settings.idle_timeout;
        let expired = self.idle.iter().rev().filter(|(_, (since, _))| now.saturating_sub(*since) >= idle_timeout);
        expired.take(usize::from(surplus)).map(|(place, _)| Action::Retire(*place)).collect()
    }

    fn note_idle(&mut self, now: Duration, reading: &Reading) {
        self.idle.retain(|place, _| matches!(reading.places.get(place), Some(Activity::Idle { .. })));
        for (place, activity) in &reading.places {
            if let Activity::Idle { taken } = activity {
                let entry = self.idle.entry(*place).or_insert((now, *taken));
                if entry.1 != *taken {
                    *entry = (now, *taken);
                }
            }
        }
    }

    /// How many workers the rule asks for here. It asks for so many in all; those at other hosts are there already.
    fn wanted(&self, now: Duration, reading: &Reading, present: u16) -> u16 {
        let other_hosts = reading.other_hosts.present;
        self.wanted_in_all(now, reading, present.saturating_add(other_hosts)).saturating_sub(other_hosts)
    }

    fn wanted_in_all(&self, now: Duration, reading: &Reading, present: u16) -> u16 {
        match self.settings.rule {
            ScalerRule::RequestCount(per_worker) => {
                let jobs = reading.waiting + reading.in_progress;
                let workers = u16::try_from(jobs.div_ceil(per_worker as usize)).unwrap_or(u16::MAX);
                workers.saturating_add(u16::from(reading.background))
            }
            ScalerRule::QueueDelay(delay) => {
                let starting = reading.places.values().filter(|activity| **activity == Activity::Starting).count();
                let uncovered = reading.waiting > starting + usize::from(reading.other_hosts.starting);
                let late = reading.oldest.is_some_and(|waited| waited >= delay);
                let rested = self.last_start.is_none_or(|last| now.saturating_sub(last) >= STEP);
                match reading.waiting {
                    0 => u16::from(reading.background),
                    // Without a worker the job cannot be taken, however long it waits.
                    _ if present == 0 => 1,
                    _ if late && uncovered && rested => present.saturating_add(1),
                    _ => present,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
