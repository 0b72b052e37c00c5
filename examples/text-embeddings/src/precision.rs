//! The floating-point type in which the network computes.

use tch::Kind;

use crate::error::ModelError;

/// Environment variable with the precision: `f32` (the default), `f16` or `bf16`.
const PRECISION_VARIABLE: &str = "TEXT_EMBEDDINGS_PRECISION";

/// How exactly the network computes. Embeddings are `f32` in any case: pooling is exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// As the reference does; the only fast one on most CPUs.
    #[default]
    F32,
    /// Half precision: half the memory, and a GPU's matrix units.
    F16,
    /// The same with the range of `f32` and fewer digits.
    Bf16,
}

impl Precision {
    /// The one that the environment asks for.
    ///
    /// # Errors
    /// When the variable has another value.
    pub fn of_environment() -> Result<Self, ModelError> {
        match std::env::var(PRECISION_VARIABLE) {
            Ok(text) => Self::parse(&text),
            Err(_) => Ok(Self::default()),
        }
    }

    fn parse(text: &str) -> Result<Self, ModelError> {
        match text {
            "f32" => Ok(Self::F32),
            "f16" => Ok(Self::F16),
            "bf16" => Ok(Self::Bf16),
            _ => Err(ModelError::Setting {
                variable: PRECISION_VARIABLE,
                value: text.to_owned(),
                known: "f32, f16 or bf16",
            }),
        }
    }

    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::F32 => Kind::Float,
            Self::F16 => Kind::Half,
            Self::Bf16 => Kind::BFloat16,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_names_are_known_and_anything_else_is_refused_with_them() {
        let known = ["f32", "f16", "bf16"].map(|text| Precision::parse(text).unwrap().kind());
        assert_eq!(known, [Kind::Float, Kind::Half, Kind::BFloat16]);
        let error = Precision::parse("fp8").unwrap_err().to_string();
        assert_eq!(error, "TEXT_EMBEDDINGS_PRECISION is \"fp8\": use f32, f16 or bf16");
    }
}
