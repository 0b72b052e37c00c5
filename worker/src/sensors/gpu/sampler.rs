//! Looks at the GPUs again and again, on a thread of its own: a driver that hangs blocks nothing else.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use nvml_wrapper::Nvml;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use super::floor::MemoryFloor;
use super::nvml::NvmlReader;
use super::throttle::Throttling;
use super::{Gpu, GpuReader, Gpus, Sample, VisibleDevices};
use runpod_worker_core::{Event, GpuSlowdown, Snapshot, WorkerState};

/// How long a call under way may hold up the end of the worker.
const END_LIMIT: Duration = Duration::from_secs(1);

/// What to look at, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuSettings {
    /// Time between two looks; zero for never.
    pub interval: Duration,
    /// How far back the memory floor looks.
    pub floor_window: Duration,
    /// Which GPUs are this worker's.
    pub visible: VisibleDevices,
}

/// The running sampler.
#[derive(Debug)]
pub struct GpuSampler {
    gpus: Gpus,
    /// The thread ends when this is dropped.
    stop: SyncSender<()>,
    ended: oneshot::Receiver<()>,
}

impl GpuSampler {
    /// A window on what it finds.
    pub fn gpus(&self) -> Gpus {
        self.gpus.clone()
    }

    /// Ends it; waits a second at most for a call that is under way.
    pub async fn stop(self) {
        drop(self.stop);
        if timeout(END_LIMIT, self.ended).await.is_err() {
            tracing::warn!("the GPU driver does not answer; its last call is left alone");
        }
    }
}

/// Starts the thread. `snapshots` tells whether a job runs; `events` hears which GPUs are slowed down.
///
/// # Errors
/// When there can be no thread.
pub fn spawn(
    settings: GpuSettings,
    snapshots: watch::Receiver<Snapshot>,
    events: mpsc::Sender<Event>,
) -> io::Result<GpuSampler> {
    let (latest, gpus) = Gpus::channel(settings.interval);
    let (stop, stopped) = sync_channel(0);
    let (ending, ended) = oneshot::channel();
    if !settings.interval.is_zero() {
        let outlets = Outlets { latest, snapshots, events };
        thread::Builder::new().name("gpus".to_owned()).spawn(move || {
            watch_nvml(&settings, outlets, &stopped);
            // Whoever waited for it may be gone.
            let _ = ending.send(());
        })?;
    }
    Ok(GpuSampler { gpus, stop, ended })
}

/// Ends at once when there is no driver, which is no error: most machines have none.
fn watch_nvml(settings: &GpuSettings, outlets: Outlets, stopped: &Receiver<()>) {
    let nvml = match Nvml::init() {
        Ok(nvml) => nvml,
        Err(error) => {
            tracing::info!(%error, "There are no GPU figures: NVIDIA's management library is not there or does not work.");
            return;
        }
    };
    match NvmlReader::new(&nvml, &settings.visible) {
        Ok(reader) => {
            tracing::info!(gpus = reader.count(), "GPU figures come from NVIDIA's management library.");
            Watch::new(reader, outlets, settings.floor_window).run(settings.interval, stopped);
        }
        Err(error) => tracing::warn!(%error, "There are no GPU figures: the driver does not list its GPUs."),
    }
}

/// Where what is seen goes, and what is needed to judge it.
struct Outlets {
    latest: watch::Sender<Option<Sample>>,
    snapshots: watch::Receiver<Snapshot>,
    events: mpsc::Sender<Event>,
}

struct Watch<R> {
    reader: R,
    outlets: Outlets,
    floor_window: Duration,
    floors: Vec<MemoryFloor>,
    throttling: Throttling,
    /// What the dispatcher was last told.
    told: Vec<GpuSlowdown>,
}

impl<R: GpuReader> Watch<R> {
    fn new(reader: R, outlets: Outlets, floor_window: Duration) -> Self {
        Self { reader, outlets, floor_window, floors: Vec::new(), throttling: Throttling::default(), told: Vec::new() }
    }

