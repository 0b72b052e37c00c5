//! What jobs at the far endpoint cost, and how much of that is allowed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use serde_json::value::to_raw_value;

use crate::store::Payload;

const HOUR: Duration = Duration::from_secs(3600);
/// Costs are added up by the minute.
const MINUTE: Duration = Duration::from_secs(60);

/// The price of a worker of the far endpoint, in dollars per hour.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Price(pub(super) f64);

impl Price {
    pub(super) fn of(self, time: Duration) -> f64 {
        self.0 * time.as_secs_f64() / HOUR.as_secs_f64()
    }

    /// For how long a worker can run for this money.
    pub(super) fn buys(self, dollars: f64) -> Duration {
        let seconds = dollars.max(0.0) / self.0 * HOUR.as_secs_f64();
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }

    /// The cost of a job, in the form in which workers report it.
    pub(super) fn cost(self, time: Duration) -> Option<Payload> {
        let cost = json!({ "gpuSeconds": time.as_secs_f64(), "dollars": self.of(time) });
        to_raw_value(&cost).ok().map(Arc::from)
    }
}

/// The dollars in a cost that a worker has reported; 0 when it names none.
pub(super) fn dollars(cost: &Payload) -> f64 {
    #[derive(Deserialize)]
    struct Cost {
        dollars: Option<f64>,
    }
    let cost: Option<Cost> = serde_json::from_str(cost.get()).ok();
    cost.and_then(|cost| cost.dollars).filter(|dollars| dollars.is_finite() && *dollars > 0.0).unwrap_or_default()
}

/// The dollars of the last hour.
#[derive(Debug, Default)]
pub(super) struct Spending {
    /// Each with the time at which its minute began, counted from any fixed origin.
    minutes: VecDeque<(Duration, f64)>,
}

impl Spending {
    pub(super) fn note(&mut self, now: Duration, dollars: f64) {
        match self.minutes.back_mut() {
            Some((since, sum)) if now < *since + MINUTE => *sum += dollars,
            _ => self.minutes.push_back((now, dollars)),
        }
    }

    pub(super) fn last_hour(&mut self, now: Duration) -> f64 {
        while self.minutes.front().is_some_and(|(since, _)| now >= *since + MINUTE + HOUR) {
            self.minutes.pop_front();
        }
        self.minutes.iter().map(|(_, sum)| sum).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minutes: u64) -> Duration {
        MINUTE * u32::try_from(minutes).unwrap()
    }

    #[test]
    fn what_was_spent_more_than_an_hour_ago_no_longer_counts() {
        let mut spending = Spending::default();
        spending.note(at(0), 1.0);
        spending.note(at(30), 2.0);
        spending.note(at(30) + Duration::from_secs(59), 0.5);
        assert_eq!((spending.minutes.len(), spending.last_hour(at(59))), (2, 3.5));
        assert_eq!(spending.last_hour(at(61)), 2.5);
        assert_eq!(spending.last_hour(at(200)), 0.0);
    }

    #[test]
    fn money_buys_the_time_that_costs_as_much() {
        let price = Price(3.6);
        assert_eq!(price.buys(price.of(Duration::from_secs(90))), Duration::from_secs(90));
        assert_eq!((price.buys(-1.0), price.buys(f64::MAX)), (Duration::ZERO, Duration::MAX));
    }

    #[test]
    fn a_cost_is_reported_as_workers_report_it_and_read_back() {
        let cost = Price(3.6).cost(Duration::from_millis(1500)).unwrap();
        assert_eq!(cost.get(), r#"{"dollars":0.0015,"gpuSeconds":1.5}"#);
        assert_eq!(dollars(&cost), 0.0015);
        for (text, read) in [(r#"{"gpuSeconds":1}"#, 0.0), (r#"{"dollars":-1}"#, 0.0), ("7", 0.0)] {
            let cost: Payload = Arc::from(serde_json::value::RawValue::from_string(text.to_owned()).unwrap());
            assert_eq!(dollars(&cost), read, "{text}");
        }
    }
}
