//! `database`: prepares and checks the database that endpoints share.

use super::args::{DatabaseArgs, DatabaseCommand, DatabaseTarget};
use super::exit::Exit;
use super::output::Output;
use crate::store::{DatabaseError, DatabaseUrl, check_database, migrate_database};

pub(crate) async fn database(args: &DatabaseArgs, output: &mut Output) -> Exit {
    let outcome = match &args.command {
        DatabaseCommand::Migrate(target) => migrate(target, output).await,
        DatabaseCommand::Check(target) => check(target, output).await,
    };
    match outcome {
        Ok(exit) => exit,
        Err(error @ (DatabaseError::Url(_) | DatabaseError::PasswordFile(..))) => output.fail(&error, Exit::Usage),
        Err(error) => output.fail(&error, Exit::Failure),
    }
}

fn url(target: &DatabaseTarget) -> Result<DatabaseUrl, DatabaseError> {
    target.database.expose().parse::<DatabaseUrl>()?.with_password(target.database_password_file.as_deref())
}

async fn migrate(target: &DatabaseTarget, output: &mut Output) -> Result<Exit, DatabaseError> {
    let found = migrate_database(&url(target)?).await?;
    output.line(&format!("The tables are up to date; they were of version {found}."));
    Ok(Exit::Success)
}

/// One line for each thing that was looked at; exit status 1 when one of them needs a fix.
async fn check(target: &DatabaseTarget, output: &mut Output) -> Result<Exit, DatabaseError> {
    let findings = check_database(&url(target)?).await?;
    for finding in &findings {
        let fix = finding.fix.as_ref().map_or_else(|| "ok".to_owned(), |fix| format!("FIX: {fix}"));
        output.line(&format!("{} = {:?}: {fix}", finding.name, finding.value));
    }
    let is_good = findings.iter().all(|finding| finding.fix.is_none());
    Ok(if is_good { Exit::Success } else { Exit::Failure })
}
