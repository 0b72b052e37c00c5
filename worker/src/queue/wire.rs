//! What the queue's replies mean (RunPod's worker protocol). Payloads pass through unparsed.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use runpod_handler_protocol::MAX_PAYLOAD_LEN;
use runpod_log_line::printable;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::limits::{MAX_BATCH_ID_LEN, MAX_TRACEPARENT_LEN};
use super::{RequestError, StopReply, TakeReply};
use crate::base::{IdError, check_id};
use crate::logs::redact;
use runpod_worker_core::{JobId, TakenJob};

/// The parts of a job that the worker itself reads.
#[derive(Deserialize)]
struct Job<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    policy: Option<&'a RawValue>,
    #[serde(borrow)]
    traceparent: Option<&'a RawValue>,
    #[serde(borrow, rename = "batchId")]
    batch_id: Option<&'a RawValue>,
    #[serde(borrow, rename = "delayTime")]
    delay_time: Option<&'a RawValue>,
    #[serde(borrow, rename = "s3Config")]
    s3_config: Option<&'a RawValue>,
}

/// Reads the body of a successful job-take or job-take-batch: an object, an array of objects, or no job at all.
/// A bad element does not affect the others. A reply that is not JSON fails the jobs whose ids can still be read.
///
/// At most `limit` jobs are taken. No heartbeat lists the others, so the queue gives them out again.
pub fn take_reply(body: &Bytes, limit: usize) -> TakeReply {
    let body = body.slice(without_bom(body)..);
    let text = match std::str::from_utf8(&body) {
        Ok(text) => text.trim_ascii(),
        Err(error) => return unusable(&body, &format!("it is not text ({error})"), limit),
    };
    let elements: Vec<&str> = match text.as_bytes().first() {
        None => return TakeReply::Nothing,
        Some(b'{') => vec![text],
        Some(b'[') => match serde_json::from_str::<Vec<&RawValue>>(text) {
            Ok(elements) => elements.into_iter().map(RawValue::get).collect(),
            Err(error) => return unusable(&body, &format!("it is not a list of jobs ({error})"), limit),
        },
        Some(_) => match serde_json::from_str::<IgnoredAny>(text) {
            Ok(_) => return TakeReply::Nothing,
            Err(error) => return unusable(&body, &format!("it is not JSON ({error})"), limit),
        },
    };
    if elements.is_empty() {
        return TakeReply::Nothing;
    }
    report_surplus(elements.len(), limit);
    let mut jobs = Vec::new();
    let mut problem = String::new();
    for element in elements.into_iter().take(limit) {
        let job = serde_json::from_str(element);
        // Elements of a list are known to be JSON. Of a single job, which may be large, only this shows it.
        if let Err(error) = &job
            && !error.is_data()
        {
            return unusable(&body, &format!("it is not JSON ({error})"), limit);
        }
        match read_job(&body, element, job) {
            Ok(job) => jobs.push(job),
            Err(reason) => {
                tracing::error!(
                    reason,
                    "The queue sent a job that can be neither run nor answered, because of its id. It is ignored."
                );
                problem = reason;
            }
        }
    }
    if jobs.is_empty() { failed(problem) } else { TakeReply::Jobs(jobs) }
}

/// The meaning of a reply that cannot be read as a whole: the jobs whose ids can be recovered fail with the reason, at most
/// `limit` of them.
pub fn unusable(body: &[u8], reason: &str, limit: usize) -> TakeReply {
    let (ids, found) = recover_ids(body, limit);
    report_surplus(found, limit);
    let jobs: Vec<TakenJob> = ids
        .into_iter()
        .map(|id| TakenJob::new(id, Err(format!("the queue's reply with this job cannot be used: {reason}"))))
        .collect();
    if jobs.is_empty() { failed(reason.to_owned()) } else { TakeReply::Jobs(jobs) }
}

fn report_surplus(sent: usize, limit: usize) {
    if sent > limit {
        let refused = sent - limit;
        tracing::warn!(
            sent,
            refused,
            "The queue sent far more jobs than were asked for. The rest is refused and left to the queue."
        );
    }
}