    fn run(mut self, interval: Duration, stopped: &Receiver<()>) {
        loop {
            self.look();
            if stopped.recv_timeout(interval) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    }

    fn look(&mut self) {
        let before = self.state();
        let figures = self.reader.read();
        let (after, now) = (self.state(), Instant::now());
        let busy = before == WorkerState::Running || after == WorkerState::Running;
        let between_jobs = is_between_jobs(before) && is_between_jobs(after);

        let reasons = figures.iter().map(|figures| figures.throttled.as_deref());
        let throttled = self.throttling.note(reasons, busy);
        // A full channel is tried again with the next sample.
        if throttled != self.told && self.outlets.events.try_send(Event::GpuSlowdowns(throttled.clone())).is_ok() {
            self.told = throttled;
        }

        self.floors.resize_with(figures.len(), || MemoryFloor::new(self.floor_window));
        let gpus = figures.into_iter().zip(&mut self.floors).map(|(figures, floor)| {
            if let Some(used) = figures.memory_used.filter(|_| between_jobs) {
                floor.note(now, used);
            }
            Gpu { figures, memory_floor: floor.get(now) }
        });
        let sample = Sample { gpus: gpus.collect(), taken: now };
        self.outlets.latest.send_replace(Some(sample));
    }

    fn state(&self) -> WorkerState {
        self.outlets.snapshots.borrow().state
    }
}

/// Models are loaded and none of them runs. Memory in use by a handler that is gone or starts again says nothing.
fn is_between_jobs(state: WorkerState) -> bool {
    matches!(state, WorkerState::Ready | WorkerState::Idle | WorkerState::Throttled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sensors::gpu::GpuFigures;
    use runpod_worker_core::SlowdownReason;

    /// Shows one GPU, as told.
    #[derive(Default)]
    struct Fake(GpuFigures);

    impl GpuReader for Fake {
        fn read(&mut self) -> Vec<GpuFigures> {
            vec![self.0.clone()]
        }
    }

    struct World {
        watch: Watch<Fake>,
        state: watch::Sender<Snapshot>,
        events: mpsc::Receiver<Event>,
        gpus: Gpus,
    }

    impl World {
        fn new() -> Self {
            let (latest, gpus) = Gpus::channel(Duration::from_secs(5));
            let (state, snapshots) = watch::channel(Snapshot::default());
            let (sender, events) = mpsc::channel(1);
            let outlets = Outlets { latest, snapshots, events: sender };
            let watch = Watch::new(Fake::default(), outlets, Duration::from_secs(600));
            Self { watch, state, events, gpus }
        }

        fn look(&mut self, state: WorkerState) -> Gpu {
            self.state.send_replace(Snapshot { state, ..Snapshot::default() });
            self.watch.look();
            self.gpus.latest().unwrap()[0].clone()
        }

        fn told(&mut self) -> Option<Vec<GpuSlowdown>> {
            match self.events.try_recv() {
                Ok(Event::GpuSlowdowns(gpus)) => Some(gpus),
                _ => None,
            }
        }
    }

    #[test]
    fn the_floor_is_what_is_in_use_between_jobs() {
        let mut world = World::new();
        for (state, used, floor) in [
            (WorkerState::Initializing, 1, None),
            (WorkerState::Running, 90, None),
            (WorkerState::Idle, 40, Some(40)),
            (WorkerState::Running, 90, Some(40)),
            (WorkerState::Throttled, 30, Some(30)),
            (WorkerState::Draining, 5, Some(30)),
        ] {
            world.watch.reader.0.memory_used = Some(used);
            let gpu = world.look(state);
            assert_eq!((gpu.figures.memory_used, gpu.memory_floor), (Some(used), floor));
        }
        world.watch.reader.0.memory_used = None;
        assert_eq!(world.look(WorkerState::Idle).memory_floor, Some(30), "a look that found nothing changes nothing");
    }

    #[test]
    fn the_dispatcher_is_told_of_changes_and_of_those_it_had_no_room_for() {
        let mut world = World::new();
        let hot = vec![GpuSlowdown { gpu: 0, reasons: vec![SlowdownReason::HwThermal] }];
        world.watch.reader.0.throttled = Some(vec![SlowdownReason::HwThermal]);
        world.watch.outlets.events.try_send(Event::Timer).unwrap();
        for _ in 0..3 {
            world.look(WorkerState::Running);
        }
        assert_eq!(world.told(), None, "there was no room");
        world.look(WorkerState::Running);
        assert_eq!(world.told(), Some(hot));
        world.look(WorkerState::Running);
        assert_eq!(world.told(), None);
        world.watch.reader.0.throttled = None;
        for _ in 0..3 {
            world.look(WorkerState::Running);
        }
        assert_eq!(world.told(), Some(Vec::new()));
    }

    #[test]
    fn a_sample_that_is_too_old_is_not_shown() {
        let mut world = World::new();
        assert_eq!(world.gpus.latest(), None);
        world.look(WorkerState::Idle);
        assert!(world.gpus.latest().is_some());
        world.gpus.max_age = Duration::ZERO;
        assert_eq!(world.gpus.latest(), None);
        assert_eq!(Gpus::absent().latest(), None);
    }

    #[tokio::test]
    async fn it_can_be_switched_off() {
        let (_state, snapshots) = watch::channel(Snapshot::default());
        let (events, _inbox) = mpsc::channel(1);
        let settings = GpuSettings {
            interval: Duration::ZERO,
            floor_window: Duration::from_secs(600),
            visible: VisibleDevices::default(),
        };
        let sampler = spawn(settings, snapshots, events).unwrap();
        assert_eq!(sampler.gpus().latest(), None);
        sampler.stop().await;
    }
}
