//! Chooses the next token.

use fastrand::Rng;

/// How tokens are chosen.
#[derive(Debug)]
pub struct Sampler {
    /// 0 takes the best token, 1 the distribution of the model, more a flatter one.
    temperature: f32,
    /// Only the best tokens with together this probability are candidates.
    top_p: f32,
    random: Rng,
}

impl Sampler {
    /// A sampler. The same seed gives the same choices for the same scores.
    pub fn new(temperature: f32, top_p: f32, seed: Option<u64>) -> Self {
        Self { temperature, top_p, random: seed.map_or_else(Rng::new, Rng::with_seed) }
    }

    /// One token, given the score of each token. Scores are logits: only their differences count.
    pub fn choose(&mut self, scores: &[f32]) -> i64 {
        let (mut best, mut highest) = (0, f32::NEG_INFINITY);
        for (token, &score) in scores.iter().enumerate() {
            if score > highest {
                (best, highest) = (token, score);
            }
        }
        if self.temperature <= 0.0 {
            return best as i64;
        }
        let mut candidates: Vec<(usize, f32)> = scores
            .iter()
            .map(|score| ((score - highest) / self.temperature).exp())
            .enumerate()
            .filter(|candidate| candidate.1 > 0.0)
            .collect();
        let mut total: f32 = candidates.iter().map(|candidate| candidate.1).sum();
        if self.top_p < 1.0 {
            total = keep_best(&mut candidates, total * self.top_p);
        }
        let mut left = self.random.f32() * total;
        for &(token, weight) in &candidates {
            left -= weight;
            if left < 0.0 {
                return token as i64;
            }
        }
        // Rounding can leave a little of the random number.
        best as i64
    }
}

/// Keeps the heaviest candidates that together weigh at least `wanted`. Returns their weight.
fn keep_best(candidates: &mut Vec<(usize, f32)>, wanted: f32) -> f32 {
    candidates.sort_unstable_by(|a, b| b.1.total_cmp(&a.1));
    let mut weight = 0.0;
    let enough = candidates.iter().position(|candidate| {
        weight += candidate.1;
        weight >= wanted
    });
    candidates.truncate(enough.map_or(candidates.len(), |last| last + 1));
    weight
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Probabilities 1/2, 1/4, 1/8, 1/8.
    fn scores() -> Vec<f32> {
        [0.125_f32, 0.5, 0.125, 0.25].map(f32::ln).to_vec()
    }

    fn shares(mut sampler: Sampler) -> Vec<f32> {
        let mut counts = [0.0; 4];
        (0..4000).for_each(|_| counts[sampler.choose(&scores()) as usize] += 1.0 / 4000.0);
        counts.to_vec()
    }

    fn assert_near(shares: &[f32], expected: [f32; 4]) {
        assert!(shares.iter().zip(expected).all(|(share, expected)| (share - expected).abs() < 0.03), "{shares:?}");
    }

    #[test]
    fn temperature_zero_takes_the_best() {
        assert_near(&shares(Sampler::new(0.0, 1.0, None)), [0.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn tokens_come_as_often_as_the_model_says() {
        assert_near(&shares(Sampler::new(1.0, 1.0, Some(1))), [0.125, 0.5, 0.125, 0.25]);
        // A low temperature squares the probabilities: 1/64, 16/64, 1/64, 4/64.
        assert_near(&shares(Sampler::new(0.5, 1.0, Some(1))), [0.045, 0.727, 0.045, 0.182]);
    }

    #[test]
    fn top_p_leaves_the_best_that_reach_it() {
        assert_near(&shares(Sampler::new(1.0, 0.7, Some(1))), [0.0, 0.667, 0.0, 0.333]);
        assert_near(&shares(Sampler::new(1.0, 0.01, Some(1))), [0.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn a_seed_repeats_the_choices() {
        let choices = |seed| {
            let mut sampler = Sampler::new(1.0, 1.0, Some(seed));
            (0..32).map(|_| sampler.choose(&scores())).collect::<Vec<_>>()
        };
        assert_eq!(choices(7), choices(7));
        assert_ne!(choices(7), choices(8));
    }
}
