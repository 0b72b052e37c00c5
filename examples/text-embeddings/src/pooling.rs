//! From one vector per token to one vector per text.

use tch::{Kind, TchError, Tensor};

/// Mean over the tokens of each text, scaled to length 1, so that a dot product is a cosine.
///
/// `hidden` is `[batch, length, width]`, `mask` is `[batch, length]` and true where there is a token; without a mask every
/// position is a token. The result is `[batch, width]`. The two small constants are those of sentence-transformers: they give a
/// text without tokens the zero vector, where the division would give NaN.
///
/// # Errors
/// When libtorch fails.
pub fn mean_pool(hidden: &Tensor, mask: Option<&Tensor>) -> Result<Tensor, TchError> {
    let mean = match mask {
        Some(mask) => {
            let weight = mask.f_to_kind(hidden.kind())?.f_unsqueeze(-1)?;
            let sum = hidden.f_mul(&weight)?.f_sum_dim_intlist([1_i64].as_slice(), false, None::<Kind>)?;
            sum.f_div(&weight.f_sum_dim_intlist([1_i64].as_slice(), false, None::<Kind>)?.f_clamp_min(1e-9)?)?
        }
        None => hidden.f_mean_dim([1_i64].as_slice(), false, None::<Kind>)?,
    };
    let length = mean.f_norm_scalaropt_dim(2.0, [1_i64].as_slice(), true)?.f_clamp_min(1e-12)?;
    mean.f_div(&length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_ignored_and_the_result_has_length_one() {
        let hidden = Tensor::from_slice(&[3.0_f32, 0.0, 0.0, 4.0, 1e6, 1e6]).f_view([1, 3, 2]).unwrap();
        let mask = Tensor::from_slice(&[true, true, false]).f_view([1, 3]).unwrap();
        let pooled = Vec::<Vec<f32>>::try_from(mean_pool(&hidden, Some(&mask)).unwrap()).unwrap();
        assert_eq!(pooled, [[0.6, 0.8]]);
    }

    #[test]
    fn a_text_without_tokens_gives_zeros_instead_of_nan() {
        let hidden = Tensor::from_slice(&[3.0_f32, 4.0]).f_view([1, 1, 2]).unwrap();
        let mask = Tensor::from_slice(&[false]).f_view([1, 1]).unwrap();
        let pooled = Vec::<Vec<f32>>::try_from(mean_pool(&hidden, Some(&mask)).unwrap()).unwrap();
        assert_eq!(pooled, [[0.0, 0.0]]);
    }
}
