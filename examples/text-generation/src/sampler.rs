//! Chooses the next tokens: those of all texts in one pass, on the device that has computed their scores.

use fastrand::Rng;
use tch::{Kind, TchError, Tensor};

/// How the tokens of a text are chosen.
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

    fn takes_the_best(&self) -> bool {
        self.temperature <= 0.0
    }
}

/// One token for each row of `scores`, `[rows, vocabulary]`, chosen by the sampler of the row. Scores are logits: only their differences
/// count.
///
/// # Errors
/// Those of libtorch.
pub fn choose(scores: &Tensor, samplers: &mut [&mut Sampler]) -> Result<Vec<i64>, TchError> {
    let best: Vec<i64> = Vec::try_from(scores.f_argmax(-1, false)?)?;
    if samplers.iter().all(|sampler| sampler.takes_the_best()) {
        return Ok(best);
    }
    let column = |numbers: Vec<f32>| Tensor::f_from_slice(&numbers)?.f_view([-1, 1])?.f_to_device(scores.device());
    let temperature = |sampler: &Sampler| if sampler.takes_the_best() { 1.0 } else { sampler.temperature };
    let temperatures = column(samplers.iter().map(|sampler| temperature(sampler)).collect())?;
    let weights = scores.f_div(&temperatures)?.f_softmax(-1, Kind::Float)?;
    for (row, sampler) in (0..).zip(&*samplers).filter(|(_, sampler)| sampler.top_p < 1.0) {
        keep_best(&weights.f_get(row)?, sampler.top_p)?;
    }
    // The token at which the sum of the weights exceeds a random part of all of them.
    let sums = weights.f_cumsum(-1, Kind::Float)?;
    let parts = column(samplers.iter_mut().map(|sampler| sampler.random.f32()).collect())?;
    let wanted = parts.f_mul(&sums.f_select(1, -1)?.f_unsqueeze(1)?)?;
    let chosen = wanted.f_searchsorted(&sums, false, true, "right", None::<&Tensor>)?;
    let (chosen, tokens): (Vec<i64>, i64) = (Vec::try_from(chosen.f_view(-1)?)?, sums.size2()?.1);
    let choices = chosen.into_iter().zip(best).zip(&*samplers);
    // Rounding can leave a little of the sum.
    Ok(choices.map(|((token, best), one)| if one.takes_the_best() || token >= tokens { best } else { token }).collect())
}

/// Takes the weight of all but the heaviest tokens, which together weigh at least `wanted`.
fn keep_best(weights: &Tensor, wanted: f32) -> Result<(), TchError> {
    let (sorted, order) = weights.f_sort(-1, true)?;
    let heavier = sorted.f_cumsum(-1, Kind::Float)?.f_sub(&sorted)?;
    let dropped = order.f_masked_select(&heavier.f_ge(f64::from(wanted))?)?;
    // In place.
    let _ = weights.shallow_clone().f_index_fill_(0, &dropped, 0.0)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Probabilities 1/2, 1/4, 1/8, 1/8.
    fn scores(rows: i64) -> Tensor {
        Tensor::from_slice(&[0.125_f32, 0.5, 0.125, 0.25]).log().repeat([rows, 1])
    }

    fn shares(mut sampler: Sampler) -> Vec<f32> {
        let mut counts = [0.0; 4];
        for _ in 0..4000 {
            counts[choose(&scores(1), &mut [&mut sampler]).unwrap()[0] as usize] += 1.0 / 4000.0;
        }
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
            (0..32).map(|_| choose(&scores(1), &mut [&mut sampler]).unwrap()[0]).collect::<Vec<_>>()
        };
        assert_eq!(choices(7), choices(7));
        assert_ne!(choices(7), choices(8));
    }

    #[test]
    fn rows_do_not_influence_each_other() {
        let samplers = || {
            [(0.0, 1.0), (1.0, 1.0), (0.5, 1.0), (1.0, 0.7), (1.0, 0.0)]
                .map(|(temperature, top_p)| Sampler::new(temperature, top_p, Some(3)))
        };
        let (mut together, mut alone) = (samplers(), samplers());
        for _ in 0..32 {
            let mut all: Vec<&mut Sampler> = together.iter_mut().collect();
            let expected: Vec<i64> =
                alone.iter_mut().map(|sampler| choose(&scores(1), &mut [sampler]).unwrap()[0]).collect();
            assert_eq!(choose(&scores(5), &mut all).unwrap(), expected);
        }
    }
}
