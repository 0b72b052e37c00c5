//! The test handler as one that advances jobs step by step. Each job does what its input asks in its second step; some take part in
//! many steps.

use std::thread::sleep;
use std::time::Duration;

use runpod_handler_sdk::{Check, Handler, HandlerError, Job, LoadEnv, Running, StepHandler, StepLimits};
use serde_json::{Value, json};

use crate::{Do, Puppet, WAITS, start};

/// Most running jobs.
const MAX_RUNNING: u32 = 16;

pub(crate) struct Step {
    puppet: Puppet,
    /// Steps so far.
    steps: u64,
}

pub(crate) struct Sequence {
    input: Do,
    taken: u64,
    /// The number of its first step.
    first: u64,
}

impl StepHandler for Step {
    type Input = Do;
    type Output = Value;
    type Chunk = Value;
    type Sequence = Sequence;

    const VERSION: &'static str = env!("CARGO_PKG_VERSION");

    fn limits() -> StepLimits {
        StepLimits::running(MAX_RUNNING)
    }

    fn checks(_: &LoadEnv) -> Vec<Check> {
        vec![start::check()]
    }

    fn load(env: &LoadEnv) -> Result<Self, HandlerError> {
        Ok(Self { puppet: Puppet::load(env)?, steps: 0 })
    }

    fn admit(&mut self, input: Do, job: &Job<Value>) -> Result<Sequence, HandlerError> {
        if let Do::Validation = input {
            self.puppet.run(input.clone(), job)?;
        }
        Ok(Sequence { input, taken: 0, first: 0 })
    }

    fn step(&mut self, running: &mut [Running<Self>]) -> Result<(), HandlerError> {
        self.steps += 1;
        sleep(Duration::from_millis(1));
        for index in 0..running.len() {
            let sequence = &mut running[index].sequence;
            sequence.taken += 1;
            if sequence.taken == 1 {
                sequence.first = self.steps;
            }
            let (taken, first, input) = (sequence.taken, sequence.first, sequence.input.clone());
            let report = json!({"first": first, "last": self.steps});
            match input {
                // The first step goes on until the file exists, or any job is stopped. The second one is the last.
                Do::WaitFor { path } if taken == 1 => {
                    let _ = std::fs::write(path.with_extension(WAITS), "");
                    while !path.exists() && running.iter().all(|one| !one.job.is_stopped()) {
                        sleep(Duration::from_millis(1));
                    }
                }
                Do::WaitFor { .. } => running[index].finish(report),
                Do::CheckCancel => {}
                Do::Stream { n } => {
                    let one = &mut running[index];
                    if let Err(error) = one.job.emit(json!(self.steps)) {
                        one.fail(error);
                    } else if taken == n {
                        one.finish(report);
                    }
                }
                _ if taken == 1 => {}
                input => {
                    let output = self.puppet.run(input, &running[index].job)?;
                    running[index].finish(output);
                }
            }
        }
        Ok(())
    }
}
