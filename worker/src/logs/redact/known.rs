//! The secret values that are known, and the search for them in a text.
//!
//! A text is searched with one automaton for all values (Aho-Corasick), so that the cost of a line does not grow with their
//! number. An automaton for thousands of values takes milliseconds to build, too long for each job that brings a new one. New
//! values therefore wait in a second, small automaton until there are enough of them to build the large one again.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};

/// Bounds of what is remembered of the values that came with jobs.
#[derive(Clone, Copy, Debug)]
pub(super) struct KnownLimits {
    /// Values, each spelling counted.
    pub(super) values: usize,
    /// Bytes of all values together, because an automaton takes memory for each byte.
    pub(super) bytes: usize,
    /// Values that wait in the small automaton before the large one is built again.
    pub(super) recent: usize,
}

/// Fewer bytes of the beginning of a secret give nothing away.
const SHORTEST_BEGINNING: usize = 4;

/// All known values, with what is needed to forget the oldest.
#[derive(Default)]
pub(super) struct KnownSecrets {
    /// Each value with the time when a job last brought it; `None` for one that is never forgotten.
    values: HashMap<String, Option<u64>>,
    /// Values that are not in the large automaton yet.
    recent: Vec<String>,
    clock: u64,
    index: Index,
}

impl KnownSecrets {
    /// Adds values and returns the new index, or `None` when all of them were known.
    pub(super) fn add(&mut self, values: Vec<String>, lasting: bool, limits: KnownLimits) -> Option<Index> {
        self.clock += 1;
        let seen = (!lasting).then_some(self.clock);
        let before = self.recent.len();
        for value in values {
            if let Some(known) = self.values.get_mut(&value) {
                *known = known.and(seen);
            } else {
                self.recent.push(value.clone());
                self.values.insert(value, seen);
            }
        }
        if self.recent.len() == before {
            return None;
        }
        if self.recent.len() > limits.recent {
            self.forget_oldest(limits);
            self.recent.clear();
            self.index.settled = Arc::new(Search::new(self.values.keys().cloned().collect()));
        }
        self.index.recent = Arc::new(Search::new(self.recent.clone()));
        Some(self.index.clone())
    }

    /// Forgets the values that no job has brought for longest, until the rest is within the limits.
    fn forget_oldest(&mut self, limits: KnownLimits) {
        let mut of_jobs: Vec<(u64, usize)> =
            self.values.iter().filter_map(|(value, seen)| Some(((*seen)?, value.len()))).collect();
        of_jobs.sort_unstable();
        let (mut count, mut bytes) = (of_jobs.len(), of_jobs.iter().map(|(_, len)| len).sum::<usize>());
        let mut forgotten = 0;
        for (seen, len) in of_jobs {
            if count <= limits.values && bytes <= limits.bytes {
                break;
            }
            (count, bytes, forgotten) = (count - 1, bytes - len, seen);
        }
        // The values of the newest call stay, whatever their size.
        self.values.retain(|_, seen| seen.is_none_or(|seen| seen > forgotten || seen == self.clock));
    }
}

/// What a text is searched with. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Index {
    settled: Arc<Search>,
    recent: Arc<Search>,
}

impl Index {
    /// Where there are secrets, from left to right. Secrets that overlap make one range.
    pub(super) fn find(&self, text: &str) -> Vec<Range<usize>> {
        let mut found = Vec::new();
        self.settled.find(text, &mut found);
        self.recent.find(text, &mut found);
        found.sort_unstable_by_key(|range| (range.start, range.end));
        found.dedup_by(|next, last| {
            let overlaps = next.start < last.end;
            if overlaps {
                last.end = last.end.max(next.end);
            }
            overlaps
        });
        found
    }

    /// How many bytes at the end of a text are the beginning of a secret.
    pub(super) fn beginning_at_end(&self, text: &str) -> Option<usize> {
        self.settled.beginning_at_end(text).max(self.recent.beginning_at_end(text))
    }
}

