use serde_json::Value;

use super::super::capture::Capture;
use super::super::limits::MAX_TEXT_LEN;
use super::super::{job_tags, redact};
use super::*;

#[test]
fn json_lines_have_the_platforms_keys_first() {
    let (log, _guard) = Capture::start(LogFormat::Json, "w-1");
    tracing::info!(job = "j-1", process = 0, stream = "stderr", ratio = 0.5, ok = true, "Grüße \"x\"\nzwei");
    tracing::warn!("no job");
    assert_eq!(
        log.text(),
        concat!(
            r#"{"requestId":"j-1","message":"Grüße \"x\"\nzwei","level":"INFO","worker":"w-1","process":0,"#,
            r#""stream":"stderr","ratio":0.5,"ok":true}"#,
            "\n",
            r#"{"requestId":null,"message":"no job","level":"WARN","worker":"w-1"}"#,
            "\n",
        )
    );
}

#[test]
fn text_lines_name_the_job_when_there_is_one() {
    let (log, _guard) = Capture::start(LogFormat::Text, "w-1");
    tracing::error!(job = %"j-1", code = 3, reason = "two words", kind = "oom", "It broke.");
    tracing::debug!("plain");
    assert_eq!(log.text(), "ERROR  | j-1 | It broke. code=3 reason=\"two words\" kind=oom\nDEBUG  | plain\n");
}

#[test]
fn spans_lend_their_job_and_fields_to_events() {
    let (log, _guard) = Capture::start(LogFormat::Text, "w-1");
    let span = tracing::info_span!("job", job = "j-2", attempt = 1, phase = tracing::field::Empty);
    span.record("phase", "gpu");
    span.in_scope(|| {
        tracing::info!("inherited");
        tracing::info!(job = "j-3", attempt = 2, "own");
    });
    tracing::info!("outside");
    assert_eq!(
        log.text(),
        "INFO   | j-2 | inherited attempt=1 phase=gpu\nINFO   | j-3 | own attempt=2 phase=gpu\nINFO   | outside\n"
    );
}

#[test]
fn secrets_are_masked_in_messages_and_fields_even_across_the_cut() {
    redact::add("s3cr3t-value");
    let (log, _guard) = Capture::start(LogFormat::Json, "w-1");
    tracing::info!(url = "http://x/?k=s3cr3t-value", error = ?"s3cr3t-value", "key s3cr3t-value");
    for offset in 2000..2032 {
        tracing::info!("{}s3cr3t-value{}", "x".repeat(offset), "y".repeat(4000));
    }
    assert!(!log.text().contains("s3cr3t"), "{}", log.text());
    assert!(log.text().starts_with(r#"{"requestId":null,"message":"key ***","#));
}

#[test]
fn lines_of_a_job_carry_its_batch_and_its_trace() {
    let tags = job_tags::JobTags { batch: Some("b-7".to_owned()), trace_id: Some("0af7".to_owned()) };
    job_tags::open_job("j-tagged", tags);
    let (log, _guard) = Capture::start(LogFormat::Json, "w-1");
    tracing::info!(job = "j-tagged", "Started.");
    tracing::info!(job = "j-tagged", "{}", "x".repeat(9000));
    job_tags::close_job("j-tagged");
    tracing::info!(job = "j-tagged", "over");
    let text = log.text();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(
        lines[0],
        r#"{"requestId":"j-tagged","message":"[batchId=b-7] Started.","level":"INFO","worker":"w-1","trace_id":"0af7"}"#
    );
    let long: Value = serde_json::from_str(lines[1]).unwrap();
    let message = long["message"].as_str().unwrap();
    assert!(message.starts_with("[batchId=b-7] xxx") && message.chars().count() <= MAX_TEXT_LEN, "{message}");
    assert!(!lines[2].contains("b-7") && !lines[2].contains("0af7"));
}

#[test]
fn libraries_are_quiet_below_warn() {
    let (log, _guard) = Capture::start(LogFormat::Text, "w-1");
    tracing::info!(target: "hyper::client", "noise");
    tracing::warn!(target: "hyper::client", "trouble");
    tracing::debug!(target: "handler", "from the handler");
    assert_eq!(log.text(), "WARN   | trouble\nDEBUG  | from the handler\n");
}
