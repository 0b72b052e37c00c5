//! Named situations, one test a row of the transition and failure tables.

use std::time::Duration;

use runpod_handler_protocol::{ErrorKind, PROTOCOL_VERSION, StopReason, ToHandler};

use super::world::{World, taken};
use crate::{
    DeliveryEvent, Event, ExitReason, JobId, Policy, PollAnswer, PollBlocker, ProcessEvent, TakenJob, WorkerState,
};

pub(super) const SEGV: ExitReason = ExitReason::Signal(11);

pub(super) fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// One process, `slots` slots, all of them running a job named a, b, c…
pub(super) fn busy(slots: u32) -> World {
    let mut world = World::serving_with(Policy { slots, ..Policy::default() });
    let names = ["a", "b", "c", "d"];
    world.arrive(&names[..slots as usize]);
    for name in &names[..slots as usize] {
        world.started(name);
    }
    world
}

#[test]
fn polls_for_exactly_the_slots_that_are_ready() {
    let mut world = World::new(Policy { slots: 3, ..Policy::default() });
    assert_eq!(world.poll, None, "nothing is asked for before the model can run");
    world.bring_up(0);
    assert_eq!(world.poll, Some(3));
    world.arrive(&["a"]);
    assert_eq!(world.poll, Some(2));
    world.feed(Event::Poll(PollAnswer::Empty));
    assert_eq!(world.poll, Some(2), "the next poll follows at once");
    world.arrive(&["b", "c"]);
    assert_eq!(world.poll, None, "all slots are busy");
    world.done("b");
    assert_eq!(world.poll, Some(1), "and again as soon as one is free");
}

#[test]
fn prefetch_holds_jobs_without_running_them() {
    let mut world = World::serving_with(Policy { prefetch: 2, ..Policy::default() });
    assert_eq!(world.poll, Some(3));
    world.arrive(&["a", "b", "c"]);
    let jobs = world.snapshot().jobs;
    assert_eq!((jobs.in_progress, jobs.in_queue), (1, 2));
    world.done("a");
    assert_eq!(world.running(), ["b/1"]);
}

#[test]
fn a_rate_limited_worker_is_throttled_until_the_next_good_poll() {
    let mut world = World::serving();
    world.feed(Event::Poll(PollAnswer::RateLimited { retry_after: seconds(5) }));
    assert_eq!((world.snapshot().state, world.poll), (WorkerState::Throttled, None));
    world.wait(seconds(5));
    assert_eq!(world.poll, Some(1));
    world.feed(Event::Poll(PollAnswer::Empty));
    assert_eq!(world.snapshot().state, WorkerState::Idle);
}

#[test]
fn a_failed_poll_is_repeated_after_its_pause() {
    let mut world = World::serving();
    world.feed(Event::Poll(PollAnswer::Failed { retry_after: seconds(3), reason: "the queue failed".into() }));
    world.wait(Duration::from_millis(2999));
    assert_eq!(world.poll, None);
    world.wait(Duration::from_millis(1));
    assert_eq!(world.poll, Some(1));
}

#[test]
fn the_end_of_an_outage_ends_the_pause_after_a_failed_poll_but_not_after_429() {
    let mut world = World::serving();
    world.feed(Event::Poll(PollAnswer::Failed { retry_after: seconds(30), reason: "the queue failed".into() }));
    assert_eq!(world.poll, None);
    world.feed(Event::PollAgain);
    assert_eq!(world.poll, Some(1));
    world.feed(Event::Poll(PollAnswer::RateLimited { retry_after: seconds(5) }));
    world.feed(Event::PollAgain);
    assert_eq!(world.poll, None);
    world.wait(seconds(5));
    assert_eq!(world.poll, Some(1));
}

#[test]
fn a_job_that_cannot_be_read_fails_with_the_reason() {
    let mut world = World::serving();
    let job = TakenJob { body: Err("the id is a number".into()), ..taken("a") };
    world.feed(Event::Poll(PollAnswer::Jobs(vec![job])));
    assert_eq!(world.result("a"), Some(Err(ErrorKind::Protocol)));
    assert!(world.running().is_empty());
}

#[test]
fn a_job_that_is_held_is_not_run_twice_and_a_completed_one_is_answered_again() {
    let mut world = World::serving_with(Policy { slots: 2, ..Policy::default() });
    world.arrive(&["a"]);
    world.arrive(&["a"]);
    assert_eq!(world.running(), ["a/1"]);
    world.done("a");
    world.deliver(0);
    assert!(world.snapshot().held.is_empty());
    world.arrive(&["a"]);
    assert!(world.running().is_empty(), "the result is known");
    assert_eq!(world.result("a"), Some(Ok("42".into())));
    assert_eq!(world.snapshot().jobs.completed, 1);
}

