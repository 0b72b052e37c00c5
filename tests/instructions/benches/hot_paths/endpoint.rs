//! What the endpoint decides for every job: its queue without HTTP, clock and disk.

use std::hint::black_box;
use std::time::Duration;

use runpod_endpoint::store::{Limits, NewJob, Outcome, Payload, Policy, Queue, Request, Timestamp};

const WORKER: &str = "worker-1";
/// How long a record is kept, in cycles: then each job that comes replaces one that goes.
const KEPT: u32 = 100;
/// Between two jobs.
const PAUSE: Duration = Duration::from_millis(10);

/// Submits, gives out and finishes one job after the other, in a queue in which `queued` others wait.
pub(crate) fn cycles(queued: usize, rounds: u32) {
    let mut endpoint =
        Endpoint { queue: Queue::new(Limits::default()), now: Duration::from_secs(1_800_000_000), next: 0 };
    for _ in 0..queued {
        endpoint.submit();
        endpoint.queue.take_effects();
    }
    for _ in 0..rounds {
        endpoint.cycle();
    }
}

struct Endpoint {
    queue: Queue,
    now: Timestamp,
    next: u64,
}

impl Endpoint {
    fn cycle(&mut self) {
        self.now += PAUSE;
        self.submit();
        let now = self.now;
        self.queue.tick(now);
        let job = self.queue.take(now, WORKER, 1).pop().expect("a job waits");
        self.queue.tick(now);
        self.queue.finish(now, WORKER, &job.id, Outcome::completed(Some(job.request.input)));
        black_box((self.queue.take_effects(), self.queue.next_deadline()));
    }

    fn submit(&mut self) {
        self.next += 1;
        // Ids do not arrive in order.
        let id = format!("{:032x}-u1", u128::from(self.next.wrapping_mul(0x9e37_79b9_7f4a_7c15)) << 64);
        let request = Request::new(kilobyte(), Policy::default(), PAUSE * KEPT);
        self.queue.tick(self.now);
        let job = NewJob { id: id.into(), request };
        black_box(self.queue.submit(self.now, job).expect("there is room"));
    }
}

fn kilobyte() -> Payload {
    serde_json::value::RawValue::from_string(format!("\"{}\"", "x".repeat(998))).expect("it is JSON").into()
}
