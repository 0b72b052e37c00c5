//! One turn of one program.

use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::time::sleep;

use crate::plan::Plan;
use crate::proc;
use crate::queue::THREAD;
use crate::subject::{Kind, Subject};

/// What a program does with a queue that is never empty.
pub(crate) struct Rate {
    pub(crate) jobs_per_second: f64,
    /// Processor time of all its processes for each job.
    pub(crate) cpu_ms: f64,
    /// Peak of its resident memory.
    pub(crate) peak_mib: f64,
    /// Share of the time in which the thread of the queue was busy.
    pub(crate) queue_busy: f64,
}

/// Gives a program as many jobs as it takes for a while.
pub(crate) async fn rate(subject: &Subject, window: Duration) -> Result<Rate> {
    let pids = subject.pids();
    proc::reset_peak(&pids);
    subject.line.supply(u64::MAX);
    sleep(Plan::WARM_UP).await;
    let look = || (Instant::now(), subject.line.done(), proc::cpu(&pids), proc::cpu_of_thread(THREAD));
    let before = look();
    sleep(window).await;
    let after = look();
    let peak_mib = proc::peak(&pids);
    subject.line.supply(0);
    subject.line.drained().await?;
    let (time, jobs) = (after.0.duration_since(before.0).as_secs_f64(), (after.1 - before.1) as f64);
    Ok(Rate {
        jobs_per_second: jobs / time,
        cpu_ms: (after.2 - before.2) / jobs * 1000.0,
        peak_mib,
        queue_busy: (after.3 - before.3) / time,
    })
}

/// Gives a program one job at a time, each when it has been idle for a moment; returns the milliseconds that each took.
pub(crate) async fn singles(subject: &Subject, jobs: usize) -> Result<Vec<f64>> {
    let mut times = Vec::with_capacity(jobs);
    for _ in 0..jobs {
        sleep(Plan::REST).await;
        times.push(subject.line.run_one().await?.as_secs_f64() * 1000.0);
    }
    Ok(times)
}

/// What a program costs that has nothing to do.
pub(crate) struct Idle {
    pub(crate) pss_mib: f64,
    pub(crate) cpu_percent: f64,
    pub(crate) wake_ups: f64,
}

/// Looks at processes that wait for a job.
pub(crate) async fn idle(pids: &[i32], time: Duration) -> Idle {
    let look = || (Instant::now(), proc::cpu(pids), proc::wake_ups(pids));
    let before = look();
    sleep(time).await;
    let after = look();
    let time = after.0.duration_since(before.0).as_secs_f64();
    Idle {
        pss_mib: proc::pss(pids),
        cpu_percent: (after.1 - before.1) / time * 100.0,
        wake_ups: (after.2 - before.2) / time,
    }
}

/// How many jobs one at a time are worth the time of this program in one round: the official worker needs up to a second for each.
pub(crate) fn fewer(kind: Kind, jobs: usize) -> usize {
    if matches!(kind, Kind::Official(_)) { jobs.div_ceil(20) } else { jobs }
}
