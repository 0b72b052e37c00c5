use proptest::prelude::*;

use super::*;

fn bounds(items: u32, wait: Duration) -> Bounds {
    Bounds { items, cost: u64::MAX, wait }
}

/// One step of a random schedule.
#[derive(Clone, Debug)]
enum Step {
    Arrive { key: u8, cost: u64 },
    Cancel { index: usize },
    RunBatch,
    Pass { millis: u64 },
    SetBudget { budget: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..3, 0u64..40).prop_map(|(key, cost)| Step::Arrive { key, cost }),
        1 => (0usize..20).prop_map(|index| Step::Cancel { index }),
        2 => Just(Step::RunBatch),
        1 => (0u64..30).prop_map(|millis| Step::Pass { millis }),
        1 => (1u64..100).prop_map(|budget| Step::SetBudget { budget }),
    ]
}

/// What arrived and has neither run nor been cancelled: number, key, cost and time of arrival.
type Pending = Vec<(usize, u8, u64, Instant)>;

/// Compares a batch with the items that wait.
fn verify(items: &[usize], pending: &mut Pending, limits: &Bounds, budget: u64) -> Result<(), TestCaseError> {
    let oldest = pending[0];
    prop_assert_eq!(items[0], oldest.0, "nobody starves: the oldest item is in the next batch");
    prop_assert!(items.len() <= limits.items as usize);
    let same_key: Vec<usize> =
        pending.iter().filter(|(_, key, ..)| *key == oldest.1).map(|(number, ..)| *number).collect();
    prop_assert_eq!(items, &same_key[..items.len()], "the order is kept within a key, and keys do not mix");
    let cost: u64 = pending.iter().filter(|(number, ..)| items.contains(number)).map(|(_, _, cost, _)| cost).sum();
    prop_assert!(cost <= budget || items.len() == 1, "cost {} over budget {}", cost, budget);
    pending.retain(|(number, ..)| !items.contains(number));
    Ok(())
}

proptest! {
    #[test]
    fn every_item_runs_once_in_order_within_the_limits(
        steps in prop::collection::vec(step(), 1..120),
        max_items in 1u32..6,
        wait_millis in prop_oneof![Just(0u64), 1u64..20],
    ) {
        let limits = bounds(max_items, Duration::from_millis(wait_millis));
        let (mut waiting, mut pending) = (Waiting::default(), Pending::new());
        let (mut now, mut budget, mut arrived) = (Instant::now(), 50u64, 0usize);
        for step in steps {
            match step {
                Step::Arrive { key, cost } => {
                    waiting.push(key, cost, now, arrived);
                    pending.push((arrived, key, cost, now));
                    arrived += 1;
                }
                Step::Cancel { index } => {
                    let wanted = pending.get(index).map(|(number, ..)| *number);
                    let removed = waiting.remove(|number| Some(*number) == wanted);
                    prop_assert_eq!(removed, wanted, "a cancelled item leaves at once");
                    pending.retain(|(number, ..)| Some(*number) != wanted);
                }
                Step::Pass { millis } => now += Duration::from_millis(millis),
                Step::SetBudget { budget: new } => budget = new,
                Step::RunBatch => match waiting.next(now, &limits, budget, Load::default()) {
                    Next::Idle => prop_assert!(pending.is_empty()),
                    Next::Wait(time) => {
                        let since = pending[0].3;
                        prop_assert_eq!(now + time, since + limits.wait, "nobody waits longer than the limit");
                    }
                    Next::Run(items, _) => verify(&items, &mut pending, &limits, budget)?,
                },
            }
        }
        // Without a new arrival everything that waits runs.
        now += limits.wait;
        while !pending.is_empty() {
            match waiting.next(now, &limits, budget, Load::default()) {
                Next::Run(items, _) => verify(&items, &mut pending, &limits, budget)?,
                other => prop_assert!(false, "{:?} with {} pending", other, pending.len()),
            }
        }
        prop_assert_eq!(waiting.next(now, &limits, budget, Load::default()), Next::Idle);
    }
}

#[test]
fn an_idle_model_runs_a_single_item_at_once() {
    let (limits, now) = (bounds(8, Duration::ZERO), Instant::now());
    let mut waiting = Waiting::default();
    waiting.push((), 1, now, 'a');
    assert_eq!(waiting.next(now, &limits, u64::MAX, Load::default()), Next::Run(vec!['a'], ClosedBy::Idle));
    assert_eq!(waiting.next(now, &limits, u64::MAX, Load::default()), Next::Idle);
}

#[test]
fn a_full_batch_does_not_wait() {
    let (limits, now) = (bounds(2, Duration::from_secs(1)), Instant::now());
    let mut waiting = Waiting::default();
    waiting.push((), 1, now, 'a');
    assert_eq!(waiting.next(now, &limits, 10, Load::default()), Next::Wait(Duration::from_secs(1)));
    waiting.push((), 1, now, 'b');
    assert_eq!(waiting.next(now, &limits, 10, Load::default()), Next::Run(vec!['a', 'b'], ClosedBy::Full));
    waiting.push((), 9, now, 'c');
    waiting.push((), 2, now, 'd');
    assert_eq!(waiting.next(now, &limits, 10, Load::default()), Next::Run(vec!['c'], ClosedBy::Cost));
}

