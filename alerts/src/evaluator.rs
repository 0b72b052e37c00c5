//! Evaluates rules: from readings and time to alerts that fire or resolve. No clock and no I/O.

use std::collections::VecDeque;
use std::time::Duration;

use crate::rule::Rule;
use crate::signal::{Counters, Readings};

/// Whether an alert fires or resolves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlertState {
    /// The condition has held for long enough.
    Firing,
    /// It no longer holds.
    Resolved,
}

/// A change of an alert that people should know.
#[derive(Clone, Debug, PartialEq)]
pub struct Alert {
    /// The rule.
    pub rule: Rule,
    /// Whether it fires or resolves.
    pub state: AlertState,
    /// The value of the rule's signal; `None` when an alert resolves because the signal has no value any more.
    pub value: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Quiet,
    /// The condition has held since this time; no message was sent.
    Pending(Duration),
    /// A message was sent.
    Firing,
}

#[derive(Clone, Debug)]
struct RuleState {
    rule: Rule,
    phase: Phase,
    /// When the last firing message was sent.
    fired_at: Option<Duration>,
}

/// The states of all rules over one source of readings.
#[derive(Clone, Debug)]
pub struct Evaluator {
    rules: Vec<RuleState>,
    /// Counters at earlier times, oldest first; as far back as the longest window needs.
    history: VecDeque<(Duration, Counters)>,
    longest_window: Duration,
}

impl Evaluator {
    /// All rules start without an alert.
    pub fn new(rules: Vec<Rule>) -> Self {
        let windows = rules.iter().filter(|rule| rule.signal.has_window()).map(|rule| rule.window);
        Self {
            longest_window: windows.max().unwrap_or_default(),
            history: VecDeque::new(),
            rules: rules.into_iter().map(|rule| RuleState { rule, phase: Phase::Quiet, fired_at: None }).collect(),
        }
    }

    /// Evaluates the readings of time `now`, which must not decrease, and returns the alerts that fire or resolve.
    ///
    /// If an alert resolves and its condition holds again within the cool-down, it fires when the cool-down is over, if the condition
    /// still holds then.
    pub fn observe(&mut self, now: Duration, readings: &Readings) -> Vec<Alert> {
        let mut alerts = Vec::new();
        for rule_state in &mut self.rules {
            let before = counters_at(&self.history, now.saturating_sub(rule_state.rule.window));
            let value =
                rule_state.rule.signal.value(readings, before.unwrap_or(readings.counters), rule_state.rule.min_jobs);
            if let Some(state) = rule_state.step(now, value) {
                alerts.push(Alert { rule: rule_state.rule.clone(), state, value });
            }
        }
        self.remember(now, readings.counters);
        alerts
    }

    fn remember(&mut self, now: Duration, counters: Counters) {
        let begin = now.saturating_sub(self.longest_window);
        // The last reading before the window is the value at its start.
        while self.history.get(1).is_some_and(|(at, _)| *at <= begin) {
            self.history.pop_front();
        }
        if !self.longest_window.is_zero() {
            self.history.push_back((now, counters));
        }
    }
}

/// The counters at `time`: the last reading until then, or else the first one.
fn counters_at(history: &VecDeque<(Duration, Counters)>, time: Duration) -> Option<Counters> {
    let later = history.partition_point(|(at, _)| *at <= time);
    history.get(later.saturating_sub(1)).map(|(_, counters)| *counters)
}

