//! Any bytes as an answer of the queue: no panic; every job has an id that can be used; a body is one JSON object, cut out of
//! the answer unchanged; text that is not JSON never runs.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use runpod_worker::base::{IdError, check_id};
use runpod_worker::queue::wire::{stop_reply, take_reply, unusable};
use runpod_worker::queue::{StopReply, TakeReply};

fn check(answer: &Bytes, reply: TakeReply) -> usize {
    let TakeReply::Jobs(jobs) = reply else { return 0 };
    assert!(!jobs.is_empty(), "no jobs is not an answer with jobs");
    let whole: Result<serde_json::Value, _> = serde_json::from_slice(answer);
    let mut runnable = 0;
    for job in jobs {
        let usable = check_id(job.id.as_str());
        assert!(usable.is_ok() || job.body.is_err(), "a job with such an id is not run");
        assert!(usable.map_or_else(IdError::is_addressable, |()| true), "its result reaches the queue");
        if let Some(trace) = &job.traceparent {
            assert!(trace.bytes().all(|byte| byte.is_ascii_graphic()));
        }
        let Ok(body) = job.body else { continue };
        runnable += 1;
        let range = answer.as_ptr_range();
        assert!(range.contains(&body.as_ptr()), "a body is a part of the answer, not a copy");
        assert!(body.starts_with(b"{") && body.ends_with(b"}"));
        if let Ok(serde_json::Value::Object(_) | serde_json::Value::Array(_)) = &whole {
            let alone: serde_json::Value = serde_json::from_slice(&body).expect("a part of good JSON is good JSON");
            assert_eq!(alone["id"].as_str(), Some(job.id.as_str()));
        }
    }
    runnable
}

fuzz_target!(|input: &[u8]| {
    let answer = Bytes::copy_from_slice(input);
    check(&answer, take_reply(&answer, 16));
    assert_eq!(check(&answer, unusable(&answer, "of its media type", 16)), 0, "an answer that cannot be used runs nothing");
    if let StopReply::Stop(ids) = stop_reply(&answer) {
        assert!(!ids.is_empty() && ids.iter().all(|id| check_id(id.as_str()).is_ok()));
    }
});
