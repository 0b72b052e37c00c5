//! What handlers that run several jobs at once have in common. One thread reads the inputs, so that a model that is busy does not
//! delay them; the jobs wait in a pool, from which the thread of each model takes them.

pub(crate) mod budget;
pub(crate) mod intake;
pub(crate) mod pool;
pub(crate) mod waiting;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use self::intake::{Incoming, Reader, read_inputs};
use self::pool::Pool;
use self::waiting::Bounds;
use crate::error::HandlerError;
use crate::job::Job;
use crate::output::Encoded;
use crate::running_job::RunningJob;
use crate::serve::exit::Exit;
use crate::serve::job_memory::JobMemory;
use crate::serve::loading::SlotSetup;
use crate::serve::program::{Models, ReceivedJob, Started, spawn};
use crate::serve::reply::Reply;

/// The code of a model's thread: runs jobs of the pool until it is closed and empty, or returns why the process must exit.
pub(crate) type RunModel<I> = fn(u32, &SlotSetup, &Reader<I>, &Pool<I>) -> Result<(), Exit>;

/// How long a process whose device is lost waits for outputs on their way to the bucket. Their jobs would run again.
const UPLOAD_GRACE: Duration = Duration::from_secs(30);

/// Starts the intake thread and a thread for each model. `slots` is how many jobs the process takes.
pub(crate) fn start<I: DeserializeOwned + JsonSchema + Send + 'static>(
    setup: &SlotSetup,
    exit: &SyncSender<Exit>,
    slots: u32,
    bounds: Bounds,
    reader: Reader<I>,
    run_model: RunModel<I>,
) -> Result<Started, HandlerError> {
    let (pool, reader) = (Arc::new(Pool::new(bounds, setup.models)), Arc::new(reader));
    // Room for each slot's job and for a request to stop it.
    let (incoming, received) = sync_channel(2 * slots as usize);
    let mut threads = Vec::new();

    let (pool_of_intake, reader_of_intake, setup_of_intake) = (Arc::clone(&pool), Arc::clone(&reader), setup.clone());
    threads.push(spawn("intake", move || {
        read_inputs(&setup_of_intake, &reader_of_intake, &pool_of_intake, &received);
    })?);
    for slot in 0..setup.models {
        let (pool, reader, setup, exit) = (Arc::clone(&pool), Arc::clone(&reader), setup.clone(), exit.clone());
        threads.push(spawn(&format!("model-{slot}"), move || {
            let end = run_model(slot, &setup, &reader, &pool);
            match &end {
                Ok(()) => setup.uploads.wait(),
                Err(_) => setup.uploads.wait_for(UPLOAD_GRACE),
            }
            if let Err(end) = end {
                let _ = exit.try_send(end);
            }
        })?);
    }
    Ok(Started { models: Box::new(PooledModels { incoming, slots, pool }), threads })
}

/// Reports the outcome of a job that a model has run. A large output is uploaded first, while the model goes on.
pub(crate) fn reply<C: 'static>(
    setup: &SlotSetup,
    memory: &JobMemory,
    job: Job<C>,
    result: Result<Encoded, HandlerError>,
    panicked: bool,
) {
    let (running, refresh) = (job.running(), job.refresh_requested());
    let output = match result {
        Ok(output) => output,
        Err(error) => {
            // This drops the job's temporary directory, before the result is sent.
            let records = job.into_records();
            let reply = Reply { running: &running, result: Err(error), panicked, reloading: false, refresh, records };
            return reply.send(&setup.jobs, &setup.queue, Some(memory));
        }
    };
    let mut figures = BTreeMap::new();
    memory.record(&mut figures);
    let (jobs, queue, upload) = (Arc::clone(&setup.jobs), Arc::clone(&setup.queue), setup.uploads.begin());
    output.deliver(move |result| {
        let mut records = job.into_records();
        records.append(&mut figures);
        Reply { running: &running, result, panicked, reloading: false, refresh, records }.send(&jobs, &queue, None);
        drop(upload);
    });
}

/// The way to the intake thread and to the models.
struct PooledModels<I> {
    incoming: SyncSender<Incoming>,
    slots: u32,
    pool: Arc<Pool<I>>,
}

impl<I: Send> Models for PooledModels<I> {
    fn assign(&self, slot: u32, job: ReceivedJob) -> Result<(), String> {
        if slot >= self.slots {
            return Err(format!("this process has no slot {slot}"));
        }
        self.incoming.try_send(Incoming::Job(job)).map_err(|_| "this process has no room for another job".to_owned())
    }

    fn probe(&self, slot: u32) {
        self.pool.probe(slot);
    }

    fn stopped(&self, job: &Arc<RunningJob>) {
        // Without room the job stays among the waiting ones, and is dropped when its turn comes.
        let _ = self.incoming.try_send(Incoming::Stopped(Arc::clone(job)));
        self.pool.wake();
    }

    fn acknowledged(&self) {
        self.pool.wake();
    }
}