#[test]
fn a_failed_job_that_comes_again_is_run_again() {
    let mut world = busy(1);
    world.failed("a", ErrorKind::InferenceError, false);
    world.deliver(0);
    world.arrive(&["a"]);
    assert_eq!(world.running(), ["a/1"]);
}

#[test]
fn the_slot_is_free_before_the_result_is_delivered() {
    let mut world = busy(1);
    world.done("a");
    assert_eq!(world.poll, Some(1));
    assert_eq!(world.snapshot().held.len(), 1, "the heartbeat lists it until it is delivered");
    world.deliver(0);
    assert!(world.snapshot().held.is_empty());
}

#[test]
fn a_deadline_cancels_then_kills_then_reports_a_timeout() {
    let mut world = World::serving();
    let job = TakenJob { timeout: Some(seconds(20)), ..taken("a") };
    world.feed(Event::Poll(PollAnswer::Jobs(vec![job])));
    world.wait(seconds(20));
    assert!(
        world.was_sent(|message| matches!(message, ToHandler::Stop { attempt: 1, reason: StopReason::Deadline, .. }))
    );
    assert!(!world.killed[0]);
    world.wait(seconds(5));
    assert!(world.killed[0], "it did not yield within the grace");
    assert_eq!(world.result("a"), None, "not before the process is gone");
    world.die(0, ExitReason::Signal(9));
    assert_eq!(world.result("a"), Some(Err(ErrorKind::Timeout)));
    let jobs = world.snapshot().jobs;
    assert_eq!((jobs.failed, jobs.timed_out), (1, 1));
    assert!(world.alive[0].is_some(), "a successor is started at once");
}

#[test]
fn a_job_that_stops_when_asked_at_its_deadline_keeps_its_process() {
    let mut world = World::serving();
    let job = TakenJob { timeout: Some(seconds(20)), ..taken("a") };
    world.feed(Event::Poll(PollAnswer::Jobs(vec![job])));
    world.wait(seconds(20));
    world.failed("a", ErrorKind::Cancelled, false);
    assert_eq!(world.result("a"), Some(Err(ErrorKind::Timeout)));
    assert_eq!(world.poll, Some(1));
    world.wait(seconds(20));
    assert!(!world.killed[0]);
}

#[test]
fn a_job_whose_handler_notices_the_deadline_first_times_out_too() {
    let mut world = World::serving();
    let job = |id| TakenJob { timeout: Some(seconds(20)), ..taken(id) };
    world.feed(Event::Poll(PollAnswer::Jobs(vec![job("a")])));
    world.wait(Duration::from_millis(19_900));
    world.failed("a", ErrorKind::Timeout, false);
    assert_eq!(world.snapshot().jobs.timed_out, 1);
    world.feed(Event::Poll(PollAnswer::Jobs(vec![job("b")])));
    world.failed("b", ErrorKind::Timeout, false);
    assert_eq!(world.snapshot().jobs.timed_out, 1, "a time limit of the handler's own is an ordinary failure");
}

#[test]
fn a_result_that_arrives_before_the_process_has_exited_beats_the_timeout() {
    let mut world = World::serving();
    let job = TakenJob { timeout: Some(seconds(20)), ..taken("a") };
    world.feed(Event::Poll(PollAnswer::Jobs(vec![job])));
    world.wait(seconds(25));
    assert!(world.killed[0]);
    world.done("a");
    assert_eq!(world.result("a"), Some(Ok("42".into())));
}

#[test]
fn a_queued_job_times_out_without_being_run() {
    let mut world = World::serving_with(Policy { prefetch: 1, ..Policy::default() });
    let late = TakenJob { timeout: Some(seconds(10)), ..taken("b") };
    world.feed(Event::Poll(PollAnswer::Jobs(vec![taken("a"), late])));
    world.wait(seconds(10));
    assert_eq!(world.result("b"), Some(Err(ErrorKind::Timeout)));
    assert_eq!(world.running(), ["a/1"]);
}

#[test]
fn a_stopped_job_posts_nothing() {
    let mut world = busy(1);
    world.stop("a");
    assert!(world.was_sent(|message| matches!(message, ToHandler::Stop { reason: StopReason::Cancelled, .. })));
    world.chunk("a");
    assert!(world.was_sent(|message| matches!(message, ToHandler::ChunkAck { .. })), "a dropped chunk is acknowledged");
    world.done("a");
    assert_eq!((world.result("a"), world.snapshot().jobs.cancelled), (None, 1));
    assert!(world.snapshot().held.is_empty());
    world.stop("a");
    world.stop("never seen");
}

#[test]
fn a_stop_that_comes_before_its_job_is_not_forgotten() {
    let mut world = World::serving_with(Policy { slots: 2, ..Policy::default() });
    world.stop("a");
    world.arrive(&["a", "b"]);
    assert_eq!(world.running(), ["b/1"]);
    assert_eq!((world.result("a"), world.snapshot().jobs.cancelled), (None, 1));
    assert_eq!(world.snapshot().held, [JobId::from("b")].into());
}

