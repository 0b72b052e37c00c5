//! What the worker does for every job, apart from its decisions.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use runpod_handler_protocol::{Decoder, Received, ToHandler, ToSupervisor, encode_header};
use runpod_log_line::LogLine;
use runpod_worker::base::Identity;
use runpod_worker::logs::redact;
use runpod_worker::queue::wire::take_reply;
use runpod_worker::queue::{TakeReply, result_body};
use runpod_worker_core::FinalResult;
use tracing::Level;

/// As long as a real one.
const ID: &str = "0f8fad5b-d9cb-469f-a165-70867728950e-u1";

/// The header of a job for the handler.
pub(crate) fn write_frame(rounds: u32) {
    let run = ToHandler::Run { job: ID.to_owned(), attempt: 1, slot: 0, deadline_ms: 600_000, traceparent: None };
    for _ in 0..rounds {
        black_box(encode_header(black_box(&run), 1_000).expect("the header is short"));
    }
}

/// A result as it comes from the handler.
pub(crate) fn read_frame(rounds: u32) {
    let records = BTreeMap::from([("tokens".to_owned(), 17.0), ("peak_host_bytes".to_owned(), 123_456_789.0)]);
    let done = ToSupervisor::Done { job: ID.to_owned(), attempt: 1, refresh: false, records };
    let payload = text(1_000);
    let mut frame = encode_header(&done, payload.len()).expect("the header is short");
    frame.extend_from_slice(payload.as_bytes());
    let mut decoder = Decoder::<ToSupervisor>::new();
    for _ in 0..rounds {
        decoder.buffer_mut().extend_from_slice(&frame);
        let received = decoder.next().expect("a header within the limit").expect("a whole frame");
        assert!(matches!(black_box(received), Received::Message(..)));
    }
}

/// The answer to job-take with so many jobs.
pub(crate) fn take(jobs: usize, rounds: u32) {
    let job =
        format!(r#"{{"id":"{ID}","input":{},"policy":{{"executionTimeout":600000}},"delayTime":3}}"#, text(1_000));
    let list = format!("[{}]", vec![job.as_str(); jobs].join(","));
    let body = Bytes::from(if jobs == 1 { job } else { list });
    for _ in 0..rounds {
        let reply = black_box(take_reply(black_box(&body), jobs));
        assert!(matches!(reply, TakeReply::Jobs(taken) if taken.len() == jobs));
    }
}

/// The body of job-done.
pub(crate) fn result(bytes: usize, rounds: u32) {
    let result = FinalResult { result: Ok(text(bytes).into()), streamed: false, stop_pod: false, cost: None };
    let identity = Identity { worker_id: "worker-1".into(), hostname: "host-1".into(), endpoint_id: None };
    for _ in 0..rounds {
        black_box(result_body(black_box(&result), &identity));
    }
}

/// The line of a finished job for people.
pub(crate) fn text_line(rounds: u32) {
    with_line(|line| {
        for _ in 0..rounds {
            black_box(black_box(line).text());
        }
    });
}

/// The same for the platform.
pub(crate) fn json_line(rounds: u32) {
    with_line(|line| {
        for _ in 0..rounds {
            black_box(black_box(line).json_without_time());
        }
    });
}

/// The search for secrets in a line.
pub(crate) fn masked(rounds: u32) {
    redact::add("a-key-of-the-platform-0123456789");
    let message = "Finished in 12 ms: https://example.org/results/17?part=2 has the answer for worker-1.";
    for _ in 0..rounds {
        black_box(redact::clean(black_box(message)));
    }
}

fn with_line(work: impl FnOnce(&LogLine<'_>)) {
    let fields = [("attempt", 1.into()), ("seconds", 0.0123.into()), ("slot", 0.into())];
    work(&LogLine {
        time: SystemTime::UNIX_EPOCH + Duration::from_millis(1_769_860_800_250),
        level: Level::INFO,
        job: Some(ID),
        worker: Some("worker-1"),
        message: "Finished.",
        fields: &fields,
    });
}

/// A JSON string of so many bytes.
fn text(bytes: usize) -> String {
    format!("\"{}\"", "x".repeat(bytes - 2))
}
