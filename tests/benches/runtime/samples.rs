//! Several measurements of one thing.

/// The measurements, in the order in which they were made.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    /// Adds one. What could not be measured is left out.
    pub(crate) fn add(&mut self, value: f64) {
        if value.is_finite() {
            self.0.push(value);
        }
    }

    /// All of them.
    pub(crate) fn all(&self) -> &[f64] {
        &self.0
    }

    /// The one in the middle; `None` when there is none.
    pub(crate) fn median(&self) -> Option<f64> {
        self.percentile(50.0)
    }

    /// The smallest that at least this share of all, in percent, does not exceed.
    pub(crate) fn percentile(&self, percent: f64) -> Option<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied()
    }

    /// The smallest and the largest.
    pub(crate) fn spread(&self) -> Option<(f64, f64)> {
        Some((self.percentile(0.0)?, self.percentile(100.0)?))
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        let mut samples = Self::default();
        values.into_iter().for_each(|value| samples.add(value));
        samples
    }
}