#[test]
fn a_job_that_is_stopped_early_and_comes_twice_in_one_answer_is_not_run_the_second_time() {
    let mut world = World::serving_with(Policy { slots: 2, ..Policy::default() });
    world.stop("a");
    world.arrive(&["a", "a"]);
    assert!(world.running().is_empty());
    assert_eq!(world.snapshot().jobs.cancelled, 1);
}

#[test]
fn a_stop_for_an_unknown_job_is_forgotten_with_the_poll_that_could_have_brought_it() {
    let mut world = World::serving_with(Policy::default());
    world.stop("a");
    world.feed(Event::Poll(PollAnswer::Empty));
    world.arrive(&["a"]);
    assert_eq!(world.running(), ["a/1"], "a job that comes later was sent again on purpose");
    world.stop("b");
    world.done("a");
    world.arrive(&["b"]);
    assert_eq!(world.running(), ["b/1"], "nothing was on its way when b was stopped");
}

#[test]
fn a_stopped_job_that_ignores_it_costs_its_process_after_its_neighbours_had_their_time() {
    let mut world = busy(2);
    world.stop("a");
    world.wait(seconds(5));
    assert!(!world.killed[0], "b may finish");
    assert_eq!(world.poll, None, "but nothing new is taken");
    world.wait(seconds(29));
    assert!(!world.killed[0]);
    world.wait(seconds(1));
    assert!(world.killed[0], "not for ever");
    world.die(0, ExitReason::Signal(9));
    assert_eq!((world.result("a"), world.snapshot().jobs.cancelled), (None, 1));
    assert_eq!(world.snapshot().jobs.retried, 1);
    world.bring_up(0);
    assert_eq!(world.running(), ["b/2"]);
}

#[test]
fn the_process_is_killed_as_soon_as_its_neighbours_are_done() {
    let mut world = busy(2);
    world.stop("a");
    world.wait(seconds(6));
    world.done("b");
    assert!(world.killed[0]);
}

#[test]
fn loading_is_judged_by_progress() {
    let mut world = World::new(Policy::default());
    world.process(0, ProcessEvent::Spawned { pid: 1 });
    world.hello(0, PROTOCOL_VERSION, false);
    for done in 0..4 {
        // Pongs come from the control thread, progress from the loading thread.
        world.wait(seconds(250));
        let message =
            runpod_handler_protocol::ToSupervisor::Loading { slot: 0, stage: "weights".into(), done, total: 9 };
        world.say(0, message, "".into());
        assert!(!world.killed[0], "it moves, however slowly");
    }
    world.wait(seconds(300));
    assert!(world.killed[0]);
}

#[test]
fn a_full_outbox_stops_the_polling() {
    let mut world = World::serving_with(Policy { slots: 2, ..Policy::default() });
    world.feed(Event::Delivery(DeliveryEvent::Full(true)));
    world.feed(Event::Poll(PollAnswer::Aborted));
    assert_eq!(world.poll, None);
    world.feed(Event::Delivery(DeliveryEvent::Full(false)));
    assert_eq!(world.poll, Some(2));
}

#[test]
fn results_that_wait_for_their_turn_delay_the_next_poll_and_not_the_one_in_flight() {
    let mut world = World::serving_with(Policy { slots: 2, ..Policy::default() });
    world.feed(Event::Delivery(DeliveryEvent::Behind(true)));
    assert_eq!((world.poll, world.snapshot().poll.blocked_by), (Some(2), None));
    world.feed(Event::Poll(PollAnswer::Empty));
    assert_eq!((world.poll, world.snapshot().poll.blocked_by), (None, Some(PollBlocker::DeliveryBehind)));
    assert_eq!((world.snapshot().state, world.snapshot().reason), (WorkerState::Idle, None));
    world.feed(Event::Delivery(DeliveryEvent::Behind(false)));
    assert_eq!(world.poll, Some(2));
}

#[test]
fn jobs_that_run_much_longer_than_results_wait_are_taken_although_many_results_wait() {
    for (run, delivery, is_taken) in [(100, 20, true), (100, 30, false)] {
        let mut world = World::serving_with(Policy { slots: 2, ..Policy::default() });
        world.arrive(&["a"]);
        world.started("a");
        world.wait(Duration::from_millis(run));
        world.done("a");
        world.wait(Duration::from_millis(delivery));
        world.deliver(0);
        world.feed(Event::Delivery(DeliveryEvent::Behind(true)));
        world.feed(Event::Poll(PollAnswer::Empty));
        assert_eq!(world.poll.is_some(), is_taken, "{run} ms and {delivery} ms");
    }
}

