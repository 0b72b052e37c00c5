//! Moves all jobs from a data file into a database, and from a database into a data file. What is moved is complete or not there.

use std::path::Path;

use super::moved::MovedJob;
use super::postgres::{DatabaseError, DatabaseSource, DatabaseTarget, DatabaseUrl};
use super::sqlite::{FileSource, FileTarget, OpenError};

/// Why nothing was moved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MoveError {
    /// The file.
    #[error(transparent)]
    Data(#[from] OpenError),
    /// The database.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

/// What was moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    /// Endpoints.
    pub endpoints: usize,
    /// Jobs in all states.
    pub jobs: u64,
}

/// Copies all jobs of a data file into a database without jobs, in one transaction. The file stays as it is. `progress` gets how many of
/// how many jobs are written.
///
/// # Errors
/// When one of them cannot be used, is in use, or the database is not empty.
pub async fn import_file(
    file: &Path,
    url: &DatabaseUrl,
    mut progress: impl FnMut(u64, u64),
) -> Result<Moved, MoveError> {
    let source = FileSource::open(file)?;
    let total = source.job_count()?;
    let mut target = DatabaseTarget::begin(url).await?;
    let mut moved = Moved::default();
    for (key, endpoint) in source.endpoints()? {
        target.add_endpoint(&endpoint).await?;
        moved.endpoints += 1;
        let mut last = 0;
        loop {
            let jobs = tokio::task::block_in_place(|| source.jobs(key, last))?;
            let Some(number) = last_number(&jobs) else { break };
            last = number;
            moved.jobs += jobs.len() as u64;
            target.add_jobs(jobs).await?;
            progress(moved.jobs, total);
        }
        target.end_endpoint().await?;
    }
    target.commit().await?;
    Ok(moved)
}

/// Copies all jobs of a database into a new data file. The database stays as it is.
///
/// # Errors
/// When one of them cannot be used, the database is in use, or the file exists.
pub async fn export_file(
    url: &DatabaseUrl,
    file: &Path,
    mut progress: impl FnMut(u64, u64),
) -> Result<Moved, MoveError> {
    let source = DatabaseSource::begin(url).await?;
    let mut target = FileTarget::create(file)?;
    let total = source.job_count().await?;
    let mut moved = Moved::default();
    for (key, endpoint) in (1..).zip(source.endpoints().await?) {
        target.add_endpoint(key, &endpoint)?;
        moved.endpoints += 1;
        let mut last = 0;
        loop {
            let jobs = source.jobs(&endpoint.name, last).await?;
            let Some(number) = last_number(&jobs) else { break };
            last = number;
            moved.jobs += jobs.len() as u64;
            tokio::task::block_in_place(|| target.add_jobs(jobs))?;
            progress(moved.jobs, total);
        }
    }
    tokio::task::block_in_place(|| target.finish())?;
    Ok(moved)
}

fn last_number(jobs: &[MovedJob]) -> Option<u64> {
    jobs.last().map(|job| job.record.number)
}
