//! Which process serves under a worker id, and whether a second one tries to.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::clock::Timestamp;

/// A process without an open poll still counts as present for this long after its last request was answered.
const PRESENT_FOR: Duration = Duration::from_secs(3);

/// Polls that name no process and are open beside each other for this long come from two processes. A client that hung up
/// and polls again overlaps for a moment only.
const OVERLAP: Duration = Duration::from_secs(5);

/// How long a duplicate is shown, and before it is reported again.
const SHOWN_FOR: Duration = Duration::from_secs(300);

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It comes from the process that serves under this id.
    Admitted {
        /// Another process has tried to use this id meanwhile, and this was not reported yet.
        is_news: bool,
    },
    /// Another process serves under this id.
    Refused {
        /// This was not reported yet.
        is_news: bool,
    },
}

/// The process behind one worker id.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Presence {
    /// The id that the process gave itself; official workers give none.
    instance: Option<Arc<str>>,
    /// When it was last seen, apart from the polls that it holds open.
    last_seen: Timestamp,
    /// Polls of every kind.
    #[serde(skip)]
    polls_open: usize,
    /// Since when more than one poll for jobs is open.
    overlap_since: Option<Timestamp>,
    /// A process that was refused while this one had no poll open: a second one if this one is seen again, else its successor.
    contender: Option<Contender>,
    duplicate: Option<Duplicate>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Contender {
    instance: Option<Arc<str>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Duplicate {
    instance: Option<Arc<str>>,
    at: Timestamp,
}

impl Presence {
    /// Admits a request of process `instance`, or refuses it while another process is present.
    pub(crate) fn admit(&mut self, now: Timestamp, instance: Option<&str>) -> Admission {
        let is_other = self.instance.is_some() && self.instance.as_deref() != instance;
        if is_other && self.polls_open > 0 {
            return Admission::Refused { is_news: self.note_duplicate(now, instance) };
        }
        if is_other && now < self.last_seen + PRESENT_FOR {
            // A process that was killed and started again looks like this too.
            self.contender = Some(Contender { instance: instance.map(Arc::from) });
            return Admission::Refused { is_news: false };
        }
        let contender = self.contender.take().filter(|_| !is_other);
        if self.instance.as_deref() != instance {
            self.instance = instance.map(Arc::from);
        }
        self.last_seen = now;
        Admission::Admitted {
            is_news: contender.is_some_and(|other| self.note_duplicate(now, other.instance.as_deref())),
        }
    }

    /// Whether a request of this process would be admitted and change nothing that matters: it is the known one, and was seen lately.
    pub(crate) fn admits_quietly(&self, now: Timestamp, instance: Option<&str>) -> bool {
        let is_fresh = instance.is_none() || self.polls_open > 0 || now < self.last_seen + PRESENT_FOR / 3;
        self.instance.as_deref() == instance && self.contender.is_none() && is_fresh
    }

    /// Polls of every kind that are open.
    pub(crate) fn polls_open(&self) -> usize {
        self.polls_open
    }

    /// Sets them, for a record that was read without.
    pub(crate) fn set_polls_open(&mut self, polls_open: usize) {
        self.polls_open = polls_open;
    }

    /// Notes an open poll. `for_jobs` is how many polls for jobs are open with it, if it is one.
    pub(crate) fn poll_started(&mut self, now: Timestamp, for_jobs: Option<usize>) {
        self.polls_open += 1;
        if self.instance.is_none() && for_jobs.is_some_and(|open| open > 1) {
            self.overlap_since.get_or_insert(now);
        }
    }

    /// Notes the end of a poll; `answered` unless the process hung up. Returns whether a duplicate is to be reported.
    pub(crate) fn poll_ended(&mut self, now: Timestamp, answered: bool, for_jobs_left: usize) -> bool {
        self.polls_open = self.polls_open.saturating_sub(1);
        if answered {
            self.last_seen = now;
        }
        let overlapped = self.overlap_since.is_some_and(|since| now >= since + OVERLAP);
        if for_jobs_left <= 1 {
            self.overlap_since = None;
        }
        overlapped && self.note_duplicate(now, None)
    }

    /// The process has left: the next one may use the id at once.
    pub(crate) fn leave(&mut self) {
        *self = Self { polls_open: self.polls_open, ..Self::default() };
    }

    /// Whether a second process has used this id lately.
    pub(crate) fn has_duplicate(&self, now: Timestamp) -> bool {
        self.duplicate.as_ref().is_some_and(|duplicate| now < duplicate.at + SHOWN_FOR)
    }

    /// Returns whether it is to be reported. A process names itself only from its second request on.
    fn note_duplicate(&mut self, now: Timestamp, instance: Option<&str>) -> bool {
        let is_shown = self.has_duplicate(now);
        match &mut self.duplicate {
            Some(known) if is_shown && (instance.is_none() || known.instance.as_deref() == instance) => false,
            Some(known @ Duplicate { instance: None, .. }) if is_shown => {
                known.instance = instance.map(Arc::from);
                false
            }
            known => {
                *known = Some(Duplicate { instance: instance.map(Arc::from), at: now });
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEWS: Admission = Admission::Refused { is_news: true };
    const OLD_NEWS: Admission = Admission::Refused { is_news: false };
    const ADMITTED: Admission = Admission::Admitted { is_news: false };

    fn at(seconds: u64) -> Timestamp {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_second_process_is_refused_while_the_first_has_a_poll_open_and_reported_once() {
        let mut presence = Presence::default();
        assert_eq!(presence.admit(at(1), Some("a")), ADMITTED);
        presence.poll_started(at(1), Some(1));
        for (second, instance, expected) in [
            (20, None, NEWS),
            (21, Some("b"), OLD_NEWS),
            (22, Some("b"), OLD_NEWS),
            (23, None, OLD_NEWS),
            (24, Some("c"), NEWS),
        ] {
            assert_eq!(presence.admit(at(second), instance), expected, "{instance:?} at {second} s");
        }
        assert_eq!(presence.admit(at(24), Some("a")), ADMITTED);
        assert!(presence.has_duplicate(at(24)) && !presence.has_duplicate(at(24) + SHOWN_FOR));
    }

    #[test]
    fn a_process_that_hung_up_makes_room_at_once_and_one_between_two_polls_does_not() {
        for (answered, expected) in [(false, ADMITTED), (true, OLD_NEWS)] {
            let mut presence = Presence::default();
            presence.admit(at(1), Some("a"));
            presence.poll_started(at(1), Some(1));
            presence.poll_ended(at(20), answered, 0);
            assert_eq!(presence.admit(at(20), Some("b")), expected, "answered: {answered}");
            assert_eq!(presence.admit(at(23), Some("b")), ADMITTED);
        }
    }

    #[test]
    fn a_process_between_two_polls_must_be_seen_again_before_another_one_is_reported() {
        for returns in [false, true] {
            let mut presence = Presence::default();
            presence.admit(at(1), Some("a"));
            assert_eq!(presence.admit(at(2), None), OLD_NEWS, "its successor, or a second one");
            assert_eq!(presence.admit(at(3), Some("b")), OLD_NEWS);
            if returns {
                assert_eq!(presence.admit(at(3), Some("a")), Admission::Admitted { is_news: true });
                assert_eq!(presence.admit(at(3), Some("a")), ADMITTED, "reported once");
                assert!(presence.has_duplicate(at(3)));
            } else {
                assert_eq!(presence.admit(at(4), Some("b")), ADMITTED);
                assert_eq!(presence.admit(at(5), Some("b")), ADMITTED);
                assert!(!presence.has_duplicate(at(5)), "the same worker, started again");
            }
        }
    }

    #[test]
    fn a_process_that_left_makes_room_at_once() {
        let mut presence = Presence::default();
        presence.admit(at(1), Some("a"));
        presence.leave();
        assert_eq!(presence.admit(at(1), Some("b")), ADMITTED);
    }

    #[test]
    fn polls_without_an_instance_are_a_duplicate_only_when_they_stay_open_together() {
        let mut presence = Presence::default();
        presence.poll_started(at(1), Some(1));
        presence.poll_started(at(2), Some(2));
        assert!(!presence.poll_ended(at(2), false, 1), "a client that hung up and polled again");
        presence.poll_started(at(3), Some(2));
        assert!(presence.poll_ended(at(25), true, 1));
        presence.poll_started(at(26), Some(2));
        assert!(!presence.poll_ended(at(50), true, 1), "reported before");
        assert_eq!(presence.admit(at(50), None), ADMITTED, "official workers are never refused");
    }
}
