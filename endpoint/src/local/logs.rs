//! The log lines of local workers by job, for those who watch a job.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::time::SystemTime;

use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::Notify;

/// Lines kept of one job; the oldest makes room.
const MAX_LINES: usize = 1000;
/// Bytes of the lines of all jobs; the job whose first line is oldest makes room.
const MAX_BYTES: usize = 16 << 20;

/// Longest text that is kept of a line.
const MAX_TEXT: usize = 8 << 10;

/// Longest id of a job, as this endpoint makes and accepts them: a line with a longer one is not about a job.
const MAX_ID: usize = 128;
/// Longest name of a level, likewise.
const MAX_LEVEL: usize = 32;

/// What a line costs beside its texts, and a job beside its id and its lines.
const OVERHEAD: usize = 64;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// When it was read.
    pub at: SystemTime,
    /// `INFO` and the like.
    pub level: String,
    /// The rest of it, without the job's id.
    pub text: String,
}

impl LogLine {
    fn bytes(&self) -> usize {
        self.level.len() + self.text.len() + OVERHEAD
    }
}

/// The lines of all jobs. Workers write them in RunPod's two forms, JSON and text.
#[derive(Debug, Default)]
pub struct JobLogs {
    kept: Mutex<Kept>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Kept {
    by_job: HashMap<String, Lines>,
    /// Jobs in the order of their first lines.
    order: VecDeque<String>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Lines {
    kept: VecDeque<LogLine>,
    /// Number of the next line; counts on when lines are removed.
    next: u64,
}

impl JobLogs {
    /// Keeps a line if it names a job.
    pub fn add(&self, line: &str) {
        let Some((job, level, text)) = parse(line) else { return };
        if job.len() > MAX_ID || level.len() > MAX_LEVEL {
            return;
        }
        let text = text.chars().take(MAX_TEXT).collect();
        let line = LogLine { at: SystemTime::now(), level: level.into_owned(), text };
        self.kept.lock().add(&job, line);
        self.changed.notify_waiters();
    }

    /// Waits until there are lines of this job from number `seen` on. The lines, and the number of the next one.
    pub async fn after(&self, job: &str, seen: u64) -> (Vec<LogLine>, u64) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Registers before the look, so that a line in between wakes this reader.
            changed.as_mut().enable();
            if let Some(news) = self.kept.lock().after(job, seen) {
                return news;
            }
            changed.await;
        }
    }
}

impl Kept {
    fn add(&mut self, job: &str, line: LogLine) {
        if !self.by_job.contains_key(job) {
            self.bytes += job_bytes(job);
            self.order.push_back(job.to_owned());
        }
        let lines = self.by_job.entry(job.to_owned()).or_default();
        self.bytes += line.bytes();
        lines.kept.push_back(line);
        lines.next += 1;
        if lines.kept.len() > MAX_LINES {
            self.bytes -= lines.kept.pop_front().map_or(0, |oldest| oldest.bytes());
        }
        while self.bytes > MAX_BYTES {
            let Some(oldest) = self.order.pop_front() else { return };
            let lines = self.by_job.remove(&oldest).unwrap_or_default();
            self.bytes -= job_bytes(&oldest) + lines.kept.iter().map(LogLine::bytes).sum::<usize>();
        }
    }

    fn after(&self, job: &str, seen: u64) -> Option<(Vec<LogLine>, u64)> {
        let lines = self.by_job.get(job).filter(|lines| lines.next > seen)?;
        let new = usize::try_from(lines.next - seen).unwrap_or(usize::MAX);
        let skipped = lines.kept.len().saturating_sub(new);
        Some((lines.kept.iter().skip(skipped).cloned().collect(), lines.next))
    }
}

/// What a job costs beside its lines. Its id is kept twice.
fn job_bytes(id: &str) -> usize {
    2 * id.len() + OVERHEAD
}

