//! What is posted to the queue (RunPod's worker protocol). Payloads are wrapped, never parsed.

use bytes::Bytes;
use serde::Serialize;

use super::result_body::{ResultBody, STOP_POD};
use crate::base::{Identity, VERSION};
use runpod_worker_core::{FinalResult, JobCost};

/// The JSON text inside `error`: the six fields of RunPod's SDK, all strings.
#[derive(Serialize)]
struct ErrorText<'a> {
    error_type: &'a str,
    error_message: &'a str,
    error_traceback: &'a str,
    hostname: &'a str,
    worker_id: &'a str,
    runpod_version: &'a str,
}

/// What the job has used up, beside `output` or `error`, where the platform does not look.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Cost {
    gpu_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    dollars: Option<f64>,
}

/// The job-done body of a final result.
pub fn result_body(result: &FinalResult, identity: &Identity) -> ResultBody {
    let mut end = Vec::new();
    if let Some(JobCost { gpu_time, dollars }) = result.cost {
        end.extend_from_slice(b",\"cost\":");
        end.extend_from_slice(json_text(&Cost { gpu_seconds: gpu_time.as_secs_f64(), dollars }).as_bytes());
    }
    end.extend_from_slice(if result.stop_pod { STOP_POD } else { b"}" });
    match &result.result {
        Ok(output) if output.is_empty() || output.as_ref() == b"null" => {
            // A streamed job without an output of its own ends with an empty list, as RunPod's SDK has it.
            let nothing: &'static [u8] = if result.streamed { b"[]" } else { b"null" };
            ResultBody::new(b"{\"output\":", &Bytes::from_static(nothing), &end)
        }
        Ok(output) => ResultBody::new(b"{\"output\":", output, &end),
        Err(report) => {
            let text = ErrorText {
                error_type: report.kind.as_str(),
                error_message: &report.message,
                error_traceback: &report.traceback,
                hostname: &identity.hostname,
                worker_id: &identity.worker_id,
                runpod_version: VERSION,
            };
            ResultBody::new(b"{\"error\":", &json_text(&json_text(&text)).into(), &end)
        }
    }
}

/// The job-done body of a result that an earlier run has left: the fresh worker that it may ask for is here.
pub fn without_stop_pod(body: &Bytes) -> Bytes {
    match body.strip_suffix(STOP_POD) {
        Some(rest) => [rest, b"}"].concat().into(),
        None => body.clone(),
    }
}

/// Strings and structs of strings always have a JSON form, so the fallback is never seen.
fn json_text(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| "\"\"".to_owned())
}

/// The job-stream body of one item.
pub fn chunk_body(item: &[u8]) -> Bytes {
    [b"{\"output\":", item, b"}"].concat().into()
}

/// The job-done body of a progress update.
pub fn progress_body(progress: &[u8]) -> Bytes {
    [b"{\"status\":\"IN_PROGRESS\",\"output\":", progress, b"}"].concat().into()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use runpod_handler_protocol::{ErrorKind, ErrorReport};
    use serde_json::{Value, json};

    use super::*;

    fn identity() -> Identity {
        Identity { worker_id: "w1".into(), hostname: "h1".into(), endpoint_id: None }
    }

    fn body_of(result: Result<&'static str, ErrorReport>, streamed: bool, stop_pod: bool) -> String {
        let result = FinalResult {
            result: result.map(|text| Bytes::from_static(text.as_bytes())),
            streamed,
            stop_pod,
            cost: None,
        };
        String::from_utf8(result_body(&result, &identity()).whole().to_vec()).unwrap()
    }

    #[test]
    fn outputs_are_wrapped_unparsed() {
        assert_eq!(body_of(Ok(r#"{"error": "mine"}"#), false, false), r#"{"output":{"error": "mine"}}"#);
        assert_eq!(body_of(Ok("7"), false, true), r#"{"output":7,"stopPod":true}"#);
        assert_eq!(body_of(Ok(""), false, false), r#"{"output":null}"#);
        assert_eq!(body_of(Ok("null"), true, false), r#"{"output":[]}"#);
        assert_eq!(body_of(Ok("[1]"), true, false), r#"{"output":[1]}"#);
    }

    #[test]
    fn a_result_of_an_earlier_run_does_not_ask_for_a_fresh_worker_again() {
        for (body, expected) in [
            (r#"{"output":7,"stopPod":true}"#, r#"{"output":7}"#),
            (r#"{"output":{"a":1,"stopPod":true}}"#, r#"{"output":{"a":1,"stopPod":true}}"#),
            (r#"{"output":7}"#, r#"{"output":7}"#),
        ] {
            assert_eq!(without_stop_pod(&Bytes::from_static(body.as_bytes())), expected);
        }
    }

    #[test]
    fn errors_carry_six_strings_in_a_string() {
        let report = ErrorReport { kind: ErrorKind::Oom, message: "a \"b\"\n".into(), traceback: "at x".into() };
        let body: Value = serde_json::from_str(&body_of(Err(report), false, true)).unwrap();
        assert_eq!(body["stopPod"], json!(true));
        let error: Value = serde_json::from_str(body["error"].as_str().unwrap()).unwrap();
        let expected = json!({
            "error_type": "oom", "error_message": "a \"b\"\n", "error_traceback": "at x",
            "hostname": "h1", "worker_id": "w1", "runpod_version": VERSION,
        });
        assert_eq!(error, expected);
    }

    #[test]
    fn what_a_job_has_used_up_stands_beside_its_output() {
        let cost = |dollars| Some(JobCost { gpu_time: Duration::from_millis(1500), dollars });
        let mut result = FinalResult { result: Ok("7".into()), streamed: false, stop_pod: true, cost: cost(Some(0.5)) };
        let expected = r#"{"output":7,"cost":{"gpuSeconds":1.5,"dollars":0.5},"stopPod":true}"#;
        assert_eq!(result_body(&result, &identity()), expected);
        result.cost = cost(None);
        assert_eq!(result_body(&result, &identity()), r#"{"output":7,"cost":{"gpuSeconds":1.5},"stopPod":true}"#);
    }

    #[test]
    fn chunks_and_progress_have_their_own_shape() {
        assert_eq!(chunk_body(b"[1]").as_ref(), br#"{"output":[1]}"#);
        assert_eq!(progress_body(b"0.5").as_ref(), br#"{"status":"IN_PROGRESS","output":0.5}"#);
    }
}
