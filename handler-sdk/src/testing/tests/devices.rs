//! Fake devices under handlers without libtorch; those with it are in `examples/`.

use std::time::Duration;

use super::*;
use crate::{BatchHandler, BatchItem, BatchLimits};

/// Computes in as many operations as its input says.
struct Steps;

impl Handler for Steps {
    type Input = u32;
    type Output = u32;
    type Chunk = NoChunks;

    fn load(env: &LoadEnv) -> Result<Self, HandlerError> {
        env.report_device("cpu");
        Ok(Self)
    }

    fn run(&mut self, input: u32, job: &Job<NoChunks>) -> Result<u32, HandlerError> {
        for _ in 0..input {
            FakeDevice::operation(1)?;
            job.stop_point()?;
        }
        Ok(input)
    }
}

fn steps() -> (FakeDevice, Harness) {
    let device = FakeDevice::new();
    let handler = Setup::new().fake_device(&device).load::<Steps>().unwrap();
    (device, handler)
}

#[test]
fn running_out_of_memory_anywhere_fails_one_job() {
    let (device, mut handler) = steps();
    for operation in 0..3 {
        device.fail_after(operation, Fault::OutOfMemory);
        assert_eq!(handler.run(&json!(3)).unwrap_err().kind(), Some(ErrorKind::Oom), "operation {operation}");
        assert_eq!(handler.run(&json!(3)).unwrap().output, json!(3));
    }
}

#[test]
fn a_lost_device_fails_every_job_until_the_handler_is_restarted() {
    let (device, mut handler) = steps();
    device.fail_after(1, Fault::Lost);
    assert_eq!(handler.run(&json!(3)).unwrap_err().kind(), Some(ErrorKind::DeviceLost));
    assert_eq!(handler.run(&json!(3)).unwrap_err().kind(), Some(ErrorKind::DeviceLost));
    handler.restart().unwrap();
    assert_eq!(handler.run(&json!(3)).unwrap().output, json!(3));
}

#[test]
fn a_hanging_operation_ignores_a_cancel_and_ends_with_the_test() {
    let (device, mut handler) = steps();
    device.fail_after(1, Fault::Hang);
    let job = handler.submit(&json!(3)).unwrap();
    while device.hanging() == 0 {
        std::thread::yield_now();
    }
    handler.cancel(job).unwrap();
    let error = handler.wait_for(job, Duration::from_millis(20)).unwrap_err();
    assert!(matches!(error, TestError::StillRunning { .. }), "{error}");
    handler.restart().unwrap();
    assert!(matches!(handler.wait(job), Err(TestError::Exited { .. } | TestError::Failed(_))));
    assert_eq!(handler.run(&json!(1)).unwrap().output, json!(1));
}

/// Needs memory for all items of a batch at once.
struct Wide;

impl BatchHandler for Wide {
    type Input = usize;
    type Output = usize;
    type Chunk = NoChunks;

    fn limits() -> BatchLimits {
        BatchLimits::items(8).wait(Duration::from_secs(60))
    }

    fn load(env: &LoadEnv) -> Result<Self, HandlerError> {
        env.report_device("cpu");
        Ok(Self)
    }

    fn run_batch(
        &mut self,
        items: &[BatchItem<usize, NoChunks>],
    ) -> Result<Vec<Result<usize, HandlerError>>, HandlerError> {
        FakeDevice::operation(items.iter().map(|item| item.input).sum())?;
        Ok(items.iter().map(|_| Ok(items.len())).collect())
    }
}

#[test]
fn a_batch_that_does_not_fit_runs_in_halves() {
    let device = FakeDevice::new();
    device.limit_allocation(40);
    let mut handler = Setup::new().fake_device(&device).load_batch::<Wide>().unwrap();
    let results = handler.run_all(&vec![json!(10); 8]).unwrap();
    let sizes: Vec<_> = results.into_iter().map(|result| result.unwrap().output).collect();
    assert_eq!(sizes, vec![json!(4); 8]);

    // Anew, because the cost of a batch is limited now.
    let mut handler = Setup::new().fake_device(&device).load_batch::<Wide>().unwrap();
    let mut inputs = vec![json!(1); 7];
    inputs.push(json!(41));
    let results = handler.run_all(&inputs).unwrap();
    let failed: Vec<_> = results.iter().map(|result| result.as_ref().err().and_then(TestError::kind)).collect();
    assert_eq!(
        (&failed[..7], failed[7]),
        (&[None; 7][..], Some(ErrorKind::Oom)),
        "only the item that never fits fails"
    );
}

#[test]
fn a_device_lost_in_a_batch_ends_the_handler() {
    let device = FakeDevice::new();
    let mut handler = Setup::new().fake_device(&device).load_batch::<Wide>().unwrap();
    device.fail_after(0, Fault::Lost);
    for result in handler.run_all(&vec![json!(1); 8]).unwrap() {
        assert!(matches!(result, Err(TestError::Exited { status: crate::EXIT_DEVICE_LOST })), "{result:?}");
    }
    handler.restart().unwrap();
    let again = handler.run_all(&vec![json!(1); 8]).unwrap();
    assert!(again.iter().all(Result::is_ok), "{again:?}");
}