fn failed(reason: String) -> TakeReply {
    TakeReply::Failed { error: RequestError::Unusable(reason), retry_after: None }
}

/// The length of the byte order mark, if there is one.
fn without_bom(body: &[u8]) -> usize {
    if body.starts_with(b"\xEF\xBB\xBF") { 3 } else { 0 }
}

fn read_job(reply: &Bytes, text: &str, job: serde_json::Result<Job<'_>>) -> Result<TakenJob, String> {
    if !text.starts_with('{') {
        return Err("a job must be a JSON object".to_owned());
    }
    let job = match job {
        Ok(job) => job,
        Err(error) => {
            let id = recover_ids(text.as_bytes(), 1).0.pop().ok_or_else(|| error.to_string())?;
            return Ok(TakenJob::new(id, Err(error.to_string())));
        }
    };
    let id = job.id.ok_or_else(|| "it has no `id`".to_owned())?;
    let (id, is_text) = read_id(id)?;
    let usable = check_id(id.as_str());
    let body = if let Err(error) = usable {
        Err(format!("the job's `id` {error}"))
    } else if !is_text {
        Err("the job's `id` is not a string: the queue must send it as one".to_owned())
    } else if text.len() > MAX_PAYLOAD_LEN {
        Err(format!("the job has {} bytes, over the limit of {MAX_PAYLOAD_LEN}: pass large data by URL", text.len()))
    } else {
        Ok(reply.slice_ref(text.as_bytes()))
    };
    if let Some(config) = job.s3_config {
        redact_credentials(config);
    }
    Ok(TakenJob {
        timeout: job.policy.and_then(execution_timeout),
        traceparent: job.traceparent.and_then(traceparent),
        batch: job.batch_id.and_then(batch),
        waited: job.delay_time.and_then(millis),
        ..TakenJob::new(id, body)
    })
}

/// The id, and whether it was a string as it must be.
fn read_id(raw: &RawValue) -> Result<(JobId, bool), String> {
    let (text, is_text) = match serde_json::from_str(raw.get()) {
        Ok(Value::String(text)) => (text, true),
        Ok(Value::Number(number)) => (number.to_string(), false),
        _ => return Err("its `id` is not a string".to_owned()),
    };
    match check_id(&text) {
        Err(error) if !error.is_addressable() => Err(format!("its `id` {error}")),
        Ok(()) | Err(_) => Ok((JobId::from(text), is_text)),
    }
}

/// Whether a result of a job with this id reaches the queue.
fn is_addressable(id: &str) -> bool {
    check_id(id).map_or_else(IdError::is_addressable, |()| true)
}

/// `policy.executionTimeout`, in milliseconds. It is unknown whether the platform forwards it; our own endpoint does.
fn execution_timeout(policy: &RawValue) -> Option<Duration> {
    #[derive(Deserialize)]
    struct Policy<'a> {
        #[serde(borrow, rename = "executionTimeout")]
        execution_timeout: Option<&'a RawValue>,
    }
    let policy: Policy<'_> = serde_json::from_str(policy.get()).ok()?;
    policy.execution_timeout.and_then(millis).filter(|timeout| !timeout.is_zero())
}

/// A number of milliseconds.
fn millis(raw: &RawValue) -> Option<Duration> {
    let millis: Value = serde_json::from_str(raw.get()).ok()?;
    let millis = millis.as_u64().or_else(|| millis.as_f64().filter(|value| *value >= 0.0).map(|value| value as u64))?;
    Some(Duration::from_millis(millis))
}

/// `batchId`, if it is a short text. RunPod's SDK takes any value that is not empty.
fn batch(raw: &RawValue) -> Option<String> {
    let text: String = serde_json::from_str(raw.get()).ok()?;
    (1..=MAX_BATCH_ID_LEN).contains(&text.len()).then(|| printable(&text).into_owned())
}

/// Adds the bucket's credentials, which come with the job, to what is redacted: the handler may print them.
fn redact_credentials(config: &RawValue) {
    let Ok(config) = serde_json::from_str::<BTreeMap<String, Value>>(config.get()) else { return };
    let secret = |name: &str| redact::is_secret_name(name) || name == "accessId";
    config.iter().filter(|(name, _)| secret(name)).filter_map(|(_, value)| value.as_str()).for_each(redact::add_of_job);
}

