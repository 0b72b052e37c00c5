//! The flags of `database`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::parse::secret;
use crate::secret::Secret;

/// `database`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  runpod-endpoint database check --database postgres://jobs@db-1,db-2/jobs --database-password-file password
  runpod-endpoint database migrate --database postgres://jobs@db-1/jobs
  runpod-endpoint database import --database postgres://jobs@db-1/jobs --data /var/lib/runpod-endpoint")]
pub struct DatabaseArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: DatabaseCommand,
}

/// What can be done with a database.
#[derive(Debug, Subcommand)]
pub enum DatabaseCommand {
    /// Create the tables, or bring them up to date; `serve` does that too
    Migrate(DatabaseTarget),
    /// Look at the server, its settings and this user's rights; exit status 1 with the fix if something is wrong
    Check(DatabaseTarget),
    /// Copy all jobs of a data file into a database without jobs: all of them or none
    Import(DatabaseTransfer),
    /// Copy all jobs of a database into a new data file: all of them or none
    Export(DatabaseTransfer),
}

/// Which database.
#[derive(Debug, Args)]
pub struct DatabaseTarget {
    /// postgres://USER@HOST:PORT/NAME, with commas between several hosts
    #[arg(long, env = "RUNPOD_ENDPOINT_DATABASE", hide_env_values = true, value_name = "URL", value_parser = secret)]
    pub database: Secret,
    /// File with the password on its first line; otherwise the password of the URL, or PGPASSWORD
    #[arg(long, value_name = "FILE")]
    pub database_password_file: Option<PathBuf>,
}

/// Between which database and which file. No endpoint may use either of them.
#[derive(Debug, Args)]
pub struct DatabaseTransfer {
    /// The database.
    #[command(flatten)]
    pub target: DatabaseTarget,
    /// The data file, or a folder that has one
    #[arg(long, value_name = "FILE")]
    pub data: PathBuf,
}
