//! Named situations around signals that reach the worker and its handler processes at once: no job is blamed for a shutdown.

use runpod_handler_protocol::ErrorKind;

use super::situations::{SEGV, busy};
use super::world::World;
use crate::{ExitReason, JobStatus, Policy, Report};

const TERM: ExitReason = ExitReason::Signal(15);

fn statuses(world: &World) -> Vec<JobStatus> {
    let finished = world.reports.iter().filter_map(|report| match report {
        Report::JobFinished { status, .. } => Some(*status),
        _ => None,
    });
    finished.collect()
}

/// Ways in which a handler process ends when it gets the signal to end, too: without a handler of its own, with one that chooses an
/// exit code, behind a shell, or crashing while it ends.
const ENDINGS: [ExitReason; 8] = [
    TERM,
    ExitReason::Signal(1),
    ExitReason::Signal(2),
    ExitReason::Signal(3),
    ExitReason::Code(0),
    ExitReason::Code(1),
    ExitReason::Code(143),
    SEGV,
];

#[test]
fn a_job_whose_process_ends_with_the_worker_is_run_again_during_the_drain() {
    for ending in ENDINGS {
        let mut world = busy(1);
        world.drain();
        world.die(0, ending);
        world.wait(Policy::default().restart_delay);
        world.bring_up(0);
        assert_eq!((world.result("a"), world.running()), (None, vec!["a/2".to_owned()]), "{ending}");
        world.done("a");
        world.deliver(0);
        world.die(0, ExitReason::Code(0));
        assert_eq!((statuses(&world), world.exit), (vec![JobStatus::Completed], Some(0)), "{ending}");
    }
}

#[test]
fn a_job_whose_process_ends_a_moment_before_the_worker_is_asked_to_stop_is_not_blamed() {
    for ending in ENDINGS.into_iter().filter(|ending| *ending != SEGV) {
        let mut world = busy(1);
        world.die(0, ending);
        world.wait(Policy::default().shutdown_notice / 2);
        world.drain();
        world.wait(Policy::default().restart_delay);
        world.bring_up(0);
        assert_eq!((world.result("a"), world.running()), (None, vec!["a/2".to_owned()]), "{ending}");
    }
}

#[test]
fn a_job_that_cannot_run_again_before_the_drain_is_over_is_handed_back() {
    let mut world = busy(1);
    world.drain();
    world.die(0, TERM);
    world.wait(Policy::default().drain_grace);
    assert_eq!((statuses(&world), &world.handed_back[..]), (vec![JobStatus::HandedBack], &["a".to_owned()][..]));
    world.die(0, ExitReason::Signal(9));
    assert_eq!(world.exit, Some(0), "a shutdown does not make a worker unhealthy");
}

#[test]
fn a_job_that_has_streamed_is_handed_back_when_its_process_ends_with_the_worker() {
    for drain_first in [true, false] {
        let mut world = busy(1);
        world.chunk("a");
        if drain_first {
            world.drain();
        }
        world.die(0, TERM);
        assert_eq!((statuses(&world), world.handed_back), (vec![JobStatus::HandedBack], vec!["a".to_owned()]));
    }
}

#[test]
fn a_process_that_exits_by_itself_fails_its_job_a_moment_later_if_no_shutdown_follows() {
    let mut world = busy(1);
    world.die(0, ExitReason::Code(1));
    assert_eq!((world.result("a"), world.snapshot().jobs.in_progress), (None, 1), "the heartbeat still lists it");
    assert!(world.alive[0].is_some(), "its successor starts at once");
    world.wait(Policy::default().shutdown_notice);
    assert_eq!(world.result("a"), Some(Err(ErrorKind::Crashed)));
}

#[test]
fn an_undecided_job_can_be_cancelled() {
    let mut world = busy(1);
    world.die(0, ExitReason::Code(1));
    world.stop("a");
    assert_eq!((statuses(&world), world.result("a")), (vec![JobStatus::Cancelled], None));
}

#[test]
fn a_job_whose_process_is_ended_from_outside_again_and_again_fails() {
    let mut world = busy(1);
    for attempt in 1..=3 {
        assert_eq!(world.running(), [format!("a/{attempt}")]);
        world.die(0, TERM);
        world.wait(Policy::default().restart_delay * 4);
        world.bring_up(0);
    }
    assert_eq!(world.result("a"), Some(Err(ErrorKind::Crashed)));
    assert!(world.finals[0].1.result.clone().unwrap_err().message.contains("ended from outside"));
}

#[test]
fn a_crash_without_a_shutdown_fails_its_job_at_once() {
    let mut world = busy(1);
    world.die(0, SEGV);
    assert_eq!(world.result("a"), Some(Err(ErrorKind::Crashed)));
}
