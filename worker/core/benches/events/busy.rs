//! A worker that holds many jobs. The bar on instructions (`tests/instructions`) measures it too.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use runpod_handler_protocol::{Manifest, PROTOCOL_VERSION, ToHandler, ToSupervisor};
use runpod_worker_core::{
    DeliveryEvent, Effect, Event, Incarnation, JobId, Policy, PollAnswer, ProcessEvent, ProcessId, TakenJob, Time,
    Worker,
};
use serde_json::Value;

/// What one job is to the core: poll answer, `Started`, `Done`, delivery.
pub(crate) const EVENTS: u32 = 4;

/// Handler processes of each worker: as many as the largest one needs, because one process has at most 8,192 slots.
const PROCESSES: u32 = 13;

/// A worker with a few free slots, all others busy.
pub(crate) struct Busy {
    worker: Worker,
    now: Time,
    next: u64,
    held: Arc<[JobId]>,
}

/// One run of a job, in this process.
struct Run {
    process: ProcessId,
    job: String,
    attempt: u32,
}

impl Busy {
    /// With so many jobs that run on.
    pub(crate) fn new(jobs: u32) -> Self {
        let policy =
            Policy { job_timeout: Duration::from_secs(1_000_000), processes: PROCESSES as usize, ..Policy::default() };
        let mut busy = Self { worker: Worker::new(policy), now: Time::default(), next: 0, held: Arc::default() };
        busy.handle(Event::Timer);
        // One model with slots for two batches: room for one more job.
        let manifest = Manifest {
            name: "bench".into(),
            version: "0".into(),
            idempotent: false,
            streams: false,
            input_schema: Value::Null,
            output_schema: Value::Null,
            chunk_schema: None,
            max_batch_items: Some((jobs + 1).div_ceil(2 * PROCESSES)),
            max_waiting_items: None,
            max_concurrency: None,
        };
        let manifest = serde_json::to_vec(&manifest).expect("a manifest is JSON");
        for process in (0..PROCESSES as usize).map(ProcessId) {
            busy.process_event(process, ProcessEvent::Spawned { pid: 1 });
            let hello = ToSupervisor::Hello { protocol: PROTOCOL_VERSION, sdk_version: "0".into() };
            busy.message(process, hello, manifest.clone().into());
            let loaded = ToSupervisor::Loaded { slot: 0, device: "cpu".into(), millis: 1, warm_up_millis: 0 };
            busy.message(process, loaded, Bytes::new());
        }
        let taken = (0..jobs).map(|_| busy.new_job()).collect();
        let runs = busy.take(taken);
        assert_eq!(runs.len(), jobs as usize, "all jobs run");
        for Run { process, job, attempt } in runs {
            busy.message(process, ToSupervisor::Started { job, attempt, model: None }, Bytes::new());
        }
        busy.held = busy.worker.held();
        busy
    }

    /// Takes and finishes so many jobs, one after the other. Each is [`EVENTS`] events.
    pub(crate) fn run(&mut self, jobs: u32) {
        for _ in 0..jobs {
            let job = self.new_job();
            let Run { process, job, attempt } = self.take(vec![job]).pop().expect("a slot is free");
            self.message(process, ToSupervisor::Started { job: job.clone(), attempt, model: None }, Bytes::new());
            let id = JobId::from(job.as_str());
            let done = ToSupervisor::Done { job, attempt, refresh: false, records: BTreeMap::new() };
            self.message(process, done, Bytes::from_static(b"1"));
            self.handle(Event::Delivery(DeliveryEvent::Final { job: id, accepted: true }));
        }
    }

    fn new_job(&mut self) -> TakenJob {
        self.next += 1;
        // Ids do not arrive in order.
        let id = format!("{:016x}", self.next.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        TakenJob::new(id.into(), Ok(Bytes::from_static(b"{}")))
    }

    /// Takes jobs; returns the runs that this begins.
    fn take(&mut self, jobs: Vec<TakenJob>) -> Vec<Run> {
        let effects = self.handle(Event::Poll(PollAnswer::Jobs(jobs)));
        let runs = effects.into_iter().filter_map(|effect| match effect {
            Effect::Send { process, message: ToHandler::Run { job, attempt, .. }, .. } => {
                Some(Run { process, job, attempt })
            }
            _ => None,
        });
        runs.collect()
    }

    fn message(&mut self, process: ProcessId, message: ToSupervisor, payload: Bytes) {
        self.process_event(process, ProcessEvent::Message { message, payload });
    }

    fn process_event(&mut self, process: ProcessId, event: ProcessEvent) {
        self.handle(Event::Process { id: process, incarnation: Incarnation(1), event });
    }

    fn handle(&mut self, event: Event) -> Vec<Effect> {
        self.now = self.now + Duration::from_nanos(100);
        let effects = self.worker.handle(self.now, event);
        black_box((self.worker.snapshot(Arc::clone(&self.held)), self.worker.next_deadline()));
        effects
    }
}
