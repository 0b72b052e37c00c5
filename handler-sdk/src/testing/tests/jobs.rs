//! Jobs that run beside the test: seen, stopped, late, several at once.

use std::time::Duration;

use super::*;
use crate::{BatchHandler, BatchItem, BatchLimits, StopReason};

/// Streams numbers and reports each as progress until it is stopped.
struct Endless;

impl Handler for Endless {
    type Input = u32;
    type Output = u32;
    type Chunk = u32;

    fn load(env: &LoadEnv) -> Result<Self, HandlerError> {
        env.progress("nothing", 0, 1);
        env.progress("more", 1, 1);
        Ok(Self)
    }

    fn run(&mut self, input: u32, job: &Job<u32>) -> Result<u32, HandlerError> {
        for number in 0..input {
            job.emit(number)?;
            job.progress(number);
        }
        loop {
            job.stop_point()?;
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn a_running_job_is_seen_and_cancelled() {
    let mut handler = Harness::load::<Endless>().unwrap();
    assert_eq!(handler.stages(), ["nothing", "more"]);
    let job = handler.submit(&json!(3)).unwrap();
    let seen = handler.wait_until(job, |seen| seen.progress.len() == 3).unwrap();
    assert_eq!(
        (&seen.chunks, &seen.progress),
        (&vec![json!(0), json!(1), json!(2)], &vec![json!(0), json!(1), json!(2)])
    );
    let waited = handler.wait_for(job, Duration::from_millis(5)).unwrap_err();
    assert!(matches!(waited, TestError::StillRunning { .. }), "{waited}");
    handler.cancel(job).unwrap();
    assert_eq!(handler.wait(job).unwrap_err().kind(), Some(ErrorKind::Cancelled));
    assert!(matches!(handler.wait(job), Err(TestError::UnknownJob)));
}

#[test]
fn a_deadline_ends_a_job_and_a_drain_too() {
    let mut handler = Harness::load::<Endless>().unwrap();
    let late = handler.submit(JobRequest::input(&json!(0)).deadline(Duration::from_millis(20))).unwrap();
    assert_eq!(handler.wait(late).unwrap_err().kind(), Some(ErrorKind::Timeout));
    let drained = handler.submit(&json!(0)).unwrap();
    handler.stop(drained, StopReason::Drain).unwrap();
    assert_eq!(handler.wait(drained).unwrap_err().kind(), Some(ErrorKind::Cancelled));
}

#[test]
fn jobs_run_in_as_many_slots_as_there_are() {
    let mut handler = Setup::new().slots(2).load::<Endless>().unwrap();
    let jobs = [handler.submit(&json!(1)).unwrap(), handler.submit(&json!(1)).unwrap()];
    for job in jobs {
        handler.wait_until(job, |seen| !seen.chunks.is_empty()).unwrap();
    }
    for job in jobs {
        handler.cancel(job).unwrap();
        handler.wait(job).unwrap_err();
    }
}

#[test]
fn text_that_is_no_job_and_ids_reach_the_handler() {
    let mut counter = Harness::load::<Counter>().unwrap();
    for text in ["{", "[]", r#"{"input": NaN}"#] {
        let job = counter.submit(JobRequest::raw(text)).unwrap();
        let error = counter.wait(job).unwrap_err();
        assert!(error.kind().is_some(), "{text}: {error}");
    }
    assert_eq!(counter.run(&json!(0)).unwrap().output, json!(1));
}

#[test]
fn waiting_for_what_never_happens_ends_with_the_job() {
    let mut counter = Harness::load::<Counter>().unwrap();
    let job = counter.submit(&json!(1)).unwrap();
    assert!(matches!(counter.wait_until(job, |seen| seen.chunks.len() == 2), Err(TestError::NotSeen)));
}

struct Sizes;

impl BatchHandler for Sizes {
    type Input = String;
    type Output = usize;
    type Chunk = NoChunks;

    fn limits() -> BatchLimits {
        BatchLimits::items(8).wait(Duration::from_secs(60))
    }

    fn load(_: &LoadEnv) -> Result<Self, HandlerError> {
        Ok(Self)
    }

    fn run_batch(
        &mut self,
        items: &[BatchItem<String, NoChunks>],
    ) -> Result<Vec<Result<usize, HandlerError>>, HandlerError> {
        Ok(items.iter().map(|_| Ok(items.len())).collect())
    }
}

#[test]
fn a_batch_forms_from_jobs_of_the_test() {
    let mut handler = Harness::load_batch::<Sizes>().unwrap();
    assert_eq!(handler.slots(), 16);
    let results = handler.run_all(&vec![json!("a"); 8]).unwrap();
    let sizes: Vec<_> = results.into_iter().map(|result| result.unwrap().output).collect();
    assert_eq!(sizes, vec![json!(8); 8], "the batch is full before its time is over");
}

#[test]
fn functions_are_loaded_as_handlers() {
    let mut echo = Harness::load_fn(|input: String, _: &Job<NoChunks>| Ok::<_, HandlerError>(input)).unwrap();
    let mut louder = Harness::load_fn(|input: String, _: &Job<NoChunks>| Ok::<_, HandlerError>(input + "!")).unwrap();
    assert_eq!(echo.run(&json!("hello")).unwrap().output, json!("hello"));
    assert_eq!(louder.run(&json!("hello")).unwrap().output, json!("hello!"));
    assert_eq!(echo.run(&json!(3)).unwrap_err().kind(), Some(ErrorKind::Validation));
}

#[cfg(feature = "async")]
#[test]
fn async_functions_are_loaded_as_handlers() {
    let mut echo = Harness::load_async_fn(|input: String, _| async { Ok::<_, HandlerError>(input) }).unwrap();
    assert_eq!(echo.run(&json!("hello")).unwrap().output, json!("hello"));
}
