//! The model: how likely each window of audio contains speech.

use std::fs::File;
use std::path::Path;

use tch::{CModule, Device, IValue, Tensor};

use crate::error::ModelError;

/// A sample rate that the model knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    /// 8,000 samples a second.
    Hz8000,
    /// 16,000 samples a second.
    Hz16000,
}

impl Rate {
    /// Samples in a second.
    pub fn hertz(self) -> u64 {
        match self {
            Self::Hz8000 => 8000,
            Self::Hz16000 => 16_000,
        }
    }

    /// Samples in a window, which lasts 32 ms.
    pub fn window(self) -> usize {
        match self {
            Self::Hz8000 => 256,
            Self::Hz16000 => 512,
        }
    }
}

/// silero-vad. The model keeps the state of one audio, so it reads one after the other.
#[derive(Debug)]
pub struct Detector {
    model: CModule,
    device: Device,
}

impl Detector {
    /// Loads the TorchScript file of silero-vad.
    ///
    /// # Errors
    /// When the file cannot be read, or contains something else.
    pub fn load(path: &Path, device: Device) -> Result<Self, ModelError> {
        // libtorch reports a missing file with a stack trace of C++.
        File::open(path).map_err(|source| ModelError::Unreadable { path: path.to_owned(), source })?;
        let invalid = |error: tch::TchError| {
            let text = error.to_string();
            let reason = text.lines().next().unwrap_or_default().to_owned();
            ModelError::Invalid { path: path.to_owned(), reason }
        };
        let mut model = CModule::load_on_device(path, device).map_err(invalid)?;
        model.f_set_eval().map_err(invalid)?;
        // A window is too little work to be shared among threads; the Python package sets the same.
        tch::set_num_threads(1);
        model.method_is::<IValue>("reset_states", &[]).map_err(invalid)?;
        Ok(Self { model, device })
    }

    /// Begins another audio.
    ///
    /// # Errors
    /// When libtorch fails.
    pub fn begin(&mut self) -> Result<(), ModelError> {
        self.model.method_is::<IValue>("reset_states", &[])?;
        Ok(())
    }

    /// The probability, from 0 to 1, that the next window contains speech. `samples` are from −1 to 1; silence is added to a window
    /// that is too short, as the last one may be.
    ///
    /// # Errors
    /// When libtorch fails.
    pub fn probability(&mut self, samples: &[f32], rate: Rate) -> Result<f64, ModelError> {
        let missing = rate.window().saturating_sub(samples.len());
        let window = Tensor::f_from_slice(samples)?.f_constant_pad_nd([0, missing as i64])?.f_to_device(self.device)?;
        let arguments = [IValue::Tensor(window), IValue::Int(rate.hertz().cast_signed())];
        match self.model.forward_is(&arguments)? {
            IValue::Tensor(probability) => Ok(probability.f_double_value(&[0, 0])?),
            _ => Err(ModelError::NoProbability),
        }
    }
}
