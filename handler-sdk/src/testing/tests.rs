mod devices;
mod jobs;
mod steps;

use serde_json::json;

use super::*;
use crate::{Check, ErrorKind, Handler, HandlerError, Job, LoadEnv, NoChunks};

struct Counter {
    jobs: u32,
}

impl Handler for Counter {
    type Input = u32;
    type Output = u32;
    type Chunk = u32;

    fn load(_: &LoadEnv) -> Result<Self, HandlerError> {
        Ok(Self { jobs: 0 })
    }

    fn run(&mut self, input: u32, job: &Job<u32>) -> Result<u32, HandlerError> {
        self.jobs += 1;
        assert_ne!(input, 13, "thirteen");
        for number in 0..input {
            job.emit(number)?;
        }
        job.progress(input);
        job.record("items", f64::from(input));
        if job.field::<bool>("tired")?.unwrap_or(false) {
            job.request_refresh();
        }
        Ok(self.jobs)
    }
}

struct Broken;

impl Handler for Broken {
    type Input = u32;
    type Output = u32;
    type Chunk = NoChunks;

    fn checks(_: &LoadEnv) -> Vec<Check> {
        vec![Check::new("weights", || Err("no weights".into())).fix("fetch them")]
    }

    fn load(_: &LoadEnv) -> Result<Self, HandlerError> {
        Err("no weights".into())
    }

    fn run(&mut self, _: u32, _: &Job<Self::Chunk>) -> Result<u32, HandlerError> {
        Ok(0)
    }
}

#[test]
fn a_finished_job_has_output_chunks_progress_and_records() {
    let mut counter = Harness::load::<Counter>().unwrap();
    let first = counter.run_job(&json!({ "input": 3, "tired": true })).unwrap();
    assert_eq!((first.output, first.chunks), (json!(1), vec![json!(0), json!(1), json!(2)]));
    assert_eq!((first.progress, first.records["items"], first.refresh), (Some(json!(3)), 3.0, true));
    assert_eq!(counter.run(&json!(0)).unwrap().output, json!(2));
}

#[test]
fn a_failure_is_the_error_that_the_caller_would_receive_and_the_next_job_runs() {
    let mut counter = Harness::load::<Counter>().unwrap();
    let refused = counter.run(&json!("three")).unwrap_err();
    assert_eq!(refused.kind(), Some(ErrorKind::Validation));
    let panicked = counter.run(&json!(13)).unwrap_err();
    assert!(panicked.to_string().contains("thirteen"), "{panicked}");
    assert_eq!(counter.run(&json!(0)).unwrap().output, json!(1), "a panic loads the model again");
}

#[test]
fn the_error_of_a_failed_load_names_the_reason() {
    let error = Harness::load::<Broken>().unwrap_err();
    assert!(error.to_string().contains("no weights"), "{error}");
}

#[test]
fn checks_are_run_without_loading() {
    let reports = Setup::new().checks::<Broken>().unwrap();
    assert_eq!((reports[0].name.as_str(), reports[0].status), ("weights", CheckStatus::Failed));
    assert_eq!(reports[0].reason(), "no weights: fetch them");
}
