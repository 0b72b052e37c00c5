//! Runs jobs in batches. One thread reads the inputs, so that a batch forms while the last one runs; each model has a thread that
//! runs the jobs that wait.

mod budget;
mod intake;
mod model;
mod pool;
mod waiting;

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};

use runpod_handler_protocol::Manifest;

use self::intake::{Incoming, read_inputs};
use self::model::run_model;
use self::pool::Pool;
use crate::batch::{BatchHandler, BatchLimits};
use crate::check::Check;
use crate::error::HandlerError;
use crate::load_env::LoadEnv;
use crate::manifest::{About, manifest};
use crate::running_job::RunningJob;
use crate::schema::InputSchema;
use crate::serve::exit::Exit;
use crate::serve::loading::SlotSetup;
use crate::serve::program::{Models, Program, ReceivedJob, Started, spawn};

/// A handler that runs jobs in batches.
#[derive(Debug)]
pub(crate) struct Batched<B>(PhantomData<fn() -> B>);

impl<B: BatchHandler> Program for Batched<B> {
    fn manifest() -> Manifest {
        manifest::<B::Input, B::Output, B::Chunk>(About {
            name: B::NAME,
            version: B::VERSION,
            idempotent: B::IDEMPOTENT,
            max_batch_items: Some(limits::<B>().max_items()),
            max_concurrency: None,
        })
    }

    fn checks(env: &LoadEnv) -> Vec<Check> {
        B::checks(env)
    }

    fn start(setup: &SlotSetup, exit: &SyncSender<Exit>) -> Result<Started, HandlerError> {
        let schema = InputSchema::compile(schemars::schema_for!(B::Input).as_value())?;
        let slots = Self::manifest().slots(setup.models);
        let pool = Arc::new(Pool::<B::Input>::new(limits::<B>(), setup.models));
        // Room for each slot's job and for a request to stop it.
        let (incoming, received) = sync_channel(2 * slots as usize);
        let mut threads = Vec::new();

        let (pool_of_intake, setup_of_intake) = (Arc::clone(&pool), setup.clone());
        threads.push(spawn("intake", move || {
            read_inputs::<B>(&setup_of_intake, &schema, &pool_of_intake, &received);
        })?);
        for slot in 0..setup.models {
            let (pool, setup, exit) = (Arc::clone(&pool), setup.clone(), exit.clone());
            threads.push(spawn(&format!("model-{slot}"), move || {
                if let Err(end) = run_model::<B>(slot, &setup, &pool) {
                    let _ = exit.try_send(end);
                }
            })?);
        }
        Ok(Started { models: Box::new(BatchingModels { incoming, slots, pool }), threads })
    }
}

/// The limits of the program and of the environment.
fn limits<B: BatchHandler>() -> BatchLimits {
    B::limits().with_environment(|name| std::env::var(name).ok())
}

/// The way to the intake thread and to the models.
struct BatchingModels<I> {
    incoming: SyncSender<Incoming>,
    slots: u32,
    pool: Arc<Pool<I>>,
}

impl<I: Send> Models for BatchingModels<I> {
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
    }
}