#[test]
fn a_batch_without_all_that_wait_says_why() {
    let now = Instant::now();
    let mut waiting = Waiting::default();
    waiting.push("x", 1, now, 'a');
    waiting.push("y", 1, now, 'b');
    let at_once = bounds(8, Duration::ZERO);
    assert_eq!(waiting.next(now, &at_once, 10, Load::default()), Next::Run(vec!['a'], ClosedBy::Key));
    let patient = bounds(8, Duration::from_secs(1));
    let later = now + Duration::from_secs(1);
    assert_eq!(waiting.next(later, &patient, 10, Load::default()), Next::Run(vec!['b'], ClosedBy::WaitOver));
}

/// One event of a random schedule in which items join others that run.
#[derive(Clone, Debug)]
enum Event {
    Arrive { cost: u64 },
    Cancel { index: usize },
    End { index: usize },
    SetBudget { budget: u64 },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0u64..40).prop_map(|cost| Event::Arrive { cost }),
        1 => (0usize..20).prop_map(|index| Event::Cancel { index }),
        3 => (0usize..6).prop_map(|index| Event::End { index }),
        1 => (1u64..100).prop_map(|budget| Event::SetBudget { budget }),
    ]
}

/// Number and cost.
type Item = (usize, u64);

fn cost_of(items: &[Item]) -> u64 {
    items.iter().map(|(_, cost)| cost).sum()
}

/// Lets items join, and verifies that it is those that must.
fn join(
    waiting: &mut Waiting<(), usize>,
    pending: &mut Vec<Item>,
    running: &mut Vec<Item>,
    bounds: &Bounds,
    budget: u64,
) -> Result<(), TestCaseError> {
    let load = Load { items: running.len(), cost: cost_of(running) };
    let joined = match waiting.next(Instant::now(), bounds, budget, load) {
        Next::Run(items, _) => items,
        Next::Idle => Vec::new(),
        Next::Wait(time) => return Err(TestCaseError::fail(format!("waits for {time:?}"))),
    };
    let oldest: Vec<usize> = pending.iter().take(joined.len()).map(|(number, _)| *number).collect();
    prop_assert_eq!(&joined, &oldest, "the oldest join first, and none overtakes another");
    running.extend(pending.drain(..joined.len()));
    prop_assert!(running.len() <= bounds.items as usize);
    prop_assert!(joined.is_empty() || running.len() == 1 || cost_of(running) <= budget, "over the budget");
    if let Some((_, next)) = pending.first() {
        let is_full = running.len() == bounds.items as usize || cost_of(running) + next > budget;
        prop_assert!(is_full && !running.is_empty(), "nobody waits while there is room");
    }
    Ok(())
}

proptest! {
    #[test]
    fn items_join_in_order_as_soon_as_there_is_room(
        events in prop::collection::vec(event(), 1..120),
        max_items in 1u32..6,
    ) {
        let bounds = bounds(max_items, Duration::ZERO);
        let (mut waiting, mut pending, mut running) = (Waiting::default(), Vec::new(), Vec::<Item>::new());
        let (mut budget, mut arrived) = (50u64, 0usize);
        for event in events {
            match event {
                Event::Arrive { cost } => {
                    waiting.push((), cost, Instant::now(), arrived);
                    pending.push((arrived, cost));
                    arrived += 1;
                }
                Event::Cancel { index } => {
                    let wanted = pending.get(index).map(|(number, _)| *number);
                    prop_assert_eq!(waiting.remove(|number| Some(*number) == wanted), wanted);
                    pending.retain(|(number, _)| Some(*number) != wanted);
                }
                Event::End { index } if index < running.len() => {
                    running.remove(index);
                }
                Event::End { .. } => {}
                Event::SetBudget { budget: new } => budget = new,
            }
            join(&mut waiting, &mut pending, &mut running, &bounds, budget)?;
        }
        // When running items end, all that wait have their turn, however dear they are.
        while !pending.is_empty() {
            prop_assert!(!running.is_empty());
            running.remove(0);
            join(&mut waiting, &mut pending, &mut running, &bounds, budget)?;
        }
    }
}

#[test]
fn an_item_that_is_put_back_is_the_next_one() {
    let (bounds, now) = (bounds(1, Duration::ZERO), Instant::now());
    let mut waiting = Waiting::default();
    waiting.push((), 1, now, 'a');
    waiting.push((), 1, now, 'b');
    assert!(matches!(waiting.next(now, &bounds, 10, Load::default()), Next::Run(items, _) if items == ['a']));
    waiting.put_back((), 1, now, 'a');
    assert_eq!(waiting.next(now, &bounds, 10, Load { items: 1, cost: 1 }), Next::Idle);
    assert!(matches!(waiting.next(now, &bounds, 10, Load::default()), Next::Run(items, _) if items == ['a']));
}
