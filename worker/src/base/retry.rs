//! Pauses between tries. Only this file of the package uses the `backoff` crate.

use std::time::{Duration, SystemTime};

use backoff::SystemClock;
use backoff::backoff::Backoff;
use backoff::exponential::{ExponentialBackoff, ExponentialBackoffBuilder};
use reqwest::header::{HeaderMap, RETRY_AFTER};

use super::RETRY_AFTER_MAX;

/// Each pause is drawn from ±50 % around its nominal length, so that many workers do not come back at the same moment.
const JITTER: f64 = 0.5;

/// The pauses of one series of tries: exponential with jitter, never over a maximum.
#[derive(Debug)]
pub struct Retry {
    backoff: ExponentialBackoff<SystemClock>,
    max: Duration,
}

impl Retry {
    /// A series whose first pause is about `first` and whose pauses grow to at most `max`.
    pub fn new(first: Duration, max: Duration) -> Self {
        let backoff = ExponentialBackoffBuilder::new()
            .with_initial_interval(first)
            // The nominal length stays below the maximum by the jitter, so that the longest pauses still differ.
            .with_max_interval(max.div_f64(1.0 + JITTER))
            .with_randomization_factor(JITTER)
            .with_multiplier(2.0)
            .with_max_elapsed_time(None)
            .build();
        Self { backoff, max }
    }

    /// The next pause. A `Retry-After` of the server wins, up to `RETRY_AFTER_MAX`; the series grows all the same.
    /// A `Retry-After` of zero counts as absent: after a failure there is always a pause.
    pub fn next(&mut self, retry_after: Option<Duration>) -> Duration {
        let own = self.backoff.next_backoff().unwrap_or(self.max).min(self.max);
        match retry_after {
            Some(asked) if !asked.is_zero() => asked.min(RETRY_AFTER_MAX),
            _ => own,
        }
    }

    /// Starts the series again, after a success.
    pub fn reset(&mut self) {
        self.backoff.reset();
    }
}

/// Reads `Retry-After`, in seconds or as a date (RFC 9110, section 10.2.3). Anything else counts as absent.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default().min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use reqwest::header::HeaderValue;

    use super::*;

    proptest! {
        #[test]
        fn pauses_start_near_the_first_and_never_exceed_the_maximum(first in 1u64..5_000, factor in 2u32..40, steps in 1usize..40) {
            let first = Duration::from_millis(first);
            let max = first * factor;
            let mut retry = Retry::new(first, max);
            let pause = retry.next(None);
            prop_assert!(pause >= first.mul_f64(0.49) && pause <= first.mul_f64(1.51), "{pause:?}");
            for _ in 0..steps {
                let pause = retry.next(None);
                prop_assert!(pause >= first.mul_f64(0.49) && pause <= max, "{pause:?}");
            }
        }
    }

    #[test]
    fn a_series_grows_and_starts_again_after_success() {
        let (first, max) = (Duration::from_secs(1), Duration::from_secs(30));
        let mut retry = Retry::new(first, max);
        let last = (0..10).map(|_| retry.next(None)).last().unwrap();
        assert!(last >= Duration::from_secs(10), "{last:?}");
        retry.reset();
        assert!(retry.next(None) <= Duration::from_millis(1_501));
    }

    #[test]
    fn retry_after_wins_up_to_a_maximum() {
        let mut retry = Retry::new(Duration::from_secs(1), Duration::from_secs(30));
        assert_eq!(retry.next(Some(Duration::from_secs(90))), Duration::from_secs(90));
        assert_eq!(retry.next(Some(Duration::from_secs(1_000_000))), RETRY_AFTER_MAX);
        assert!(retry.next(Some(Duration::ZERO)) >= Duration::from_millis(490));
    }

    #[test]
    fn retry_after_is_read_in_both_forms() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_str(text).unwrap());
            retry_after(&headers)
        };
        assert_eq!(retry_after(&HeaderMap::new()), None);
        assert_eq!(read("7"), Some(Duration::from_secs(7)));
        assert_eq!(read("99999999999"), Some(RETRY_AFTER_MAX));
        assert_eq!(read("soon"), None);
        assert_eq!(read("-3"), None);
        assert_eq!(read("Fri, 01 Jan 2010 00:00:00 GMT"), Some(Duration::ZERO));
        let later = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(120));
        let pause = read(&later).unwrap();
        assert!(pause > Duration::from_secs(60) && pause <= Duration::from_secs(120), "{pause:?}");
    }
}
