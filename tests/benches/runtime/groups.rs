//! What is measured: each function runs one group of programs and adds its rows.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::measure::{self, Rate};
use crate::plan::Plan;
use crate::proc;
use crate::queue::Queue;
use crate::report::Report;
use crate::samples::Samples;
use crate::subject::{Kind, Subject, Work, has_official};

/// A stuck job's process is gone much sooner.
const KILL_LIMIT: Duration = Duration::from_secs(60);

/// An input that is echoed; 20 bytes around the text.
pub(crate) fn text(len: usize) -> String {
    format!("\"input\":{}", json!({"text": "x".repeat(len)}))
}

/// Starts programs, all with the same jobs, and waits until they poll. The official worker is left out where it is not installed.
pub(crate) async fn start(queue: &Queue, kinds: &[Kind], work: Work, job: &str) -> Result<Vec<Subject>> {
    let wanted = kinds.iter().filter(|kind| !matches!(kind, Kind::Official(_)) || has_official());
    let subjects = wanted.map(|kind| Subject::start(queue, *kind, work, job)).collect::<Result<Vec<_>>>()?;
    for subject in &subjects {
        subject.ready().await?;
    }
    Ok(subjects)
}

/// The rates of all programs, by their kind; the window of the official worker is its own.
async fn rates(subjects: &[Subject], plan: &Plan, report: &mut Report) -> Result<BTreeMap<Kind, Vec<Rate>>> {
    let mut rates: BTreeMap<Kind, Vec<Rate>> = BTreeMap::new();
    for round in 0..plan.rounds {
        for subject in subjects {
            let window = match subject.kind {
                Kind::Official(_) if round >= plan.official_rounds => continue,
                Kind::Official(_) => plan.official_window,
                _ => plan.window,
            };
            let rate = measure::rate(subject, window).await?;
            report.queue_was_busy(rate.queue_busy);
            rates.entry(subject.kind).or_default().push(rate);
        }
    }
    Ok(rates)
}

fn of(rates: &BTreeMap<Kind, Vec<Rate>>, kind: Kind, figure: impl Fn(&Rate) -> f64) -> Samples {
    rates.get(&kind).into_iter().flatten().map(figure).collect()
}

fn of_slots(slots: u32) -> String {
    if slots == 1 { "1 slot".to_owned() } else { format!("{slots} slots") }
}

/// Jobs that do nothing, with a queue that is never empty.
pub(crate) async fn throughput(queue: &Queue, plan: &Plan, report: &mut Report) -> Result<()> {
    const SLOTS: [u32; 4] = [1, 50, 200, 1000];
    let others = [Kind::Bare(1), Kind::Bare(50), Kind::Official(1), Kind::Official(50)];
    let kinds: Vec<Kind> = SLOTS.map(Kind::Worker).into_iter().chain(others).collect();
    let subjects = start(queue, &kinds, Work::Echo, &text(1)).await?;
    let rates = rates(&subjects, plan, report).await?;
    for slots in SLOTS {
        let peer = if slots == 1 { 1 } else { 50 };
        let rate = |kind| of(&rates, kind, |rate| rate.jobs_per_second);
        let bare = rate(Kind::Bare(peer));
        // The official worker with more is not measured: it takes none before all have ended.
        let official = if slots <= 50 { rate(Kind::Official(peer)) } else { Samples::default() };
        report.row(&format!("no-op, {}", of_slots(slots)), "jobs/s", rate(Kind::Worker(slots)), bare, official);
    }
    for slots in [1, 50, 1000] {
        let cpu = |kind| of(&rates, kind, |rate| rate.cpu_ms);
        let peer = if slots == 1 { 1 } else { 50 };
        let official = if slots <= 50 { cpu(Kind::Official(peer)) } else { Samples::default() };
        report.row(
            &format!("no-op, {}: CPU", of_slots(slots)),
            "ms/job",
            cpu(Kind::Worker(slots)),
            cpu(Kind::Bare(peer)),
            official,
        );
    }
    Ok(())
}

