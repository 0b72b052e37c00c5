//! The audio that the tests use.

use std::io::Cursor;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hound::{WavReader, WavSpec, WavWriter};

/// The default path of the model begins in the root of the repository.
pub(crate) fn in_repository() {
    std::env::set_current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).unwrap();
}

/// Four sentences and the pauses between them, mono at 16 kHz.
pub(crate) fn speech() -> Vec<u8> {
    include_bytes!("../../golden/speech.wav").to_vec()
}

/// Every second sample of a file.
pub(crate) fn at_8_khz(file: &[u8]) -> Vec<u8> {
    rewrite(file, 1, 8000, |samples| samples.iter().copied().step_by(2).collect())
}

/// The samples of a file in another form.
pub(crate) fn rewrite(file: &[u8], channels: u16, sample_rate: u32, change: impl Fn(&[i16]) -> Vec<i16>) -> Vec<u8> {
    let mut reader = WavReader::new(file).unwrap();
    let samples: Vec<i16> = reader.samples().map(Result::unwrap).collect();
    let mut data = Cursor::new(Vec::new());
    let mut writer = WavWriter::new(&mut data, WavSpec { channels, sample_rate, ..reader.spec() }).unwrap();
    change(&samples).into_iter().for_each(|sample| writer.write_sample(sample).unwrap());
    writer.finalize().unwrap();
    data.into_inner()
}

pub(crate) fn data_url(file: &[u8]) -> String {
    format!("data:audio/wav;base64,{}", STANDARD.encode(file))
}
