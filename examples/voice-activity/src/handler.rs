//! The implementation of `Handler`: audio in, segments of speech out, each as soon as it is found.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use runpod_handler_sdk::files::FileInput;
use runpod_handler_sdk::{Handler, HandlerError, Job, LoadEnv};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::detector::{Detector, Rate};
use crate::segments::{Segments, Span};
use crate::settings::Settings;
use crate::wav::Wav;

/// Environment variable with the model's file.
const MODEL_VARIABLE: &str = "VOICE_ACTIVITY_MODEL";
/// Default file of the model, where `make models` puts it.
const DEFAULT_MODEL: &str = ".models/silero-vad/silero_vad.jit";

/// Largest file that is downloaded, in bytes: more than two hours of 16 kHz mono with 16 bits.
const MAX_AUDIO: u64 = 256 * 1024 * 1024;
/// Windows between two reports of progress: about half a minute of audio.
const PROGRESS_EVERY: u64 = 1000;
/// Windows that warm up the model. TorchScript observes the first two calls, and compiles in the next one.
const WARM_UP: usize = 4;

/// The model of one slot.
#[derive(Debug)]
pub struct VoiceActivity {
    detector: Detector,
}

/// A job's `input`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// A WAV file with one or two channels and 8 kHz or a multiple of 16 kHz.
    pub audio: FileInput,
    /// What counts as speech.
    #[serde(default)]
    pub settings: Settings,
}

/// A job's `output`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Output {
    /// Length of the audio in seconds.
    pub duration: f64,
    /// All segments of speech, in order: those that were streamed.
    pub segments: Vec<Segment>,
}

/// A segment of speech.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Segment {
    /// Where it begins, in seconds.
    pub start: f64,
    /// Where it ends, in seconds.
    pub end: f64,
    /// Its first sample in the file.
    pub start_sample: u64,
    /// The sample in the file after its last one.
    pub end_sample: u64,
}

/// Progress of a job.
#[derive(Debug, Serialize)]
struct Progress {
    /// Seconds of audio that were read.
    seconds: f64,
}

impl Segment {
    fn new(span: Span, wav: &Wav) -> Self {
        let step = wav.step() as u64;
        Self {
            start: seconds(span.start, wav.rate()),
            end: seconds(span.end, wav.rate()),
            start_sample: span.start * step,
            end_sample: span.end * step,
        }
    }
}

fn seconds(samples: u64, rate: Rate) -> f64 {
    samples as f64 / rate.hertz() as f64
}

impl Handler for VoiceActivity {
    type Input = Input;
    type Output = Output;
    type Chunk = Segment;

    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const IDEMPOTENT: bool = true;

    fn load(env: &LoadEnv) -> Result<Self, HandlerError> {
        let path = std::env::var_os(MODEL_VARIABLE).map_or_else(|| DEFAULT_MODEL.into(), PathBuf::from);
        Ok(Self { detector: Detector::load(&path, env.device()?)? })
    }

    fn warm_up(&mut self) -> Result<(), HandlerError> {
        for rate in [Rate::Hz8000, Rate::Hz16000] {
            self.detector.begin()?;
            for _ in 0..WARM_UP {
                self.detector.probability(&[], rate)?;
            }
        }
        Ok(())
    }

    fn run(&mut self, input: Input, job: &Job<Segment>) -> Result<Output, HandlerError> {
        let audio = job.files().max_bytes(MAX_AUDIO).fetch(&input.audio)?;
        let mut wav = Wav::open(BufReader::new(File::open(audio.path())?)).map_err(HandlerError::classified)?;
        let rate = wav.rate();
        let mut search = Segments::new(&input.settings, rate);
        let (mut segments, mut length, mut windows) = (Vec::new(), 0, 0);
        self.detector.begin()?;
        loop {
            job.stop_point()?;
            let window = wav.window().map_err(HandlerError::classified)?;
            if window.is_empty() {
                break;
            }
            length += window.len() as u64;
            windows += 1;
            if let Some(span) = search.push(self.detector.probability(&window, rate)?) {
                segments.push(found(span, &wav, job)?);
            }
            if windows % PROGRESS_EVERY == 0 {
                job.progress(Progress { seconds: seconds(length, rate) });
            }
        }
        for span in search.finish(length) {
            segments.push(found(span, &wav, job)?);
        }
        let duration = seconds(length, rate);
        job.record("audio_seconds", duration);
        Ok(Output { duration, segments })
    }
}

/// Streams a segment.
fn found(span: Span, wav: &Wav, job: &Job<Segment>) -> Result<Segment, HandlerError> {
    let segment = Segment::new(span, wav);
    job.emit(segment)?;
    Ok(segment)
}
