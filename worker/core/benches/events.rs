//! What one event costs the core, by the number of jobs that the worker holds: `cargo bench -p runpod-worker-core`.
//!
//! One job after the other is taken, started, done and delivered, beside all the others, which run on. A snapshot is made for each
//! event, as the worker does.
#![expect(clippy::disallowed_types, reason = "a bench measures with the clock that the core does not have")]
#![expect(clippy::print_stdout, reason = "a bench prints its figures")]
#![expect(clippy::expect_used, reason = "a worker that does not behave as expected has no figure")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use runpod_handler_protocol::{Manifest, PROTOCOL_VERSION, ToHandler, ToSupervisor};
use runpod_worker_core::{
    DeliveryEvent, Effect, Event, Incarnation, JobId, Policy, PollAnswer, ProcessEvent, ProcessId, TakenJob, Time,
    Worker,
};
use serde_json::Value;

const HELD: [u32; 3] = [10, 1_000, 100_000];
const ROUNDS: usize = 7;
const JOBS: u32 = 4_000;
/// Poll answer, `Started`, `Done`, delivery.
const EVENTS: u32 = 4 * JOBS;

fn main() {
    let mut workers = HELD.map(Busy::new);
    let mut times = HELD.map(|_| Vec::new());
    // Alternating, so that a slow moment of the machine does not hit one size only.
    for _ in 0..ROUNDS {
        for (worker, times) in workers.iter_mut().zip(&mut times) {
            times.push(worker.round() / EVENTS);
        }
    }
    println!("{:>10}  {:>14}  {:>12}", "jobs held", "one event", "ratio");
    let medians = times.map(|mut times| {
        times.sort();
        times[ROUNDS / 2]
    });
    for (held, median) in HELD.iter().zip(medians) {
        println!("{held:>10}  {median:>14.2?}  {:>12.2}", median.as_secs_f64() / medians[0].as_secs_f64());
    }
}

/// A worker with one or two free slots, all others busy.
struct Busy {
    worker: Worker,
    now: Time,
    next: u64,
    held: Arc<[JobId]>,
}

impl Busy {
    fn new(jobs: u32) -> Self {
        let policy = Policy { job_timeout: Duration::from_secs(1_000_000), ..Policy::default() };
        let mut busy = Self { worker: Worker::new(policy), now: Time::default(), next: 0, held: Arc::default() };
        busy.handle(Event::Timer);
        busy.process_event(ProcessEvent::Spawned { pid: 1 });
        // One model with slots for two batches: room for one more job.
        let manifest = Manifest {
            name: "bench".into(),
            version: "0".into(),
            idempotent: false,
            streams: false,
            input_schema: Value::Null,
            output_schema: Value::Null,
            chunk_schema: None,
            max_batch_items: Some(jobs / 2 + 1),
            max_waiting_items: None,
            max_concurrency: None,
        };
        let manifest = serde_json::to_vec(&manifest).expect("a manifest is JSON");
        let hello = ToSupervisor::Hello { protocol: PROTOCOL_VERSION, sdk_version: "0".into() };
        busy.message(hello, manifest.into());
        let loaded = ToSupervisor::Loaded { slot: 0, device: "cpu".into(), millis: 1, warm_up_millis: 0 };
        busy.message(loaded, Bytes::new());
        let taken = (0..jobs).map(|_| busy.new_job()).collect();
        for (job, attempt) in busy.take(taken) {
            busy.message(ToSupervisor::Started { job, attempt, model: None }, Bytes::new());
        }
        busy.held = busy.worker.held();
        assert_eq!(busy.held.len(), jobs as usize, "all jobs are held");
        busy
    }

    fn round(&mut self) -> Duration {
        let begin = Instant::now();
        for _ in 0..JOBS {
            let job = self.new_job();
            let (job, attempt) = self.take(vec![job]).pop().expect("a slot is free");
            self.message(ToSupervisor::Started { job: job.clone(), attempt, model: None }, Bytes::new());
            let id = JobId::from(job.as_str());
            let done = ToSupervisor::Done { job, attempt, refresh: false, records: BTreeMap::new() };
            self.message(done, Bytes::from_static(b"1"));
            self.handle(Event::Delivery(DeliveryEvent::Final { job: id, accepted: true }));
        }
        begin.elapsed()
    }

    fn new_job(&mut self) -> TakenJob {
        self.next += 1;
        // Ids do not arrive in order.
        let id = format!("{:016x}", self.next.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        TakenJob::new(id.into(), Ok(Bytes::from_static(b"{}")))
    }

    /// Takes jobs; returns the runs that this begins.
    fn take(&mut self, jobs: Vec<TakenJob>) -> Vec<(String, u32)> {
        let effects = self.handle(Event::Poll(PollAnswer::Jobs(jobs)));
        let runs = effects.into_iter().filter_map(|effect| match effect {
            Effect::Send { message: ToHandler::Run { job, attempt, .. }, .. } => Some((job, attempt)),
            _ => None,
        });
        runs.collect()
    }

    fn message(&mut self, message: ToSupervisor, payload: Bytes) {
        self.process_event(ProcessEvent::Message { message, payload });
    }

    fn process_event(&mut self, event: ProcessEvent) {
        self.handle(Event::Process { id: ProcessId(0), incarnation: Incarnation(1), event });
    }

    fn handle(&mut self, event: Event) -> Vec<Effect> {
        self.now = self.now + Duration::from_nanos(100);
        let effects = self.worker.handle(self.now, event);
        black_box((self.worker.snapshot(Arc::clone(&self.held)), self.worker.next_deadline()));
        effects
    }
}
