use super::*;

const IDLE: Activity = Activity::Idle { taken: 0 };

fn settings(min: u16, max: u16, rule: &str) -> ScaleSettings {
    ScaleSettings { min, max, rule: rule.parse().unwrap(), idle_timeout: Duration::from_secs(5) }
}

fn reading(waiting: usize, oldest: u64, in_progress: usize, places: &[Activity]) -> Reading {
    let places = places.iter().copied().enumerate().map(|(place, activity)| (place as u16, activity)).collect();
    Reading {
        waiting,
        oldest: (waiting > 0).then(|| Duration::from_secs(oldest)),
        in_progress,
        background: false,
        places,
        resumed: BTreeSet::new(),
        other_hosts: OtherHosts::default(),
    }
}

/// Feeds looks, one for each given second, and checks what is decided.
fn play(settings: ScaleSettings, events: &[(u64, Reading, &[Action])]) {
    let mut scaler = Scaler::new(settings);
    for (second, reading, expected) in events {
        assert_eq!(scaler.decide(Duration::from_secs(*second), reading), *expected, "at {second} s: {reading:?}");
    }
}

use Action::{Retire, Start};
use Activity::{Busy, Leaving, Out, Starting};

#[test]
fn a_place_that_a_request_waits_for_is_started_whatever_else_runs() {
    let resumed = |places: &[u16], reading| Reading { resumed: places.iter().copied().collect(), ..reading };
    play(
        settings(0, 3, "request-count=2"),
        &[
            (0, resumed(&[2], reading(1, 0, 0, &[])), &[Start(2)]),
            (1, resumed(&[1], reading(1, 0, 0, &[IDLE])), &[Start(1)]),
            (2, resumed(&[2], reading(5, 0, 0, &[Busy])), &[Start(2), Start(1)]),
            // It is there already, still leaves, or does not exist.
            (3, resumed(&[0], reading(1, 0, 0, &[Starting])), &[]),
            (4, resumed(&[0], reading(1, 0, 0, &[Leaving])), &[Start(1)]),
            (5, resumed(&[3], reading(1, 0, 0, &[Busy])), &[]),
        ],
    );
}

#[test]
fn workers_at_other_hosts_count() {
    let with = |present, starting, reading| Reading { other_hosts: OtherHosts { present, starting }, ..reading };
    play(
        settings(0, 4, "request-count=2"),
        &[
            (0, with(2, 0, reading(4, 0, 0, &[])), &[]),
            (1, with(2, 0, reading(8, 0, 0, &[])), &[Start(0), Start(1)]),
            (2, with(9, 0, reading(8, 0, 0, &[Busy, Busy])), &[]),
        ],
    );
    play(
        settings(0, 4, "queue-delay=4s"),
        &[
            (0, with(1, 1, reading(1, 5, 0, &[])), &[]),
            (1, with(1, 0, reading(1, 5, 0, &[])), &[Start(0)]),
            (2, with(3, 0, reading(1, 1, 0, &[Busy])), &[]),
        ],
    );
}

#[test]
fn the_minimum_is_started_and_kept() {
    play(
        settings(2, 4, "queue-delay"),
        &[
            (0, reading(0, 0, 0, &[]), &[Start(0), Start(1)]),
            (1, reading(0, 0, 0, &[IDLE, IDLE]), &[]),
            (100, reading(0, 0, 0, &[IDLE, IDLE]), &[]),
        ],
    );
}

#[test]
fn the_first_job_starts_a_worker_at_once_and_the_idle_timeout_ends_it() {
    play(
        settings(0, 3, "queue-delay"),
        &[
            (0, reading(0, 0, 0, &[]), &[]),
            (1, reading(1, 0, 0, &[]), &[Start(0)]),
            (2, reading(1, 1, 0, &[Starting]), &[]),
            (3, reading(0, 0, 1, &[Busy]), &[]),
            (4, reading(0, 0, 0, &[IDLE]), &[]),
            (8, reading(0, 0, 0, &[IDLE]), &[]),
            (9, reading(0, 0, 0, &[IDLE]), &[Retire(0)]),
            (10, reading(0, 0, 0, &[Leaving]), &[]),
        ],
    );
}

