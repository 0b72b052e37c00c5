//! `database`: prepares, checks, fills and empties the database that endpoints share.

use super::args::{DatabaseArgs, DatabaseCommand, DatabaseTarget, DatabaseTransfer};
use super::exit::Exit;
use super::output::Output;
use crate::store::{
    DatabaseError, DatabaseUrl, MoveError, Verdict, check_database, export_file, import_file, migrate_database,
};

/// Progress is shown in steps of this many percent.
const STEP: u64 = 5;

pub(crate) async fn database(args: &DatabaseArgs, output: &mut Output) -> Exit {
    let outcome = match &args.command {
        DatabaseCommand::Migrate(target) => migrate(target, output).await,
        DatabaseCommand::Check(target) => check(target, output).await,
        DatabaseCommand::Import(transfer) => import(transfer, output).await,
        DatabaseCommand::Export(transfer) => export(transfer, output).await,
    };
    match outcome {
        Ok(exit) => exit,
        Err(error @ MoveError::Database(DatabaseError::Url(_) | DatabaseError::PasswordFile(..))) => {
            output.fail(&error, Exit::Usage)
        }
        Err(error) => output.fail(&error, Exit::Failure),
    }
}

fn url(target: &DatabaseTarget) -> Result<DatabaseUrl, DatabaseError> {
    target.database.expose().parse::<DatabaseUrl>()?.with_password(target.database_password_file.as_deref())
}

async fn migrate(target: &DatabaseTarget, output: &mut Output) -> Result<Exit, MoveError> {
    let found = migrate_database(&url(target)?).await?;
    output.line(&format!("The tables are up to date; they were of version {found}."));
    Ok(Exit::Success)
}

/// One line for each thing that was looked at; exit status 1 when one of them needs a fix.
async fn check(target: &DatabaseTarget, output: &mut Output) -> Result<Exit, MoveError> {
    let findings = check_database(&url(target)?).await?;
    for finding in &findings {
        let verdict = match &finding.verdict {
            Verdict::Good => "ok".to_owned(),
            Verdict::Note(text) => format!("NOTE: {text}"),
            Verdict::Fix(text) => format!("FIX: {text}"),
        };
        output.line(&format!("{} = {:?}: {verdict}", finding.name, finding.value));
    }
    let is_good = !findings.iter().any(|finding| matches!(finding.verdict, Verdict::Fix(_)));
    Ok(if is_good { Exit::Success } else { Exit::Failure })
}

async fn import(transfer: &DatabaseTransfer, output: &mut Output) -> Result<Exit, MoveError> {
    let url = url(&transfer.target)?;
    let mut shown = Progress::default();
    let moved = import_file(&transfer.data, &url, |done, total| shown.show(output, done, total)).await?;
    output.line(&format!(
        "{} jobs of {} endpoints are in the database. The file is as it was: do not serve from it any more, or its jobs run twice.",
        moved.jobs, moved.endpoints
    ));
    Ok(Exit::Success)
}

async fn export(transfer: &DatabaseTransfer, output: &mut Output) -> Result<Exit, MoveError> {
    let url = url(&transfer.target)?;
    let mut shown = Progress::default();
    let moved = export_file(&url, &transfer.data, |done, total| shown.show(output, done, total)).await?;
    output.line(&format!(
        "{} jobs of {} endpoints are in the file. The database is as it was: do not serve from it any more, or its jobs run twice.",
        moved.jobs, moved.endpoints
    ));
    Ok(Exit::Success)
}

/// How far a move was when that was shown last.
#[derive(Default)]
struct Progress {
    percent: u64,
}

impl Progress {
    fn show(&mut self, output: &mut Output, done: u64, total: u64) {
        let percent = done * 100 / total.max(1);
        if percent >= self.percent + STEP {
            self.percent = percent;
            output.note(&format!("{percent} %: {done} of {total} jobs"));
        }
    }
}
