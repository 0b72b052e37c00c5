//! Reads WAV files window by window, so that a long one takes no more memory than a short one.

use std::fmt;
use std::io::Read;

use hound::{SampleFormat, WavReader};

use crate::detector::Rate;
use crate::error::AudioError;

/// The samples of a WAV file, its channels mixed.
pub struct Wav {
    rate: Rate,
    step: usize,
    samples: Box<dyn Iterator<Item = hound::Result<f32>>>,
}

impl fmt::Debug for Wav {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wav").field("rate", &self.rate).field("step", &self.step).finish_non_exhaustive()
    }
}

impl Wav {
    /// Reads the header of a file.
    ///
    /// # Errors
    /// When it is not a WAV file, or not one for the model.
    pub fn open(file: impl Read + 'static) -> Result<Self, AudioError> {
        let reader = WavReader::new(file)?;
        let spec = reader.spec();
        if !matches!(spec.channels, 1 | 2) {
            return Err(AudioError::Channels(spec.channels));
        }
        let (rate, step) = match spec.sample_rate {
            8000 => (Rate::Hz8000, 1),
            // As the Python package does it: of 48 kHz, every third sample is taken.
            hertz if hertz > 0 && hertz % 16_000 == 0 => (Rate::Hz16000, hertz as usize / 16_000),
            hertz => return Err(AudioError::Rate(hertz)),
        };
        let samples = match spec.sample_format {
            SampleFormat::Float => mix(reader.into_samples::<f32>(), spec.channels),
            SampleFormat::Int => {
                let full_scale = f32::from(spec.bits_per_sample - 1).exp2();
                let samples = reader.into_samples::<i32>();
                mix(samples.map(move |sample| Ok(sample? as f32 / full_scale)), spec.channels)
            }
        };
        Ok(Self { rate, step, samples: Box::new(samples.step_by(step)) })
    }

    /// The model's rate for this file.
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// Samples of the file for each one that the model reads.
    pub fn step(&self) -> usize {
        self.step
    }

    /// The next samples, from −1 to 1: a whole window, or fewer at the end, and none after it.
    ///
    /// # Errors
    /// When the file ends too early.
    pub fn window(&mut self) -> Result<Vec<f32>, AudioError> {
        Ok(self.samples.by_ref().take(self.rate.window()).collect::<hound::Result<_>>()?)
    }
}

/// The mean of all channels.
fn mix(
    mut samples: impl Iterator<Item = hound::Result<f32>> + 'static,
    channels: u16,
) -> Box<dyn Iterator<Item = hound::Result<f32>>> {
    Box::new(std::iter::from_fn(move || {
        let sum: Option<hound::Result<f32>> = (0..channels).map(|_| samples.next()).sum();
        sum.map(|sum| Ok(sum? / f32::from(channels)))
    }))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use hound::{WavSpec, WavWriter};

    use super::*;

    fn file(channels: u16, sample_rate: u32, samples: &[i16]) -> Vec<u8> {
        let mut data = Cursor::new(Vec::new());
        let spec = WavSpec { channels, sample_rate, bits_per_sample: 16, sample_format: SampleFormat::Int };
        let mut writer = WavWriter::new(&mut data, spec).unwrap();
        samples.iter().for_each(|sample| writer.write_sample(*sample).unwrap());
        writer.finalize().unwrap();
        data.into_inner()
    }

    fn open(data: Vec<u8>) -> Result<Wav, AudioError> {
        Wav::open(Cursor::new(data))
    }

    #[test]
    fn channels_are_mixed_and_high_rates_thinned_out() {
        let mut stereo = open(file(2, 48_000, &[16384, 0, 1, 1, 2, 2, -16384, -16384])).unwrap();
        assert_eq!((stereo.rate(), stereo.step()), (Rate::Hz16000, 3));
        assert_eq!(stereo.window().unwrap(), [0.25, -0.5]);
        assert_eq!(stereo.window().unwrap(), [0.0; 0]);
    }

    #[test]
    fn a_file_is_read_window_by_window() {
        let mut wav = open(file(1, 8000, &[0; 600])).unwrap();
        let lengths: Vec<usize> = (0..4).map(|_| wav.window().unwrap().len()).collect();
        assert_eq!(lengths, [256, 256, 88, 0]);
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_the_fix() {
        // The rate, and the bytes in a second.
        let mut no_rate = file(1, 8000, &[0]);
        no_rate[24..32].fill(0);
        for (data, problem) in [
            (b"ID3 and then an MP3 file".to_vec(), "not a WAV file"),
            (Vec::new(), "not a WAV file"),
            (file(1, 44_100, &[0]), "44100 Hz"),
            (no_rate, " 0 Hz"),
            (file(3, 16_000, &[0; 3]), "3 channels"),
        ] {
            let error = open(data).unwrap_err().to_string();
            assert!(error.starts_with("input.audio: ") && error.contains(problem), "{error}");
            assert!(error.contains("ffmpeg"), "{error}");
        }
        let mut cut = file(1, 16_000, &[0; 600]);
        cut.truncate(900);
        assert!(open(cut).unwrap().window().is_err());
    }
}
