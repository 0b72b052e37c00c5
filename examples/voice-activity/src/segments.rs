//! From the probability of speech in each window to the segments of speech.

use crate::detector::Rate;
use crate::settings::Settings;

/// A segment of speech, in samples at the model's rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its first sample.
    pub start: u64,
    /// The sample after its last one.
    pub end: u64,
}

/// Finds segments while probabilities arrive. The result is that of `get_speech_timestamps_from_probs` of the Python package, which
/// wants all probabilities at once: a segment is held back only until the next one can no longer change its end.
#[derive(Debug)]
pub struct Segments {
    threshold: f64,
    end_threshold: f64,
    window: u64,
    min_speech: u64,
    min_silence: u64,
    pad: u64,
    /// Where the next window begins.
    position: u64,
    /// Where the speech that goes on began.
    speech: Option<u64>,
    /// Where the silence in it began.
    silence: Option<u64>,
    /// The last segment. Its start is extended already, its end is not.
    held: Option<Span>,
}

impl Segments {
    /// Begins with the first window of audio at this rate.
    pub fn new(settings: &Settings, rate: Rate) -> Self {
        let samples = |millis: u32| u64::from(millis) * rate.hertz() / 1000;
        Self {
            threshold: settings.threshold,
            end_threshold: settings.end_threshold(),
            window: rate.window() as u64,
            min_speech: samples(settings.min_speech_duration_ms),
            min_silence: samples(settings.min_silence_duration_ms),
            pad: samples(settings.speech_pad_ms),
            position: 0,
            speech: None,
            silence: None,
            held: None,
        }
    }

    /// Adds the probability of the next window. Returns the segment that is complete now, if one is.
    pub fn push(&mut self, probability: f64) -> Option<Span> {
        let position = self.position;
        self.position += self.window;
        if probability >= self.threshold {
            self.silence = None;
            self.speech.get_or_insert(position);
        } else if probability < self.end_threshold
            && let Some(start) = self.speech
        {
            let silence = *self.silence.get_or_insert(position);
            if position - silence >= self.min_silence {
                self.speech = None;
                self.silence = None;
                let before = self.found(Span { start, end: silence });
                if before.is_some() {
                    return before;
                }
            }
        }
        // Speech that may turn out too short can be followed by other speech, but none begins before it.
        let next = self.speech.unwrap_or(position);
        self.held.take_if(|held| next - held.end >= 2 * self.pad).map(|held| self.padded(held))
    }

    /// Ends the audio after this many samples. Returns the segments that were not complete before.
    pub fn finish(mut self, length: u64) -> impl Iterator<Item = Span> {
        let last = self.speech.take().and_then(|start| self.found(Span { start, end: length }));
        let held = self.held.take().map(|held| self.padded(held));
        last.into_iter().chain(held).map(move |span| Span { end: span.end.min(length), ..span })
    }

    /// Takes a segment, if it is long enough, and returns the one before.
    fn found(&mut self, mut span: Span) -> Option<Span> {
        if span.end.saturating_sub(span.start) <= self.min_speech {
            return None;
        }
        let before = self.held.take().map(|held| {
            let silence = span.start - held.end;
            if silence < 2 * self.pad {
                span.start -= silence / 2;
                Span { end: held.end + silence / 2, ..held }
            } else {
                span.start -= self.pad;
                self.padded(held)
            }
        });
        if before.is_none() {
            span.start = span.start.saturating_sub(self.pad);
        }
        self.held = Some(span);
        before
    }

    fn padded(&self, held: Span) -> Span {
        Span { end: held.end + self.pad, ..held }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Segments in windows, and for each how many windows had been read.
    fn find(probabilities: &[f64], settings: &Settings) -> Vec<(u64, u64, usize)> {
        let mut segments = Segments::new(settings, Rate::Hz16000);
        let in_windows = |span: Span, read| (span.start / 512, span.end / 512, read);
        let mut found = Vec::new();
        for (index, &probability) in probabilities.iter().enumerate() {
            found.extend(segments.push(probability).map(|span| in_windows(span, index + 1)));
        }
        let length = 512 * probabilities.len() as u64;
        found.extend(segments.finish(length).map(|span| in_windows(span, probabilities.len())));
        found
    }

    /// 32 ms are one window.
    fn settings(min_speech: u32, min_silence: u32, pad: u32) -> Settings {
        Settings {
            threshold: 0.5,
            min_speech_duration_ms: 32 * min_speech,
            min_silence_duration_ms: 32 * min_silence,
            speech_pad_ms: 32 * pad,
        }
    }

    #[test]
    fn a_segment_is_complete_as_soon_as_nothing_can_change_it() {
        let speech = [0.9, 0.9, 0.1, 0.1, 0.1, 0.1, 0.1, 0.9, 0.9, 0.9];
        assert_eq!(find(&speech, &settings(1, 2, 0)), [(0, 2, 5), (7, 10, 10)]);
        assert_eq!(find(&speech, &settings(1, 2, 2)), [(0, 4, 7), (5, 10, 10)]);
        // The padding would overlap, and the next segment is known only at the end.
        assert_eq!(find(&speech, &settings(1, 2, 4)), [(0, 4, 10), (4, 10, 10)]);
    }

    #[test]
    fn speech_that_is_too_short_leaves_no_trace() {
        let speech = [0.9, 0.9, 0.9, 0.1, 0.9, 0.1, 0.1, 0.1, 0.1, 0.1];
        assert_eq!(find(&speech, &settings(1, 0, 2)), [(0, 5, 8)]);
        assert_eq!(find(&[0.9; 3], &settings(3, 1, 0)), []);
        assert_eq!(find(&[], &settings(0, 0, 0)), []);
    }

    #[test]
    fn a_probability_between_the_thresholds_changes_nothing() {
        let speech = [0.4, 0.9, 0.4, 0.4, 0.1, 0.4, 0.1, 0.4, 0.4];
        assert_eq!(find(&speech, &settings(0, 2, 0)), [(1, 4, 7)]);
    }
}