#[test]
fn polling_stops_while_the_only_process_is_replaced() {
    let mut world = World::serving();
    world.die(0, SEGV);
    world.feed(Event::Poll(PollAnswer::Aborted));
    assert_eq!((world.poll, world.snapshot().state), (None, WorkerState::Initializing));
    world.bring_up(0);
    assert_eq!(world.poll, Some(1));
}

#[test]
fn drain_finishes_what_runs_and_exits_with_0() {
    let mut world = busy(1);
    world.drain();
    assert_eq!(world.snapshot().state, WorkerState::Draining);
    world.wait(seconds(20));
    world.done("a");
    assert!(world.was_sent(|message| *message == ToHandler::Shutdown));
    world.die(0, ExitReason::Code(0));
    assert_eq!(world.exit, None, "the result is not delivered yet");
    world.deliver(0);
    assert_eq!(world.exit, Some(0));
}

#[test]
fn a_job_that_arrives_during_the_drain_is_run() {
    let mut world = World::serving();
    world.drain();
    world.arrive(&["a"]);
    assert_eq!(world.running(), ["a/1"]);
    world.done("a");
    assert_eq!(world.result("a"), Some(Ok("42".into())));
}

#[test]
fn a_drain_that_takes_too_long_cancels_then_kills_and_hands_the_job_back() {
    let mut world = busy(1);
    world.drain();
    world.wait(seconds(30));
    assert!(world.was_sent(|message| matches!(message, ToHandler::Stop { reason: StopReason::Drain, .. })));
    world.wait(seconds(5));
    assert!(world.killed[0]);
    world.die(0, ExitReason::Signal(9));
    assert_eq!((world.result("a"), world.snapshot().jobs.handed_back, world.exit), (None, 1, Some(0)));
}

#[test]
fn a_second_signal_waits_for_nothing() {
    let mut world = busy(1);
    world.drain();
    world.feed(Event::Abort);
    assert!(world.killed[0]);
    world.die(0, ExitReason::Signal(9));
    assert_eq!(world.exit, Some(0));
}

#[test]
fn messages_of_an_earlier_attempt_are_dropped() {
    let mut world = busy(2);
    let first = world.run_of("a");
    world.die(0, SEGV);
    world.bring_up(0);
    let message = runpod_handler_protocol::ToSupervisor::Done {
        job: "a".into(),
        attempt: first.attempt,
        refresh: false,
        records: std::collections::BTreeMap::new(),
    };
    world.say(0, message, "\"of the first attempt\"".into());
    assert_eq!(world.result("a"), None);
    world.done("a");
    assert_eq!(world.result("a"), Some(Ok("42".into())));
}

#[test]
fn chunks_are_acknowledged_when_they_have_left() {
    let mut world = busy(1);
    world.chunk("a");
    let job = JobId::from("a");
    assert!(!world.was_sent(|message| matches!(message, ToHandler::ChunkAck { .. })));
    world.feed(Event::Delivery(DeliveryEvent::Chunk { job, attempt: 1, seq: 1 }));
    assert!(world.was_sent(|message| matches!(message, ToHandler::ChunkAck { seq: 1, .. })));
}

#[test]
fn several_processes_share_the_work_evenly() {
    let mut world = World::serving_with(Policy { processes: 2, slots: 2, ..Policy::default() });
    while world.poll == Some(2) {
        world.feed(Event::Poll(PollAnswer::Empty));
    }
    assert_eq!(world.poll, Some(4));
    world.arrive(&["a", "b"]);
    let processes: Vec<usize> = world.runs.iter().map(|run| run.process.0).collect();
    assert_eq!(processes, [0, 1]);
}

#[test]
fn results_of_an_earlier_run_are_delivered_before_the_first_poll() {
    let mut world = World::new(Policy::default());
    world.leave_undelivered(&["a".to_owned(), "b".to_owned()]);
    world.bring_up(0);
    assert_eq!((world.poll, world.snapshot().held.len()), (None, 2), "the heartbeat lists both");
    assert!(world.snapshot().reason.is_some_and(|reason| reason.contains("earlier run")));
    world.deliver(0);
    assert_eq!(world.poll, None);
    world.deliver(0);
    assert_eq!((world.poll, world.snapshot().held.len()), (Some(1), 0));
}

#[test]
fn results_of_an_earlier_run_that_are_not_accepted_delay_polling_for_a_minute_only() {
    let mut world = World::new(Policy::default());
    world.leave_undelivered(&["a".to_owned()]);
    world.bring_up(0);
    world.wait(seconds(59));
    assert_eq!(world.poll, None);
    world.wait(seconds(1));
    assert_eq!((world.poll, world.snapshot().held.len()), (Some(1), 1), "it is still held");
    world.arrive(&["a"]);
    assert!(world.running().is_empty(), "the queue sends it again: its result is known");
}
