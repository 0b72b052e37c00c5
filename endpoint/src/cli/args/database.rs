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
  runpod-endpoint database migrate --database postgres://jobs@db-1/jobs")]
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
