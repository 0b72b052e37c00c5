//! Runs many jobs at the same time as futures. One thread owns the runtime: it loads the handler, reports jobs as started and spawns their
//! futures. Another one watches for jobs that block the threads of the runtime.

mod polls;
mod run;
mod watch;

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use runpod_handler_protocol::{MAX_CONCURRENCY, Manifest, ToSupervisor};
use tokio::runtime::{Builder, Runtime};

use self::run::{Running, run_job};
use self::watch::Watch;
use crate::async_handler::AsyncHandler;
use crate::check::Check;
use crate::concurrency::{Concurrency, Limits};
use crate::error::HandlerError;
use crate::load_env::LoadEnv;
use crate::manifest::{About, manifest};
use crate::running_job::RunningJob;
use crate::schema::InputSchema;
use crate::serve::exit::Exit;
use crate::serve::loading::{self, LoadFailed, Loaded, SlotSetup};
use crate::serve::program::{Models, Program, ReceivedJob, Started, spawn};

/// Fewest threads of the runtime: some may be blocked while the others go on.
const MIN_THREADS: usize = 4;
/// Most threads of the runtime. Jobs that wait need no more.
const MAX_THREADS: usize = 32;
/// How long the process waits at its end for blocking code of the handler.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(500);

/// A handler whose jobs are futures.
#[derive(Debug)]
pub(crate) struct Concurrent<H>(PhantomData<fn() -> H>);

impl<H: AsyncHandler> Program for Concurrent<H> {
    fn manifest() -> Manifest {
        manifest::<H::Input, H::Output, H::Chunk>(About {
            name: H::NAME,
            version: H::VERSION,
            idempotent: H::IDEMPOTENT,
            max_batch_items: None,
            max_waiting_items: None,
            max_concurrency: Some(limits::<H>().at_start),
        })
    }

    fn checks(env: &LoadEnv) -> Vec<Check> {
        H::checks(env)
    }

    fn start(setup: &SlotSetup, exit: &SyncSender<Exit>) -> Result<Started, HandlerError> {
        let schema = InputSchema::compile(schemars::schema_for!(H::Input).as_value())?;
        let concurrency = Concurrency::new(limits::<H>(), Arc::clone(&setup.queue));
        setup.shared.insert(concurrency.clone());
        let (orders, received) = sync_channel(MAX_CONCURRENCY as usize);
        // All jobs share one handler, whatever the number of slots that the worker was asked for.
        let setup = SlotSetup { models: 1, ..setup.clone() };
        let runtime = start_runtime()?;
        let models = AsyncModels { orders };
        let exit = exit.clone();
        let intake = spawn("intake", move || {
            if run::<H>(runtime, &setup, schema, concurrency, &received).is_err() {
                let _ = exit.try_send(Exit::LoadFailed);
            }
        })?;
        Ok(Started { models: Box::new(models), threads: vec![intake] })
    }
}

/// The limits of the program and of the environment.
fn limits<H: AsyncHandler>() -> Limits {
    Limits::of(H::max_concurrency(), |name| std::env::var(name).ok())
}

/// What the thread of the runtime does next.
enum Order {
    Run(ReceivedJob),
    /// Test the device, and report it for this slot.
    Probe(u32),
}

/// The way to the thread of the runtime.
struct AsyncModels {
    orders: SyncSender<Order>,
}

impl Models for AsyncModels {
    fn assign(&self, _slot: u32, job: ReceivedJob) -> Result<(), String> {
        self.orders.try_send(Order::Run(job)).map_err(|_| "this process has no room for another job".to_owned())
    }

    fn probe(&self, slot: u32) {
        // Without room there are jobs, which show by themselves whether the device works.
        let _ = self.orders.try_send(Order::Probe(slot));
    }

    fn stopped(&self, _job: &Arc<RunningJob>) {
        // The task of the job waits for it.
    }
}

/// Runs jobs until the sender of `orders` is dropped and all of them have ended.
fn run<H: AsyncHandler>(
    runtime: Runtime,
    setup: &SlotSetup,
    schema: InputSchema,
    concurrency: Concurrency,
    orders: &Receiver<Order>,
) -> Result<(), LoadFailed> {
    let _guard = loading::prepare_thread(setup)?;
    let load = |env: &LoadEnv| runtime.block_on(H::load(env));
    let Loaded { handler, memory } = loading::load(0, setup, load, |handler| runtime.block_on(handler.warm_up()))?;
    let running = Arc::new(Running { handler, schema, concurrency, memory, setup: setup.clone() });
    let watch = Watch::start(setup, runtime.handle());
    while let Ok(first) = orders.recv() {
        let mut jobs = Vec::new();
        for order in std::iter::once(first).chain(orders.try_iter()) {
            match order {
                Order::Run(job) => jobs.push(job),
                Order::Probe(slot) => loading::probe(slot, setup, &running.memory),
            }
        }
        report_started(setup, &jobs);
        watch.wake();
        for job in jobs {
            runtime.spawn(run_job(Arc::clone(&running), Arc::clone(watch.polls()), job));
        }
    }
    setup.jobs.wait_until_empty();
    drop(watch);
    loading::discard(running);
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    Ok(())
}

fn start_runtime() -> Result<Runtime, HandlerError> {
    let cpus = thread::available_parallelism().map_or(MIN_THREADS, usize::from);
    let threads = cpus.clamp(MIN_THREADS, MAX_THREADS);
    Ok(Builder::new_multi_thread().worker_threads(threads).thread_name("async").enable_all().build()?)
}

/// The worker must know which jobs have begun before user code can crash the process.
fn report_started(setup: &SlotSetup, jobs: &[ReceivedJob]) {
    let started = jobs.iter().map(|job| &job.running).filter(|running| running.stopped().is_none());
    let mut first_deadline = None;
    for running in started {
        let message = ToSupervisor::Started { job: running.id.clone(), attempt: running.attempt, model: None };
        setup.queue.push(&message, Bytes::new());
        first_deadline = first_deadline.into_iter().chain([running.deadline]).min();
    }
    if let Some(deadline) = first_deadline {
        setup.queue.flush(deadline.saturating_duration_since(Instant::now()));
    }
}
