//! Which worker gets a request: the decision alone, without clock and network.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

/// What a worker's probe said last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Readiness {
    /// It does not listen yet, or answers that it starts.
    Starting,
    /// It takes requests.
    Ready,
    /// It has requests and does not answer probes meanwhile.
    Busy,
    /// It finishes its requests and takes no more, because somebody has told it to stop.
    Draining,
    /// It answers that it cannot work.
    Unhealthy,
}

/// One worker.
#[derive(Debug)]
pub(super) struct Backend {
    pub(super) address: SocketAddr,
    pub(super) readiness: Readiness,
    /// Requests that it answers now.
    pub(super) busy: usize,
    /// Requests so far.
    pub(super) served: u64,
    /// It finishes its requests and gets no more.
    pub(super) leaving: bool,
}

/// Which worker a request asks for (`X-Runpod-Worker-Id`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Pin {
    /// Any.
    Free,
    /// This one if it can, else any.
    Preferred(String),
    /// This one and no other.
    Strict(String),
    /// This one and no other; it is started again if it does not run.
    Resume(String),
}

impl Pin {
    /// Reads the header.
    pub(super) fn parse(header: &str) -> Self {
        let header = header.trim();
        match header.split_once(' ') {
            Some(("strict", id)) => Self::Strict(id.trim().to_owned()),
            Some(("strict-resume", id)) => Self::Resume(id.trim().to_owned()),
            _ if header.is_empty() => Self::Free,
            _ => Self::Preferred(header.to_owned()),
        }
    }
}

/// What becomes of a request now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Choice {
    Worker(Arc<str>, SocketAddr),
    /// No worker has room for it at the moment.
    Wait,
    /// The only worker that it may go to does not exist.
    Gone,
}

/// The workers of one endpoint.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) workers: BTreeMap<Arc<str>, Backend>,
    /// The ids of all workers that can be started.
    pub(super) ids: BTreeSet<Arc<str>>,
    /// Requests that one worker answers at the same time.
    concurrency: usize,
}

impl Table {
    pub(super) fn new(concurrency: usize) -> Self {
        Self { workers: BTreeMap::new(), ids: BTreeSet::new(), concurrency }
    }

    pub(super) fn add(&mut self, id: Arc<str>, address: SocketAddr) {
        let backend = Backend { address, readiness: Readiness::Starting, busy: 0, served: 0, leaving: false };
        self.workers.insert(id, backend);
    }

    /// Chooses a worker and counts the request for it.
    pub(super) fn choose(&mut self, pin: &Pin) -> Choice {
        let concurrency = self.concurrency;
        let has_room =
            |backend: &Backend| backend.readiness == Readiness::Ready && !backend.leaving && backend.busy < concurrency;
        let named = match pin {
            Pin::Free => None,
            Pin::Preferred(id) | Pin::Strict(id) | Pin::Resume(id) => self.workers.get_key_value(&**id),
        };
        let chosen = match (named, pin) {
            (Some((id, backend)), _) if has_room(backend) => Some(Arc::clone(id)),
            (None, Pin::Strict(_)) => return Choice::Gone,
            (Some((_, backend)), Pin::Strict(_)) if backend.leaving => return Choice::Gone,
            (None, Pin::Resume(id)) if !self.ids.contains(&**id) => return Choice::Gone,
            (Some(_), Pin::Strict(_)) | (_, Pin::Resume(_)) => None,
            _ => {
                let free = self.workers.iter().filter(|(_, backend)| has_room(backend));
                free.min_by_key(|(_, backend)| (backend.busy, backend.served)).map(|(id, _)| Arc::clone(id))
            }
        };
        let Some(id) = chosen else { return Choice::Wait };
        let Some(backend) = self.workers.get_mut(&id) else { return Choice::Wait };
        backend.busy += 1;
        backend.served += 1;
        Choice::Worker(id, backend.address)
    }

