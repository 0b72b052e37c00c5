//! What is measured at a given rate: what the log costs, and many streams at the same time.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::groups;
use crate::measure;
use crate::plan::Plan;
use crate::proc;
use crate::queue::Queue;
use crate::report::Report;
use crate::samples::Samples;
use crate::subject::{Kind, Subject, Work};

/// Jobs that stream at the same time, and the items of each in a second.
pub(crate) const STREAMS: u32 = 16;
const ITEMS: u32 = 1000;

/// Jobs a second of which every line is written: three for each, of the 1,000 a second that are.
const JOBS: u32 = 300;
/// They come in groups, one in each of these intervals.
const INTERVAL: Duration = Duration::from_millis(10);

/// The log at info, beside none: what it adds to the processor time of a job.
pub(crate) async fn logs(queue: &Queue, plan: &Plan, report: &mut Report) -> Result<()> {
    let kinds = [Kind::Quiet(50), Kind::Worker(50)];
    let subjects = groups::start(queue, &kinds, Work::Echo, &groups::text(1)).await?;
    let [quiet, logging] = subjects.as_slice() else { return Ok(()) };
    let mut shares = [Samples::default(), Samples::default()];
    for round in 0..2 * plan.rounds {
        let (mut full, mut slow) = ([0.0; 2], [0.0; 2]);
        // The order changes, so that neither is always the first.
        for turn in 0..2 {
            let index = (round + turn) % 2;
            let subject = if index == 0 { quiet } else { logging };
            full[index] = measure::rate(subject, plan.window).await?.cpu_ms;
            slow[index] = slowly(subject, 2 * plan.window).await?;
        }
        for (shares, [without, with]) in shares.iter_mut().zip([full, slow]) {
            shares.add((with / without - 1.0) * 100.0);
        }
    }
    let [full, slow] = shares;
    let none = Samples::default;
    report.row("log at info, full queue: CPU for a job", "% more", full, none(), none());
    report.row("log at info, 300 jobs a second: CPU for a job", "% more", slow, none(), none());
    Ok(())
}

/// Gives a program [`JOBS`] a second; returns its processor time for each in milliseconds.
async fn slowly(subject: &Subject, window: Duration) -> Result<f64> {
    let pids = subject.pids();
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let look = || (proc::cpu(&pids), subject.line.done());
    let (before, begun) = (look(), Instant::now());
    while begun.elapsed() < window {
        ticks.tick().await;
        subject.line.add(u64::from(JOBS) * INTERVAL.as_millis() as u64 / 1000);
    }
    subject.line.drained().await?;
    let after = look();
    Ok((after.0 - before.0) / (after.1 - before.1) as f64 * 1000.0)
}

/// Many jobs that stream: how long an item is on its way, and how many there are.
pub(crate) async fn streams(queue: &Queue, plan: &Plan, report: &mut Report) -> Result<()> {
    let job =
        format!(r#""input":{{"do":"ticks","n":{},"per_second":{ITEMS}}}"#, u64::from(ITEMS) * plan.streams.as_secs());
    let kinds = [Kind::Worker(STREAMS)];
    let subject = groups::start(queue, &kinds, Work::Puppet, &job).await?.pop().context("no worker")?;
    let pids = subject.pids();
    proc::reset_peak(&pids);
    subject.line.time_items();
    let (begun, cpu) = (Instant::now(), proc::cpu(&pids));
    subject.line.supply(u64::from(STREAMS));
    // Half of the time, so that memory that grows with the items can be told.
    sleep(plan.streams / 2).await;
    let half = proc::peak(&pids);
    subject.line.drained().await?;
    let (time, cpu) = (begun.elapsed().as_secs_f64(), proc::cpu(&pids) - cpu);
    let items: Samples = subject.line.time_items().into_iter().collect();
    let count = items.all().len() as f64;
    let one = |value: f64| [value].into_iter().collect::<Samples>();
    let mut row = |what: &str, unit, samples| {
        report.row(
            &format!("16 streams of 1,000 items/s: {what}"),
            unit,
            samples,
            Samples::default(),
            Samples::default(),
        );
    };
    row("items", "1/s", one(count / time));
    row("an item's way, median", "ms", one(items.median().unwrap_or(f64::NAN)));
    row("an item's way, p99", "ms", one(items.percentile(99.0).unwrap_or(f64::NAN)));
    row("CPU", "ms/item", one(cpu / count * 1000.0));
    row("peak memory after half of the time", "MiB", one(half));
    row("peak memory", "MiB", one(proc::peak(&pids)));
    Ok(())
}
