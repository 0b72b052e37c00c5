//! The documents of the far endpoint's client API.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::api::Report;
use crate::store::{Ending, Outcome, Payload, Status, TakenJob};

/// The least and the most that RunPod accepts for `ttl` and `executionTimeout`.
const TTL: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(7 * 24 * 3600));

/// RunPod's text for a job that has exceeded its timeout.
const TIMEOUT_ERROR: &str = "executionTimeout exceeded";

/// A `/run` request.
#[derive(Debug, Serialize)]
pub(super) struct RunRequest<'a> {
    input: &'a RawValue,
    policy: RunPolicy,
    #[serde(rename = "s3Config", skip_serializing_if = "Option::is_none")]
    s3_config: Option<&'a RawValue>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RunPolicy {
    #[serde(skip_serializing_if = "Option::is_none")]
    execution_timeout: Option<u128>,
    /// What is left of the job's life.
    ttl: u128,
}

impl<'a> From<&'a TakenJob> for RunRequest<'a> {
    fn from(job: &'a TakenJob) -> Self {
        let request = &job.request;
        // In whole milliseconds, as they are written down, and as of the first try: a submission that is repeated has the same bytes.
        let waited = job.handover.since.as_millis().saturating_sub(job.submitted.as_millis());
        let left = request.policy.ttl.as_millis().saturating_sub(waited).clamp(TTL.0.as_millis(), TTL.1.as_millis());
        Self {
            input: &request.input,
            policy: RunPolicy {
                execution_timeout: request.policy.execution_timeout.map(|time| time.as_millis()),
                ttl: left,
            },
            s3_config: request.s3_config.as_deref().map(AsRef::as_ref),
        }
    }
}

/// Names one hand-over: the same for every submission until the far endpoint is known not to have the job any more, however often it has
/// come back since, and another one after `/retry`.
pub(super) fn submission_key(job: &TakenJob) -> String {
    format!("{}-{}-{}", job.id, job.submitted.as_millis(), job.handover.number)
}

/// The reply of `/run`.
#[derive(Debug, Deserialize)]
pub(super) struct Accepted {
    pub(super) id: String,
}

/// A job as `/status` shows it.
#[derive(Debug)]
pub(super) struct FarJob {
    pub(super) status: Status,
    /// Length of its run, once it has ended.
    pub(super) execution: Option<Duration>,
    report: Report,
}

impl FarJob {
    pub(super) fn parse(body: &[u8]) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Head {
            status: Status,
            execution_time: Option<f64>,
        }
        // Output, error and cost have the names that workers give them too.
        let report = Report::parse(body)?;
        let Head { status, execution_time } = serde_json::from_slice(body)?;
        let execution = execution_time.and_then(|millis| Duration::try_from_secs_f64(millis / 1000.0).ok());
        Ok(Self { status, execution, report })
    }

    /// Whether it has ended by itself.
    pub(super) fn has_result(&self) -> bool {
        self.status.is_terminal() && self.status != Status::Cancelled
    }

    /// The latest progress update of a job that runs.
    pub(super) fn progress(&self) -> Option<&Payload> {
        match &self.report {
            Report::Progress(output) => output.as_ref(),
            Report::Final(_) => None,
        }
    }

    /// What it has cost, where the far endpoint reports that.
    pub(super) fn cost(&self) -> Option<&Payload> {
        match &self.report {
            Report::Progress(_) => None,
            Report::Final(outcome) => outcome.ending.cost.as_ref(),
        }
    }

    /// The end of a job that has ended there.
    pub(super) fn outcome(self) -> Outcome {
        let Report::Final(Outcome { ending, timed_out, mistake, .. }) = self.report else { return Outcome::default() };
        let Ending { output, error, cost } = ending;
        let error = match self.status {
            Status::Completed => None,
            status => Some(error.unwrap_or_else(|| format!("the job is {} and has no error text", status.name()))),
        };
        let timed_out = timed_out || self.status == Status::TimedOut || error.as_deref() == Some(TIMEOUT_ERROR);
        let mistake = mistake.filter(|_| error.is_some());
        Outcome { ending: Ending { output, error, cost }, timed_out, mistake, ..Outcome::default() }
    }
}

/// The reply of `/stream`.
#[derive(Debug, Deserialize)]
pub(super) struct FarStream {
    pub(super) status: Status,
    #[serde(default)]
    pub(super) stream: Vec<FarItem>,
}

#[derive(Debug, Deserialize)]
pub(super) struct FarItem {
    pub(super) output: Box<RawValue>,
}