/// The job, the level and the rest of a line: `{"requestId": "j", "message": "m", "level": "INFO", …}` or
/// `2026-01-31T12:00:00.000Z INFO   | j | m`.
fn parse(line: &str) -> Option<(Cow<'_, str>, Cow<'_, str>, Cow<'_, str>)> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct JsonLine {
        request_id: String,
        level: String,
        message: String,
    }
    if line.starts_with('{') {
        let line: JsonLine = serde_json::from_str(line).ok()?;
        return Some((line.request_id.into(), line.level.into(), line.message.into()));
    }
    // The time stands first in lines of this program's own workers; others write none.
    let line = match line.split_once("Z ") {
        Some((time, rest)) if time.starts_with(|first: char| first.is_ascii_digit()) => rest,
        _ => line,
    };
    let mut parts = line.trim_end().splitn(3, " | ");
    let (level, job, text) = (parts.next()?.trim_end_matches([' ', '|']), parts.next(), parts.next());
    // The level is padded to seven letters; no level has a longer name.
    let (job, text) = (job?, text?);
    let is_id = job.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_".contains(letter));
    is_id.then(|| (job.into(), level.trim_end().into(), text.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_both_forms_belong_to_their_job() {
        let parsed = |line| parse(line).map(|(job, level, text)| format!("{job}: {level}: {text}"));
        let json = r#"{"requestId": "j-1", "message": "a \"b\"", "level": "WARN", "worker": "w", "run_ms": 3}"#;
        assert_eq!(parsed(json).as_deref(), Some(r#"j-1: WARN: a "b""#));
        assert_eq!(
            parsed("INFO   | j-1 | Started. attempt=1 | x\n").as_deref(),
            Some("j-1: INFO: Started. attempt=1 | x")
        );
        assert_eq!(parsed("2026-01-31T12:00:00.250Z WARN   | j-1 | Z x").as_deref(), Some("j-1: WARN: Z x"));
        assert_eq!(parsed("ERROR  | j_2 | no").as_deref(), Some("j_2: ERROR: no"));
        for other in
            ["INFO   | A slot is ready. | x", r#"{"requestId": null, "message": "", "level": "INFO"}"#, "text", "", "{"]
        {
            assert_eq!(parsed(other), None, "{other}");
        }
    }

    #[tokio::test]
    async fn a_reader_gets_each_line_once_and_the_oldest_make_room() {
        let logs = JobLogs::default();
        for number in 0..MAX_LINES + 5 {
            logs.add(&format!("INFO   | a | line {number}"));
        }
        let (lines, next) = logs.after("a", 0).await;
        assert_eq!((lines.len(), lines[0].text.as_str(), next), (MAX_LINES, "line 5", MAX_LINES as u64 + 5));
        let (news, ()) = tokio::join!(logs.after("a", next), async { logs.add("INFO   | a | new") });
        assert_eq!((news.0.len(), news.0[0].text.as_str()), (1, "new"));
    }

    #[test]
    fn lines_with_long_ids_or_levels_are_dropped_and_short_lines_count_with_their_overhead() {
        let logs = JobLogs::default();
        let (id, level) = ("j".repeat(MAX_ID + 1), "L".repeat(MAX_LEVEL + 1));
        logs.add(&format!("INFO   | {id} | text"));
        logs.add(&format!(r#"{{"requestId": "j", "message": "m", "level": "{level}"}}"#));
        assert!(logs.kept.lock().by_job.is_empty());
        let (id, level) = (&id[1..], &level[1..]);
        logs.add(&format!(r#"{{"requestId": "{id}", "message": "", "level": "{level}"}}"#));
        assert_eq!(logs.kept.lock().bytes, 2 * MAX_ID + MAX_LEVEL + 2 * OVERHEAD);
    }

    #[test]
    fn all_jobs_together_are_bounded() {
        let logs = JobLogs::default();
        let text = "x".repeat(MAX_TEXT * 2);
        for number in 0..3 * MAX_BYTES / MAX_TEXT {
            logs.add(&format!("INFO   | job-{number} | {text}"));
        }
        let kept = logs.kept.lock();
        let lines: usize = kept.by_job.values().flat_map(|lines| &lines.kept).map(LogLine::bytes).sum();
        let bytes = lines + kept.by_job.keys().map(|id| job_bytes(id)).sum::<usize>();
        assert_eq!((kept.bytes, kept.by_job.len()), (bytes, kept.order.len()));
        assert!(bytes <= MAX_BYTES && kept.by_job.contains_key(&format!("job-{}", 3 * MAX_BYTES / MAX_TEXT - 1)));
    }
}