impl RuleState {
    fn step(&mut self, now: Duration, value: Option<f64>) -> Option<AlertState> {
        if !value.is_some_and(|value| self.rule.condition.holds(value)) {
            let was = std::mem::replace(&mut self.phase, Phase::Quiet);
            return (was == Phase::Firing).then_some(AlertState::Resolved);
        }
        let since = match self.phase {
            Phase::Quiet => now,
            Phase::Pending(since) => since,
            Phase::Firing => return None,
        };
        let has_held = now.saturating_sub(since) >= self.rule.hold;
        let cooled_down = self.fired_at.is_none_or(|fired_at| now.saturating_sub(fired_at) >= self.rule.cool_down);
        if has_held && cooled_down {
            self.phase = Phase::Firing;
            self.fired_at = Some(now);
            return Some(AlertState::Firing);
        }
        self.phase = Phase::Pending(since);
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rules_file::parse_rules;

    const DEPTH: &str = "signal = \"queue_depth\"\nabove = 10\nfor = \"10s\"\ncool_down = \"60s\"\nseverity = \"info\"";

    fn only(name: &str, text: &str) -> Evaluator {
        let rules = parse_rules(&format!("[{name}]\n{text}")).unwrap();
        Evaluator::new(rules.into_iter().filter(|rule| rule.name == name).collect())
    }

    fn waiting(waiting: u64) -> Readings {
        Readings { waiting, ..Readings::default() }
    }

    fn ended(completed: u64, failed: u64, timed_out: u64) -> Readings {
        Readings { counters: Counters { completed, failed, timed_out, ..Counters::default() }, ..Readings::default() }
    }

    /// The alerts at these seconds.
    fn alerts_of(
        evaluator: &mut Evaluator,
        steps: impl IntoIterator<Item = (u64, Readings)>,
    ) -> Vec<(u64, AlertState)> {
        let mut seen = Vec::new();
        for (second, readings) in steps {
            let alerts = evaluator.observe(Duration::from_secs(second), &readings);
            seen.extend(alerts.iter().map(|alert| (second, alert.state)));
        }
        seen
    }

    #[test]
    fn an_alert_is_pending_then_fires_then_resolves() {
        let mut evaluator = only("test", DEPTH);
        let steps = (0..40).map(|second| (second, waiting(if (5..30).contains(&second) { 11 } else { 10 })));
        assert_eq!(alerts_of(&mut evaluator, steps), [(15, AlertState::Firing), (30, AlertState::Resolved)]);
    }

    #[test]
    fn a_short_peak_does_not_fire() {
        let mut evaluator = only("test", DEPTH);
        let steps = (0..100).map(|second| (second, waiting(if second % 10 == 9 { 0 } else { 99 })));
        assert_eq!(alerts_of(&mut evaluator, steps), []);
    }

    #[test]
    fn within_the_cool_down_nothing_fires_again() {
        let mut evaluator = only("test", DEPTH);
        let steps = (0..100).map(|second| (second, waiting(if second == 20 { 0 } else { 99 })));
        let expected = [(10, AlertState::Firing), (20, AlertState::Resolved), (70, AlertState::Firing)];
        assert_eq!(alerts_of(&mut evaluator, steps), expected);
    }

    #[test]
    fn an_alert_that_starts_and_ends_within_the_cool_down_sends_nothing() {
        let mut evaluator = only("test", DEPTH);
        let bad = |second: u64| (0..20).contains(&second) || (30..45).contains(&second);
        let steps = (0..200).map(|second| (second, waiting(if bad(second) { 99 } else { 0 })));
        assert_eq!(alerts_of(&mut evaluator, steps), [(10, AlertState::Firing), (20, AlertState::Resolved)]);
    }

    #[test]
    fn rates_are_over_their_window() {
        let rule = "signal = \"failure_rate\"\nabove = 0.1\nwindow = \"60s\"\nmin_jobs = 10\nseverity = \"critical\"";
        let mut evaluator = only("test", rule);
        // A thousand good jobs long ago do not hide ten bad ones now.
        assert_eq!(
            alerts_of(&mut evaluator, [(0, ended(0, 0, 0)), (10, ended(1000, 0, 0)), (100, ended(1000, 9, 0))]),
            []
        );
        assert_eq!(alerts_of(&mut evaluator, [(101, ended(1000, 10, 0))]), [(101, AlertState::Firing)]);
        // Nothing ends any more: after the window there is nothing to say.
        assert_eq!(alerts_of(&mut evaluator, [(130, ended(1000, 10, 0))]), []);
        assert_eq!(alerts_of(&mut evaluator, [(162, ended(1000, 10, 0))]), [(162, AlertState::Resolved)]);
    }

    #[test]
    fn counters_from_before_the_first_reading_do_not_count() {
        let rule = "signal = \"timeouts\"\nabove = 5\nwindow = \"60s\"\nseverity = \"info\"";
        let mut evaluator = only("test", rule);
        assert_eq!(alerts_of(&mut evaluator, [(0, ended(0, 50, 50)), (1, ended(0, 55, 55))]), []);
        assert_eq!(alerts_of(&mut evaluator, [(2, ended(0, 56, 56))]), [(2, AlertState::Firing)]);
    }

    #[test]
    fn no_more_is_remembered_than_the_longest_window_needs() {
        let mut evaluator = only("test", "signal = \"timeouts\"\nabove = 5\nwindow = \"60s\"\nseverity = \"info\"");
        for second in 0..1000 {
            evaluator.observe(Duration::from_secs(second), &ended(second, 0, 0));
        }
        assert!(evaluator.history.len() <= 62, "{}", evaluator.history.len());
    }

    proptest! {
        #[test]
        fn messages_alternate_and_keep_their_distance(
            values in proptest::collection::vec((1u64..20, 0u64..20), 1..300),
            hold in 0u64..30,
            cool_down in 0u64..90,
        ) {
            let text = format!(
                "signal = \"queue_depth\"\nabove = 10\nfor = \"{hold}s\"\ncool_down = \"{cool_down}s\"\nseverity = \"info\""
            );
            let mut evaluator = only("test", &text);
            let (mut now, mut bad_since, mut last_fired) = (0, None, None);
            let mut firing = false;
            for (gap, value) in values {
                now += gap;
                let holds = value > 10;
                let since = if holds { Some(bad_since.unwrap_or(now)) } else { None };
                bad_since = since;
                let alerts = evaluator.observe(Duration::from_secs(now), &waiting(value));
                prop_assert!(alerts.len() <= 1);
                let long_enough = since.is_some_and(|since| now - since >= hold);
                let cool = last_fired.is_none_or(|fired| now - fired >= cool_down);
                let expected = match (firing, holds) {
                    (true, false) => Some(AlertState::Resolved),
                    (false, true) if long_enough && cool => Some(AlertState::Firing),
                    _ => None,
                };
                prop_assert_eq!(alerts.first().map(|alert| alert.state), expected);
                if let Some(state) = expected {
                    firing = state == AlertState::Firing;
                    last_fired = if firing { Some(now) } else { last_fired };
                }
            }
        }
    }
}