#[test]
fn a_queue_that_waits_too_long_adds_workers_one_by_one_up_to_the_maximum() {
    play(
        settings(1, 3, "queue-delay=4s"),
        &[
            (0, reading(0, 0, 0, &[]), &[Start(0)]),
            (5, reading(9, 3, 1, &[Busy]), &[]),
            (6, reading(9, 4, 1, &[Busy]), &[Start(1)]),
            (6, reading(9, 4, 1, &[Busy, Starting]), &[]),
            (7, reading(9, 5, 1, &[Busy, Starting]), &[Start(2)]),
            (9, reading(9, 7, 1, &[Busy, Starting, Starting]), &[]),
        ],
    );
}

#[test]
fn a_worker_that_is_starting_covers_one_waiting_job() {
    play(settings(0, 3, "queue-delay=4s"), &[(9, reading(1, 8, 1, &[Busy, Starting]), &[])]);
}

#[test]
fn a_worker_that_is_out_keeps_no_job_waiting_and_is_not_replaced_without_one() {
    for rule in ["request-count=2", "queue-delay=4s"] {
        play(
            settings(1, 3, rule),
            &[
                (0, reading(0, 0, 0, &[Out]), &[]),
                (1, reading(1, 0, 0, &[Out]), &[Start(1)]),
                (2, reading(1, 1, 0, &[Out, Starting]), &[]),
                (3, reading(1, 2, 0, &[Out, Out]), &[Start(2)]),
                (4, reading(1, 3, 0, &[Out, Out, Out]), &[]),
                // The one that took its place stays for as long as it is the least number.
                (5, reading(0, 0, 0, &[Out, IDLE]), &[]),
                (30, reading(0, 0, 0, &[Out, IDLE]), &[]),
                (31, reading(0, 0, 0, &[IDLE, IDLE]), &[Retire(1)]),
            ],
        );
    }
}

#[test]
fn the_request_count_gives_the_number_of_workers() {
    play(
        settings(0, 3, "request-count=2"),
        &[
            (0, reading(3, 0, 0, &[]), &[Start(0), Start(1)]),
            (1, reading(9, 0, 2, &[Busy, Busy]), &[Start(2)]),
            (2, reading(0, 0, 2, &[Busy, IDLE, IDLE]), &[]),
            (7, reading(0, 0, 2, &[Busy, IDLE, IDLE]), &[Retire(2), Retire(1)]),
        ],
    );
}

#[test]
fn work_of_low_priority_is_for_one_worker_however_much_of_it_there_is() {
    let with_batch = |reading| Reading { background: true, ..reading };
    for rule in ["request-count=1", "queue-delay=4s"] {
        play(
            settings(0, 5, rule),
            &[
                (0, with_batch(reading(0, 0, 0, &[])), &[Start(0)]),
                (1, with_batch(reading(0, 0, 0, &[Starting])), &[]),
                (2, with_batch(reading(0, 0, 0, &[Busy])), &[]),
                (60, with_batch(reading(0, 0, 0, &[Busy])), &[]),
                // What was started for other jobs is there for them.
                (61, with_batch(reading(0, 0, 0, &[Busy, IDLE])), &[]),
                (66, with_batch(reading(0, 0, 0, &[Busy, IDLE])), &[Retire(1)]),
            ],
        );
    }
    play(
        settings(0, 5, "request-count=1"),
        &[
            (0, with_batch(reading(1, 0, 0, &[Busy])), &[Start(1)]),
            (1, with_batch(reading(1, 0, 1, &[Busy, Busy])), &[Start(2)]),
        ],
    );
}

#[test]
fn a_worker_that_was_busy_between_two_readings_is_not_idle() {
    let idle = |taken| reading(0, 0, 0, &[Activity::Idle { taken }]);
    play(
        settings(0, 1, "queue-delay"),
        &[(0, idle(0), &[]), (4, idle(1), &[]), (8, idle(2), &[]), (13, idle(2), &[Retire(0)])],
    );
}

#[test]
fn a_slot_is_free_again_only_when_its_worker_has_left() {
    play(
        settings(0, 1, "queue-delay"),
        &[(0, reading(1, 0, 0, &[Leaving]), &[]), (1, reading(1, 1, 0, &[]), &[Start(0)])],
    );
}

#[test]
fn rules_are_read() {
    assert_eq!("request-count=3".parse(), Ok(ScalerRule::RequestCount(3)));
    assert_eq!("queue-delay=500ms".parse(), Ok(ScalerRule::QueueDelay(Duration::from_millis(500))));
    for bad in ["", "queue-delay=", "request-count=0", "cpu"] {
        assert!(bad.parse::<ScalerRule>().is_err(), "{bad}");
    }
}