fn traceparent(raw: &RawValue) -> Option<String> {
    let text: String = serde_json::from_str(raw.get()).ok()?;
    (text.len() <= MAX_TRACEPARENT_LEN && text.bytes().all(|byte| byte.is_ascii_graphic())).then_some(text)
}

/// Collects the `id` of every object read before the text stops being JSON, at most `limit` of them, and counts them all.
fn recover_ids(body: &[u8], limit: usize) -> (Vec<JobId>, usize) {
    let (mut ids, mut found) = (Vec::new(), 0);
    let mut reader = serde_json::Deserializer::from_slice(body);
    // The error is known already; the ids that were read before it are wanted.
    let _ = IdCollector { ids: &mut ids, found: &mut found, limit, list_allowed: true }.deserialize(&mut reader);
    (ids, found)
}

struct IdCollector<'a> {
    ids: &'a mut Vec<JobId>,
    found: &'a mut usize,
    limit: usize,
    list_allowed: bool,
}

impl<'de> DeserializeSeed<'de> for IdCollector<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for IdCollector<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a job or a list of jobs")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut found = false;
        while let Some(key) = map.next_key::<String>()? {
            if key != "id" || found {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let text = match map.next_value::<Value>()? {
                Value::String(text) => text,
                Value::Number(number) => number.to_string(),
                _ => continue,
            };
            if is_addressable(&text) {
                found = true;
                *self.found += 1;
                if self.ids.len() < self.limit {
                    self.ids.push(JobId::from(text));
                }
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        if !self.list_allowed {
            return Err(serde::de::Error::custom("a list inside the list"));
        }
        let Self { ids, found, limit, .. } = self;
        loop {
            let element = IdCollector { ids: &mut *ids, found: &mut *found, limit, list_allowed: false };
            if list.next_element_seed(element)?.is_none() {
                return Ok(());
            }
        }
    }
}

/// Reads the body of a successful job-stop reply. A body that is not `{"jobsToStop": ["id", …]}` stops nothing.
pub fn stop_reply(body: &[u8]) -> StopReply {
    let Ok(reply) = serde_json::from_slice::<Value>(&body[without_bom(body)..]) else {
        return StopReply::Nothing;
    };
    let Some(listed) = reply.get("jobsToStop").and_then(Value::as_array) else {
        return StopReply::Nothing;
    };
    let ids: Vec<JobId> =
        listed.iter().filter_map(Value::as_str).filter(|id| check_id(id).is_ok()).map(JobId::from).collect();
    if ids.len() < listed.len() {
        tracing::warn!(
            ignored = listed.len() - ids.len(),
            "The stop channel listed values that are not job ids. They are ignored."
        );
    }
    if ids.is_empty() { StopReply::Nothing } else { StopReply::Stop(ids) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(body: &str) -> TakeReply {
        take_reply(&Bytes::copy_from_slice(body.as_bytes()), 100)
    }

    fn jobs(body: &str) -> Vec<TakenJob> {
        match take(body) {
            TakeReply::Jobs(jobs) => jobs,
            other => panic!("expected jobs, got {other:?}"),
        }
    }

    /// `id: body` or `id! reason` for each job.
    fn seen(body: &str) -> Vec<String> {
        jobs(body)
            .into_iter()
            .map(|job| match job.body {
                Ok(body) => format!("{}: {}", job.id, String::from_utf8(body.to_vec()).unwrap()),
                Err(_) => format!("{}!", job.id),
            })
            .collect()
    }

    #[test]
    fn a_job_passes_through_byte_for_byte() {
        let text = r#"{"input" : {"n":1.50, "s":"\ud800"},"id":"j1","webhook":null,"extra":[1e400]}"#;
        assert_eq!(seen(&format!(" {text}\n")), [format!("j1: {text}")]);
        assert_eq!(seen(&format!("\u{feff}{text}")), [format!("j1: {text}")]);
    }

    #[test]
    fn arrays_and_objects_are_both_taken() {
        assert_eq!(
            seen(r#"[{"id":"a","input":1}, {"id":"b","input":2}]"#),
            [r#"a: {"id":"a","input":1}"#, r#"b: {"id":"b","input":2}"#]
        );
        assert_eq!(seen(r#"[{"id":"a","input":1}]"#).len(), 1);
    }

    #[test]
    fn far_more_jobs_than_were_asked_for_are_refused() {
        let list: Vec<String> = (0..1000).map(|n| format!(r#"{{"id":"j{n}"}}"#)).collect();
        let whole = format!("[{}]", list.join(","));
        let cut = whole[..whole.len() - 3].to_owned();
        for body in [whole, cut] {
            let TakeReply::Jobs(jobs) = take_reply(&Bytes::from(body), 3) else { panic!("no jobs") };
            let ids: Vec<&str> = jobs.iter().map(|job| job.id.as_str()).collect();
            assert_eq!(ids, ["j0", "j1", "j2"]);
        }
    }

    #[test]
    fn input_may_be_null_or_missing() {
        assert_eq!(seen(r#"{"id":"j","input":null}"#), [r#"j: {"id":"j","input":null}"#]);
        assert_eq!(seen(r#"{"id":"j"}"#), [r#"j: {"id":"j"}"#]);
    }

    #[test]
    fn no_job_is_no_error() {
        for body in ["", "  ", "null", "[]", "17", "\"x\"", "true", " [ ] "] {
            assert!(matches!(take(body), TakeReply::Nothing), "{body}");
        }
    }

    #[test]
    fn replies_without_a_usable_id_are_errors() {
        let long = format!(r#"{{"id":"{}","input":1}}"#, "x".repeat(crate::base::MAX_ID_LEN + 1));
        let bad = [
            "{}",
            r#"{"input":1}"#,
            r#"{"id":null}"#,
            r#"{"id":""}"#,
            r#"{"id":{}}"#,
            "[1]",
            "[[]]",
            "<html>",
            "{",
            &long,
        ];
        for body in bad {
            assert!(matches!(take(body), TakeReply::Failed { error: RequestError::Unusable(_), .. }), "{body}");
        }
    }

    #[test]
    fn a_job_whose_id_would_change_a_path_or_forge_a_line_is_failed_or_refused() {
        for id in ["../../ping/w1", "a/b", r"a\\b", r"a\nERROR forged", r"\u001b[2J", r"\u202ex"] {
            let reason = jobs(&format!(r#"{{"id":"{id}","input":1}}"#)).remove(0).body.unwrap_err();
            assert!(reason.starts_with("the job's `id` has a character"), "{id}: {reason}");
        }
        for id in [".", ".."] {
            // Its result could only be posted to another address.
            let reply = take(&format!(r#"{{"id":"{id}","input":1}}"#));
            assert!(matches!(reply, TakeReply::Failed { error: RequestError::Unusable(_), .. }), "{id}: {reply:?}");
            // One of several does not keep the others from running.
            assert_eq!(seen(&format!(r#"[{{"id":"{id}"}},{{"id":"b"}}]"#)), [r#"b: {"id":"b"}"#]);
            // A reply that breaks off does not bring it back.
            assert!(matches!(take(&format!(r#"{{"id":"{id}","input":"#)), TakeReply::Failed { .. }));
        }
    }

    #[test]
    fn one_bad_element_does_not_hurt_the_others() {
        assert_eq!(
            seen(r#"[{"id":"a"},{"input":1},7,null,{"id":9},{"id":"b"}]"#),
            [r#"a: {"id":"a"}"#, "9!", r#"b: {"id":"b"}"#]
        );
    }

    #[test]
    fn a_broken_reply_fails_the_jobs_it_names() {
        assert_eq!(seen(r#"{"id":"j1","input":{"a":"#), ["j1!"]);
        assert_eq!(seen(r#"{"input":{"id":"not this"},"id":"j1","x":}"#), ["j1!"]);
        assert_eq!(seen(r#"[{"id":"a","input":1},{"id":"b","input":"#), ["a!", "b!"]);
        assert_eq!(seen(r#"{"id":"j1","id":"j2","input":1}"#), ["j1!"]);
        let not_utf8 = Bytes::from_static(b"{\"id\":\"j1\",\"input\":\"\xff\"}");
        assert!(matches!(take_reply(&not_utf8, 100), TakeReply::Jobs(jobs) if jobs[0].body.is_err()));
    }

    #[test]
    fn a_job_over_the_frame_limit_is_failed_with_the_fix() {
        let body = format!(r#"{{"id":"big","input":"{}"}}"#, "x".repeat(MAX_PAYLOAD_LEN));
        let reason = jobs(&body).remove(0).body.unwrap_err();
        assert!(reason.contains("pass large data by URL"), "{reason}");
    }

    #[test]
    fn execution_timeout_is_in_milliseconds_and_optional() {
        let timeout = |policy: &str| jobs(&format!(r#"{{"id":"j","policy":{policy}}}"#)).remove(0).timeout;
        assert_eq!(timeout(r#"{"executionTimeout":1500}"#), Some(Duration::from_millis(1500)));
        assert_eq!(timeout(r#"{"executionTimeout":1500.0}"#), Some(Duration::from_millis(1500)));
        for none in ["{}", "null", "7", r#""x""#, r#"{"executionTimeout":0}"#, r#"{"executionTimeout":-5}"#] {
            assert_eq!(timeout(none), None, "{none}");
        }
    }

    #[test]
    fn trace_context_is_taken_when_it_is_plain_text() {
        let trace = |value: &str| jobs(&format!(r#"{{"id":"j","traceparent":{value}}}"#)).remove(0).traceparent;
        assert_eq!(trace(r#""00-ab-cd-01""#), Some("00-ab-cd-01".to_owned()));
        for none in ["null", "7", r#""a\nb""#, &format!("\"{}\"", "x".repeat(200))] {
            assert_eq!(trace(none), None);
        }
    }

    #[test]
    fn batch_and_waiting_time_are_read_when_they_make_sense() {
        for delay in [0, 1500] {
            let job = jobs(&format!(r#"{{"id":"j","batchId":"b-1","delayTime":{delay}}}"#)).remove(0);
            assert_eq!((job.batch.as_deref(), job.waited), (Some("b-1"), Some(Duration::from_millis(delay))));
        }
        for (batch, delay) in [("null", "null"), ("7", "\"x\""), ("\"\"", "-1"), ("{}", "[0]")] {
            let job = jobs(&format!(r#"{{"id":"j","batchId":{batch},"delayTime":{delay}}}"#)).remove(0);
            assert_eq!((job.batch, job.waited), (None, None), "{batch} {delay}");
        }
        assert_eq!(jobs(r#"{"id":"j","batchId":"a\nb"}"#).remove(0).batch.as_deref(), Some(r"a\nb"));
    }

    #[test]
    fn credentials_of_a_bucket_are_masked_as_soon_as_the_job_is_here() {
        jobs(
            r#"{"id":"j","s3Config":{"accessId":"AKIA-of-a-job","accessSecret":"s3-secret/of-a-job","bucketName":"bucket-of-a-job"}}"#,
        );
        assert_eq!(redact::clean("AKIA-of-a-job s3-secret/of-a-job bucket-of-a-job"), "*** *** bucket-of-a-job");
    }

    #[test]
    fn stop_lists_are_read_and_everything_else_stops_nothing() {
        let ids = |list: &[&str]| StopReply::Stop(list.iter().map(|id| JobId::from(*id)).collect());
        assert_eq!(stop_reply(br#"{"jobsToStop":["a","b"],"x":1}"#), ids(&["a", "b"]));
        assert_eq!(stop_reply(br#"{"jobsToStop":["a",7,null,"","..","a/b"]}"#), ids(&["a"]));
        for nothing in
            ["", "{}", "[]", "null", "{", r#"{"jobsToStop":"a"}"#, r#"{"jobsToStop":[]}"#, r#"{"jobsToStop":[1]}"#]
        {
            assert_eq!(stop_reply(nothing.as_bytes()), StopReply::Nothing, "{nothing}");
        }
    }
}