    /// Of these workers, those that can be started and do not run.
    pub(super) fn absent(&self, wanted: impl Iterator<Item = String>) -> BTreeSet<Arc<str>> {
        let absent = |id: String| {
            let known = self.ids.get(&*id)?;
            (!self.workers.contains_key(known)).then(|| Arc::clone(known))
        };
        wanted.filter_map(absent).collect()
    }

    /// A request at this worker has ended. The worker may have been replaced by another process meanwhile.
    pub(super) fn release(&mut self, id: &str, address: SocketAddr) {
        if let Some(backend) = self.workers.get_mut(id).filter(|backend| backend.address == address) {
            backend.busy = backend.busy.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(workers: &[(&str, Readiness)]) -> Table {
        let mut table = Table::new(2);
        for (number, (id, readiness)) in workers.iter().enumerate() {
            table.add(Arc::from(*id), SocketAddr::from(([127, 0, 0, 1], u16::try_from(number).unwrap() + 1)));
            table.workers.get_mut(*id).unwrap().readiness = *readiness;
        }
        table
    }

    fn chosen(table: &mut Table, pin: &str) -> String {
        match table.choose(&Pin::parse(pin)) {
            Choice::Worker(id, _) => id.to_string(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn the_least_busy_ready_worker_gets_the_request_until_all_are_full() {
        use Readiness::{Ready, Starting, Unhealthy};
        let mut table = table(&[("a", Ready), ("b", Ready), ("c", Starting), ("d", Unhealthy)]);
        let order: Vec<_> = (0..5).map(|_| chosen(&mut table, "")).collect();
        assert_eq!(order, ["a", "b", "a", "b", "Wait"]);
        let address = table.workers["b"].address;
        table.release("b", address);
        table.release("b", SocketAddr::from(([127, 0, 0, 1], 99)));
        assert_eq!((chosen(&mut table, ""), chosen(&mut table, "")), ("b".to_owned(), "Wait".to_owned()));
    }

    #[test]
    fn a_pin_is_kept_where_it_can_be_and_a_strict_one_always() {
        use Readiness::{Ready, Starting};
        let mut table = table(&[("a", Ready), ("b", Ready), ("c", Starting)]);
        assert_eq!(chosen(&mut table, "b"), "b");
        assert_eq!(chosen(&mut table, "strict b"), "b");
        // Full: the preferred one falls back, the strict one waits.
        assert_eq!((chosen(&mut table, "b"), chosen(&mut table, "strict b")), ("a".to_owned(), "Wait".to_owned()));
        assert_eq!((chosen(&mut table, "c"), chosen(&mut table, "strict c")), ("a".to_owned(), "Wait".to_owned()));
        assert_eq!((chosen(&mut table, "x"), chosen(&mut table, "strict x")), ("Wait".to_owned(), "Gone".to_owned()));
        table.workers.get_mut("b").unwrap().leaving = true;
        assert_eq!(chosen(&mut table, "strict b"), "Gone");
    }

    #[test]
    fn a_worker_that_does_not_run_is_waited_for_by_those_that_start_it_again() {
        let mut table = table(&[("a", Readiness::Ready)]);
        table.ids = ["a", "b"].map(Arc::from).into();
        assert_eq!(
            (chosen(&mut table, "strict b"), chosen(&mut table, "strict-resume b")),
            ("Gone".to_owned(), "Wait".to_owned())
        );
        assert_eq!(
            (chosen(&mut table, "strict-resume a"), chosen(&mut table, "strict-resume x")),
            ("a".to_owned(), "Gone".to_owned())
        );
        table.workers.get_mut("a").unwrap().leaving = true;
        assert_eq!(chosen(&mut table, "strict-resume a"), "Wait", "until it has left and comes back");
        let wanted = ["a", "b", "x"].map(str::to_owned).into_iter();
        assert_eq!(table.absent(wanted), [Arc::from("b")].into());
    }
}
