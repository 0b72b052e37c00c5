//! What it costs to write a result down and to remove it: `cargo bench -p runpod-worker --bench spool`.
//!
//! In the temporary folder, or in the one named by `SPOOL_BENCH_DIR`; a file system in memory has no fsync to wait for.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use runpod_worker::outbox::{Origin, Record, Spool, SpoolConfig};

fn main() -> anyhow::Result<()> {
    let parent = std::env::var_os("SPOOL_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = tempfile::tempdir_in(parent)?;
    let config = SpoolConfig {
        folder: Some(folder.path().to_owned()),
        required: true,
        always: false,
        owner: "bench".to_owned(),
        origin: Origin::default(),
    };
    let (spool, _) = Spool::open(&config)?.context("the spool is off")?;
    println!("spool in {}", folder.path().display());
    println!("{:>12}  {:>5}  {:>10}  {:>10}  {:>10}  {:>12}", "bytes", "runs", "median", "p95", "worst", "remove");
    for (bytes, runs) in [(2_000, 200), (200_000, 50), (20_000_000, 20)] {
        let body = Bytes::from(vec![b'x'; bytes]);
        let record =
            Record { job: "bench".into(), streamed: false, attempt: 1, time_ms: 0, body: body.into(), origin: None };
        let (mut writes, mut removes) = (Vec::new(), Vec::new());
        for _ in 0..runs {
            let entry = spool.new_entry();
            let begin = Instant::now();
            spool.write(&entry, &record)?;
            writes.push(begin.elapsed());
            let begin = Instant::now();
            spool.remove(&entry)?;
            removes.push(begin.elapsed());
        }
        writes.sort();
        removes.sort();
        let at = |times: &[Duration], percent: usize| times[(times.len() - 1) * percent / 100];
        println!(
            "{bytes:>12}  {runs:>5}  {:>10.2?}  {:>10.2?}  {:>10.2?}  {:>12.2?}",
            at(&writes, 50),
            at(&writes, 95),
            at(&writes, 100),
            at(&removes, 50)
        );
    }
    Ok(())
}