/// One job at a time: from the moment that it is in the queue until its result is.
async fn one_at_a_time(
    queue: &Queue,
    plan: &Plan,
    (work, job, jobs): (Work, &str, usize),
) -> Result<BTreeMap<Kind, Samples>> {
    let kinds = [Kind::Worker(1), Kind::Bare(1), Kind::Official(1)];
    let subjects = start(queue, &kinds, work, job).await?;
    let mut times: BTreeMap<Kind, Samples> = BTreeMap::new();
    for subject in &subjects {
        measure::singles(subject, 2).await?;
    }
    for round in 0..plan.rounds {
        for subject in &subjects {
            let jobs = measure::fewer(subject.kind, jobs);
            if matches!(subject.kind, Kind::Official(_)) && round >= plan.official_rounds {
                continue;
            }
            let round = measure::singles(subject, jobs).await?;
            let samples = times.entry(subject.kind).or_default();
            round.into_iter().for_each(|time| samples.add(time));
        }
    }
    Ok(times)
}

fn three(times: &BTreeMap<Kind, Samples>, figure: impl Fn(&Samples) -> Samples) -> [Samples; 3] {
    [Kind::Worker(1), Kind::Bare(1), Kind::Official(1)].map(|kind| times.get(&kind).map(&figure).unwrap_or_default())
}

/// An idle worker gets a small job.
pub(crate) async fn latency(queue: &Queue, plan: &Plan, report: &mut Report) -> Result<()> {
    let times = one_at_a_time(queue, plan, (Work::Echo, &text(1), plan.singles)).await?;
    let [worker, bare, official] = three(&times, Samples::clone);
    report.row("idle worker, enqueued → done: median", "ms", worker, bare, official);
    let [worker, bare, official] = three(&times, |samples| samples.percentile(99.0).into_iter().collect());
    report.row("idle worker, enqueued → done: p99", "ms", worker, bare, official);
    Ok(())
}

/// Large jobs, in and out.
pub(crate) async fn large(queue: &Queue, plan: &Plan, report: &mut Report) -> Result<()> {
    for (what, len, jobs) in [("1 MB", 1_000_000, plan.singles / 3), ("20 MB", 20_000_000, plan.singles / 15)] {
        let times = one_at_a_time(queue, plan, (Work::Echo, &text(len), jobs)).await?;
        let [worker, bare, official] = three(&times, Samples::clone);
        report.row(&format!("{what} in and out, one at a time"), "ms", worker, bare, official);
    }
    let kinds = [Kind::Worker(50), Kind::Bare(50), Kind::Official(50)];
    let subjects = start(queue, &kinds, Work::Echo, &text(1_000_000)).await?;
    let rates = rates(&subjects, plan, report).await?;
    let [worker, bare, official] = kinds.map(|kind| of(&rates, kind, |rate| rate.jobs_per_second));
    report.row("1 MB in and out, 50 slots", "jobs/s", worker, bare, official);
    let [worker, bare, official] = kinds.map(|kind| of(&rates, kind, |rate| rate.peak_mib));
    report.row("1 MB in and out, 50 slots: peak memory", "MiB", worker, bare, official);
    drop(subjects);
    let subjects = start(queue, &[Kind::Worker(1), Kind::Bare(1)], Work::Echo, &text(20_000_000)).await?;
    let mut peaks: BTreeMap<Kind, Samples> = BTreeMap::new();
    for subject in &subjects {
        let root = subject.root();
        proc::reset_peak(&[root]);
        measure::singles(subject, 5).await?;
        peaks.entry(subject.kind).or_default().add(proc::peak(&[root]));
    }
    let [worker, bare, official] = three(&peaks, Samples::clone);
    report.row("20 MB in and out: peak of the worker alone", "MiB", worker, bare, official);
    Ok(())
}

/// A job that streams.
pub(crate) async fn stream(queue: &Queue, plan: &Plan, report: &mut Report) -> Result<()> {
    let job = r#""input":{"do":"stream","n":100}"#;
    let times = one_at_a_time(queue, plan, (Work::Stream, job, plan.singles / 3)).await?;
    let [worker, bare, official] = three(&times, Samples::clone);
    report.row("a job that streams 100 items", "ms", worker, bare, official);
    Ok(())
}

