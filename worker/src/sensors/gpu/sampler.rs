//! Samples the GPUs at an interval, on a thread of its own: a driver that hangs blocks nothing else.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use nvml_wrapper::Nvml;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use super::figures::{Gpu, GpuReader};
use super::gpus::{Gpus, Sample};
use super::memory_floor::MemoryFloor;
use super::nvml::NvmlReader;
use super::slowdown::Slowdowns;
use super::visible::VisibleDevices;
use crate::sensors::limits::GPU_STOP_TIMEOUT;
use runpod_worker_core::{Event, GpuSlowdown, Snapshot, WorkerState};

/// Which GPUs are sampled, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuSettings {
    /// Time between two samples; zero for never.
    pub interval: Duration,
    /// Length of the window of the memory floor.
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
    /// The newest sample.
    pub fn gpus(&self) -> Gpus {
        self.gpus.clone()
    }

    /// Stops the thread. Waits a second at most for a call to the driver that has not returned.
    pub async fn stop(self) {
        drop(self.stop);
        if timeout(GPU_STOP_TIMEOUT, self.ended).await.is_err() {
            tracing::warn!("The GPU driver does not answer. The worker ends without waiting for it.");
        }
    }
}

/// Starts the thread. `snapshots` shows whether a job runs; slowed-down GPUs are reported to `events`.
///
/// # Errors
/// When the thread cannot be started.
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
            sample_nvml(&settings, outlets, &stopped);
            // The receiver may have stopped waiting.
            let _ = ending.send(());
        })?;
    }
    Ok(GpuSampler { gpus, stop, ended })
}

/// Ends at once when there is no driver. That is not an error: most machines have none.
fn sample_nvml(settings: &GpuSettings, outlets: Outlets, stopped: &Receiver<()>) {
    let nvml = match Nvml::init() {
        Ok(nvml) => nvml,
        Err(error) => {
            tracing::info!(%error, "There are no GPU figures: NVIDIA's management library is missing or does not work.");
            return;
        }
    };
    match NvmlReader::new(&nvml, &settings.visible) {
        Ok(reader) => {
            tracing::info!(gpus = reader.count(), "GPU figures come from NVIDIA's management library.");
            Sampler::new(reader, outlets, settings.floor_window).run(settings.interval, stopped);
        }
        Err(error) => tracing::warn!(%error, "There are no GPU figures: the driver does not list its GPUs."),
    }
}

/// Where samples go, and the state of the worker that they are judged by.
struct Outlets {
    latest: watch::Sender<Option<Sample>>,
    snapshots: watch::Receiver<Snapshot>,
    events: mpsc::Sender<Event>,
}

struct Sampler<R> {
    reader: R,
    outlets: Outlets,
    floor_window: Duration,
    floors: Vec<MemoryFloor>,
    slowdowns: Slowdowns,
    /// What was last reported to the dispatcher.
    reported: Vec<GpuSlowdown>,
}

impl<R: GpuReader> Sampler<R> {
    fn new(reader: R, outlets: Outlets, floor_window: Duration) -> Self {
        Self {
            reader,
            outlets,
            floor_window,
            floors: Vec::new(),
            slowdowns: Slowdowns::default(),
            reported: Vec::new(),
        }
    }

    fn run(mut self, interval: Duration, stopped: &Receiver<()>) {
        loop {
            self.sample();
            if stopped.recv_timeout(interval) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    }

    fn sample(&mut self) {
        let before = self.state();
        let figures = self.reader.read();
        let (after, now) = (self.state(), Instant::now());
        let busy = before == WorkerState::Running || after == WorkerState::Running;
        let between_jobs = is_between_jobs(before) && is_between_jobs(after);

        let reasons = figures.iter().map(|figures| figures.slowdown.as_deref());
        let slowdowns = self.slowdowns.note(reasons, busy);
        // When the channel is full, the next sample tries again.
        if slowdowns != self.reported && self.outlets.events.try_send(Event::GpuSlowdowns(slowdowns.clone())).is_ok() {
            self.reported = slowdowns;
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

/// Models are loaded and no job runs. Memory in use by a handler that has exited or is starting would be no floor.
fn is_between_jobs(state: WorkerState) -> bool {
    matches!(state, WorkerState::Ready | WorkerState::Idle | WorkerState::Throttled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sensors::gpu::figures::GpuFigures;
    use runpod_worker_core::SlowdownReason;

    /// One GPU with these figures.
    #[derive(Default)]
    struct Fake(GpuFigures);

    impl GpuReader for Fake {
        fn read(&mut self) -> Vec<GpuFigures> {
            vec![self.0.clone()]
        }
    }

    struct World {
        sampler: Sampler<Fake>,
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
            let sampler = Sampler::new(Fake::default(), outlets, Duration::from_secs(600));
            Self { sampler, state, events, gpus }
        }

        fn look(&mut self, state: WorkerState) -> Gpu {
            self.state.send_replace(Snapshot { state, ..Snapshot::default() });
            self.sampler.sample();
            self.gpus.latest().unwrap()[0].clone()
        }

        fn reported(&mut self) -> Option<Vec<GpuSlowdown>> {
            match self.events.try_recv() {
                Ok(Event::GpuSlowdowns(gpus)) => Some(gpus),
                _ => None,
            }
        }
    }

    #[test]
    fn the_floor_is_the_memory_in_use_between_jobs() {
        let mut world = World::new();
        for (state, used, floor) in [
            (WorkerState::Initializing, 1, None),
            (WorkerState::Running, 90, None),
            (WorkerState::Idle, 40, Some(40)),
            (WorkerState::Running, 90, Some(40)),
            (WorkerState::Throttled, 30, Some(30)),
            (WorkerState::Draining, 5, Some(30)),
        ] {
            world.sampler.reader.0.memory_used = Some(used);
            let gpu = world.look(state);
            assert_eq!((gpu.figures.memory_used, gpu.memory_floor), (Some(used), floor));
        }
        world.sampler.reader.0.memory_used = None;
        assert_eq!(world.look(WorkerState::Idle).memory_floor, Some(30), "a sample without a figure changes nothing");
    }

    #[test]
    fn changes_are_reported_and_tried_again_when_the_channel_was_full() {
        let mut world = World::new();
        let hot = vec![GpuSlowdown { gpu: 0, reasons: vec![SlowdownReason::HwThermal] }];
        world.sampler.reader.0.slowdown = Some(vec![SlowdownReason::HwThermal]);
        world.sampler.outlets.events.try_send(Event::Timer).unwrap();
        for _ in 0..3 {
            world.look(WorkerState::Running);
        }
        assert_eq!(world.reported(), None, "the channel was full");
        world.look(WorkerState::Running);
        assert_eq!(world.reported(), Some(hot));
        world.look(WorkerState::Running);
        assert_eq!(world.reported(), None);
        world.sampler.reader.0.slowdown = None;
        for _ in 0..3 {
            world.look(WorkerState::Running);
        }
        assert_eq!(world.reported(), Some(Vec::new()));
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
    async fn the_sampler_can_be_switched_off() {
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