/// The search for a fixed set of values.
#[derive(Default)]
struct Search {
    /// `None` when there are no values, or too many for an automaton: each is then searched for by itself.
    automaton: Option<AhoCorasick>,
    /// All values in their order.
    values: Vec<String>,
    longest: usize,
}

impl Search {
    fn new(mut values: Vec<String>) -> Self {
        values.sort_unstable();
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::Standard)
            .kind(Some(AhoCorasickKind::NoncontiguousNFA))
            .build(&values);
        let longest = values.iter().map(String::len).max().unwrap_or(0);
        Self { automaton: automaton.ok().filter(|_| !values.is_empty()), values, longest }
    }

    fn find(&self, text: &str, found: &mut Vec<Range<usize>>) {
        if let Some(automaton) = &self.automaton {
            found.extend(automaton.find_overlapping_iter(text).map(|found| found.range()));
        } else {
            for value in &self.values {
                found.extend(text.match_indices(value.as_str()).map(|(start, found)| start..start + found.len()));
            }
        }
    }

    fn beginning_at_end(&self, text: &str) -> Option<usize> {
        let most = text.len().min(self.longest.saturating_sub(1));
        (SHORTEST_BEGINNING..=most).rev().find(|len| {
            let Some(end) = text.get(text.len() - len..) else { return false };
            let at = self.values.partition_point(|value| value.as_str() < end);
            self.values.get(at).is_some_and(|value| value.len() > *len && value.starts_with(end))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: KnownLimits = KnownLimits { values: 100, bytes: 10_000, recent: 8 };

    fn has(known: &KnownSecrets, text: &str) -> bool {
        known.index.find(text).first() == Some(&(0..text.len()))
    }

    #[test]
    fn secrets_of_jobs_are_bounded_and_lasting_ones_stay() {
        let mut known = KnownSecrets::default();
        known.add(vec!["lasting-secret".to_owned()], true, SMALL);
        for number in 0..500 {
            known.add(vec![format!("secret-of-job-{number}")], false, SMALL);
            known.add(vec!["in-every-job".to_owned()], false, SMALL);
            assert!(has(&known, &format!("secret-of-job-{number}")), "a new one is found at once");
        }
        assert!(known.values.len() <= SMALL.values + SMALL.recent + 1, "{}", known.values.len());
        assert!(has(&known, "lasting-secret") && has(&known, "in-every-job"));
        assert!(has(&known, "secret-of-job-450") && !has(&known, "secret-of-job-5"));
    }

    #[test]
    fn long_secrets_are_bounded_by_their_bytes_and_the_newest_stays() {
        let mut known = KnownSecrets::default();
        for number in 0..50 {
            known.add(vec![format!("{number:0>4000}")], false, SMALL);
        }
        let bytes: usize = known.values.keys().map(String::len).sum();
        assert!(bytes <= SMALL.bytes + (SMALL.recent + 1) * 4000, "{bytes}");
        assert!(has(&known, &format!("{:0>4000}", 49)));
    }

    #[test]
    fn what_is_known_already_builds_nothing() {
        let mut known = KnownSecrets::default();
        assert!(known.add(vec!["known-secret".to_owned()], false, SMALL).is_some());
        assert!(known.add(vec!["known-secret".to_owned()], true, SMALL).is_none());
        assert_eq!(known.values["known-secret"], None, "from now on it lasts");
    }

    #[test]
    fn overlapping_secrets_of_both_automata_are_found_as_one() {
        let mut known = KnownSecrets::default();
        let many = (0..20).map(|number| format!("filler-secret-{number}"));
        known.add(many.chain(["left-and-middle".to_owned()]).collect(), true, SMALL);
        known.add(vec!["middle-and-right".to_owned()], true, SMALL);
        let text = "x left-and-middle-and-right, left-and-middle";
        assert_eq!(known.index.find(text), [2..27, 29..44]);
        assert_eq!(known.index.beginning_at_end("it is left-and-mid"), Some(12));
        assert_eq!(known.index.beginning_at_end("it is middle-and"), Some(10));
        assert_eq!(known.index.beginning_at_end("it is mid"), None);
    }
}
