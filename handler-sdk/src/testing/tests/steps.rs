//! Jobs that run step by step.

use super::*;
use crate::{Running, StepHandler, StepLimits};

/// Counts up to the input, one number in each step, and streams if the job's field `stream` says so.
struct Counting;

struct Count {
    next: u32,
    last: u32,
    streams: bool,
}

impl StepHandler for Counting {
    type Input = u32;
    type Output = u32;
    type Chunk = u32;
    type Sequence = Count;

    fn limits() -> StepLimits {
        StepLimits::running(4)
    }

    fn load(env: &LoadEnv) -> Result<Self, HandlerError> {
        env.report_device("cpu");
        Ok(Self)
    }

    fn admit(&mut self, last: u32, job: &Job<u32>) -> Result<Count, HandlerError> {
        Ok(Count { next: 1, last, streams: job.field::<bool>("stream")?.unwrap_or(false) })
    }

    fn step(&mut self, running: &mut [Running<Self>]) -> Result<(), HandlerError> {
        FakeDevice::operation(running.len())?;
        for one in running {
            if one.sequence.streams
                && let Err(error) = one.job.emit(one.sequence.next)
            {
                one.fail(error);
                continue;
            }
            if one.sequence.next >= one.sequence.last {
                one.finish(one.sequence.last);
            }
            one.sequence.next += 1;
        }
        Ok(())
    }
}

#[test]
fn a_long_job_runs_beside_short_ones_until_it_is_cancelled() {
    let mut handler = Harness::load_step::<Counting>().unwrap();
    let long = handler.submit(JobRequest::object(&json!({"input": u32::MAX, "stream": true}))).unwrap();
    handler.wait_until(long, |seen| seen.chunks.len() >= 2).unwrap();
    assert_eq!(handler.run(&json!(3)).unwrap().output, json!(3));
    handler.cancel(long).unwrap();
    assert_eq!(handler.wait(long).unwrap_err().kind(), Some(ErrorKind::Cancelled));
}

#[test]
fn a_step_that_runs_out_of_memory_costs_no_job() {
    let device = FakeDevice::new();
    let mut handler = Setup::new().fake_device(&device).load_step::<Counting>().unwrap();
    // A step of one job fits, a step of two does not.
    device.limit_allocation(1);
    let results = handler.run_all(&[json!(50), json!(60), json!(70)]).unwrap();
    let outputs: Vec<_> = results.into_iter().map(|result| result.unwrap().output).collect();
    assert_eq!(outputs, [json!(50), json!(60), json!(70)]);
}
