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