/// The message of an error document, or the start of any other body.
pub(super) fn refusal(body: &[u8], longest: usize) -> String {
    #[derive(Deserialize)]
    struct Problem {
        error: Option<String>,
        detail: Option<String>,
    }
    let problem: Option<Problem> = serde_json::from_slice(body).ok();
    let text = problem.and_then(|problem| problem.error.or(problem.detail));
    let text = text.unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
    text.chars().take(longest).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::{CallerMistake, Handover, Policy, Request};

    fn outcome(body: &str) -> Outcome {
        FarJob::parse(body.as_bytes()).unwrap().outcome()
    }

    #[test]
    fn a_job_without_an_error_text_that_has_failed_is_no_success() {
        for status in ["FAILED", "TIMED_OUT"] {
            let error = outcome(&format!(r#"{{"id": "f", "status": "{status}"}}"#)).ending.error;
            assert_eq!(error, Some(format!("the job is {status} and has no error text")));
        }
        let completed = outcome(r#"{"status": "COMPLETED", "output": {"n": 1.50}, "executionTime": 20}"#);
        assert_eq!((completed.ending.output.unwrap().get(), completed.ending.error), (r#"{"n": 1.50}"#, None));
    }

    #[test]
    fn a_timeout_is_known_by_state_and_by_text() {
        for (body, timed_out) in [
            (r#"{"status": "TIMED_OUT", "error": "late"}"#, true),
            (r#"{"status": "FAILED", "error": "executionTimeout exceeded"}"#, true),
            (r#"{"status": "FAILED", "error": "{\"error_type\":\"timeout\"}"}"#, true),
            (r#"{"status": "FAILED", "error": "bad input"}"#, false),
        ] {
            assert_eq!(outcome(body).timed_out, timed_out, "{body}");
        }
    }

    #[test]
    fn a_mistake_of_the_caller_is_known_by_the_type_of_the_error() {
        for (body, mistake) in [
            (
                r#"{"status": "FAILED", "error": "{\"error_type\":\"validation\",\"error_message\":\"m\"}"}"#,
                Some(CallerMistake::Validation),
            ),
            (
                r#"{"status": "FAILED", "error": "{\"error_type\":\"model_not_found\"}"}"#,
                Some(CallerMistake::ModelNotFound),
            ),
            (r#"{"status": "FAILED", "error": "{\"error_type\":\"oom\"}"}"#, None),
            (r#"{"status": "COMPLETED", "error": "{\"error_type\":\"validation\"}"}"#, None),
        ] {
            assert_eq!(outcome(body).mistake, mistake, "{body}");
        }
    }

    #[test]
    fn a_submission_that_is_repeated_is_the_same_to_the_byte_and_the_next_hand_over_is_another() {
        let request_at = |nanos: u64| {
            let (submitted, delay) = (Duration::from_nanos(7_000_900_000 + nanos), Duration::from_nanos(2_000_300_000));
            let handover = Handover { number: 1, since: submitted + delay };
            TakenJob { id: "j".into(), attempt: 2, handover, submitted, delay, request: request() }
        };
        // What is written down are milliseconds: 7.000 and 9.001 s.
        let since = Duration::from_millis(9001);
        let handover = Handover { number: 1, since };
        let kept = TakenJob { submitted: Duration::from_secs(7), handover, ..request_at(0) };
        let taken = request_at(0);
        let body = |job: &TakenJob| serde_json::to_string(&RunRequest::from(job)).unwrap();
        assert_eq!((body(&taken), submission_key(&taken)), (body(&kept), submission_key(&kept)));
        assert!(body(&taken).contains(r#""ttl":57999"#), "{}", body(&taken));
        let next_attempt = TakenJob { attempt: 3, delay: Duration::from_secs(20), ..request_at(0) };
        assert_eq!((body(&next_attempt), submission_key(&next_attempt)), (body(&taken), submission_key(&taken)));
        let handover = Handover { number: 2, since };
        let later = [TakenJob { handover, ..request_at(0) }, request_at(1_000_000)];
        assert!(later.iter().all(|job| submission_key(job) != submission_key(&taken)));
    }

    fn request() -> Request {
        Request {
            input: Arc::from(RawValue::from_string("1".to_owned()).unwrap()),
            s3_config: None,
            webhook: None,
            traceparent: None,
            batch: None,
            policy: Policy { ttl: Duration::from_secs(60), ..Policy::default() },
            retention: Duration::from_secs(60),
            idempotency: None,
            share: None,
        }
    }

    #[test]
    fn an_error_that_a_worker_of_its_own_would_report_before_its_first_job_is_final_here() {
        let ended = outcome(r#"{"status": "FAILED", "error": "{\"event\":\"prestart_cancelled\"}", "stopPod": true}"#);
        assert_eq!((ended.not_begun, ended.refresh), (None, false));
    }

    #[test]
    fn progress_is_the_output_of_a_job_that_runs() {
        let running = FarJob::parse(br#"{"status": "IN_PROGRESS", "output": {"pct": 40}}"#).unwrap();
        assert_eq!(running.progress().map(|output| output.get()), Some(r#"{"pct": 40}"#));
        assert!(FarJob::parse(br#"{"status": "IN_QUEUE"}"#).unwrap().progress().is_none());
        assert!(FarJob::parse(br#"{"status": "SOMETHING"}"#).is_err());
    }
}