/// From the start of the program to its first request for a job.
pub(crate) async fn start_up(queue: &Queue, plan: &Plan, report: &mut Report) -> Result<()> {
    let mut times: BTreeMap<Kind, Samples> = BTreeMap::new();
    for round in 0..2 * plan.rounds {
        for kind in [Kind::Worker(1), Kind::Bare(1), Kind::Official(1)] {
            if matches!(kind, Kind::Official(_)) && (round >= plan.official_rounds || !has_official()) {
                continue;
            }
            let subject = Subject::start(queue, kind, Work::Echo, &text(1))?;
            times.entry(kind).or_default().add(subject.ready().await?.as_secs_f64() * 1000.0);
        }
    }
    let [worker, bare, official] = three(&times, Samples::clone);
    report.row("start → first job-take", "ms", worker, bare, official);
    Ok(())
}

/// Programs that wait for a job.
pub(crate) async fn idle(queue: &Queue, plan: &Plan, report: &mut Report) -> Result<()> {
    let kinds = [Kind::Worker(1), Kind::Bare(1), Kind::Official(1)];
    let subjects = start(queue, &kinds, Work::Echo, &text(1)).await?;
    // Each has run a job: what is made for the first one belongs to an idle worker too.
    let mut figures: BTreeMap<Kind, measure::Idle> = BTreeMap::new();
    for subject in &subjects {
        measure::singles(subject, 20.min(measure::fewer(subject.kind, 20))).await?;
    }
    for subject in &subjects {
        // Of our worker without its handler, whose memory is that of its model.
        let pids = if matches!(subject.kind, Kind::Worker(_)) { vec![subject.root()] } else { subject.pids() };
        figures.insert(subject.kind, measure::idle(&pids, plan.idle).await);
    }
    let mut row = |what, unit, figure: fn(&measure::Idle) -> f64| {
        let [worker, bare, official] = kinds.map(|kind| figures.get(&kind).map(figure).into_iter().collect());
        report.row(what, unit, worker, bare, official);
    };
    row("idle worker without its handler: PSS", "MiB", |idle| idle.pss_mib);
    row("idle worker without its handler: CPU", "%", |idle| idle.cpu_percent);
    row("idle worker without its handler: wake-ups", "1/s", |idle| idle.wake_ups);
    Ok(())
}

/// A job that ignores its deadline is killed with its process; the next job waits for the new one.
pub(crate) async fn stuck(queue: &Queue, plan: &Plan, report: &mut Report) -> Result<()> {
    let subject = start(queue, &[Kind::Worker(1)], Work::Puppet, "").await?.pop().context("no worker")?;
    let mut times = Samples::default();
    for _ in 0..2 * plan.rounds {
        subject.line.set_job(r#""input":{"do":"ignore_cancel"},"policy":{"executionTimeout":100}"#);
        let handler = subject.pids().into_iter().find(|pid| *pid != subject.root()).context("no handler")?;
        subject.line.supply(1);
        let gone = tokio::task::spawn_blocking(move || exit_of(handler));
        let failed = subject.line.drained();
        let (gone, failed) = tokio::join!(gone, failed);
        failed?;
        // It may have ended before the process was gone, or after.
        subject.line.set_job(r#""input":{"do":"ok"}"#);
        subject.line.supply(1);
        let done = subject.line.next_done().await?;
        times.add(done.duration_since(gone??).as_secs_f64() * 1000.0);
    }
    report.row("stuck job's process gone → next job done", "ms", times, Samples::default(), Samples::default());
    Ok(())
}

/// Blocks until a process has exited; returns when that was.
fn exit_of(pid: i32) -> Result<Instant> {
    let begun = Instant::now();
    while proc::is_running(pid) {
        ensure!(begun.elapsed() < KILL_LIMIT, "process {pid} was not killed within {KILL_LIMIT:?}");
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(Instant::now())
}
