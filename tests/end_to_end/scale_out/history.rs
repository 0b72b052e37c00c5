//! What happened to each job: as the database has it, written in the transactions themselves, and as the handlers have it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Notes each move of a job within the transaction that makes it.
const RECORD: &str = "CREATE TABLE history (n bigserial PRIMARY KEY, job text, was text, became text, had text, has text, \
      began timestamptz, at timestamptz); \
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
      IF TG_OP = 'INSERT' THEN INSERT INTO history (job, became, has, began, at) \
        VALUES (NEW.id, NEW.status, NEW.holder, now(), clock_timestamp()); \
      ELSIF TG_OP = 'DELETE' THEN INSERT INTO history (job, was, had, began, at) \
        VALUES (OLD.id, OLD.status, OLD.holder, now(), clock_timestamp()); \
      ELSIF (OLD.status, OLD.holder) IS DISTINCT FROM (NEW.status, NEW.holder) THEN \
        INSERT INTO history (job, was, became, had, has, began, at) \
        VALUES (NEW.id, OLD.status, NEW.status, OLD.holder, NEW.holder, now(), clock_timestamp()); END IF; RETURN NULL; END $$; \
    CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON jobs FOR EACH ROW EXECUTE FUNCTION note()";

const ENDED: &str = "('COMPLETED', 'FAILED', 'CANCELLED', 'TIMED_OUT')";

/// Keeps the history from now on.
pub(super) fn record(sql: &impl Fn(&str) -> String) {
    sql(RECORD);
}

/// Jobs that ended twice, left their end, were deleted, or went from one worker straight to another.
pub(super) fn contradictions(sql: &impl Fn(&str) -> String) -> String {
    sql(&format!(
        "SELECT job, 'ended ' || count(*) || ' times' FROM history WHERE became IN {ENDED} GROUP BY job HAVING count(*) > 1 \
             UNION ALL SELECT job, was || ' became ' || coalesce(became, 'nothing') FROM history WHERE was IN {ENDED} \
             UNION ALL SELECT job, had || ' lost it to ' || has FROM history WHERE had <> has"
    ))
}

/// Jobs that are not completed.
pub(super) fn open(sql: &impl Fn(&str) -> String) -> String {
    sql("SELECT id, status, holder FROM jobs WHERE status <> 'COMPLETED'")
}

/// The numbers of the completed jobs, in the order of which they wait for workers.
pub(super) fn numbers(sql: &impl Fn(&str) -> String) -> BTreeMap<String, u64> {
    let rows = sql("SELECT id || ' ' || number FROM jobs WHERE status = 'COMPLETED'");
    let number = |line: &str| line.split_once(' ').map(|(id, number)| (id.to_owned(), number.parse().unwrap()));
    rows.lines().filter_map(number).collect()
}

/// Jobs before which more later ones were taken than workers have slots, each before the transaction began that took the job. `ids` are in
/// the order of their submission, each acknowledged before the next one was sent. A take steps over what another one has locked; when that
/// one does not come about, because its connection was lost or others were in its way, the next take gets its jobs.
pub(super) fn overtaken(sql: &impl Fn(&str) -> String, ids: &[String], slots: usize) -> String {
    let list: Vec<String> = ids.iter().enumerate().map(|(at, id)| format!("({at}, '{id}')")).collect();
    sql(&format!(
        "WITH taken AS (SELECT at_place, min(began) AS began, min(h.at) AS at FROM (VALUES {}) AS v(at_place, id) \
             JOIN history h ON h.job = v.id AND h.became = 'IN_PROGRESS' AND h.was = 'IN_QUEUE' GROUP BY at_place) \
             SELECT a.at_place, count(*) FROM taken a JOIN taken b ON a.at_place < b.at_place AND b.at < a.began \
             GROUP BY a.at_place HAVING count(*) > {slots}",
        list.join(", ")
    ))
}

/// One run of a job by a handler.
#[derive(Debug)]
struct Run {
    worker: String,
    begin: u128,
    end: Option<u128>,
}

/// Checks that no job was run by two workers at the same time, and that none was run again but after its worker was killed;
/// returns how many were run more than once. `kills` are the workers that were killed, and when.
pub(super) fn check_runs(diary: &Path, kills: &[(String, SystemTime)]) -> usize {
    let mut runs: BTreeMap<String, Vec<Run>> = BTreeMap::new();
    for line in std::fs::read_to_string(diary).unwrap().lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [what, job, worker, time] = words[..] else { panic!("a torn line: {line:?}") };
        let (time, of_job) = (time.parse().unwrap(), runs.entry(job.to_owned()).or_default());
        if what == "begin" {
            of_job.push(Run { worker: worker.to_owned(), begin: time, end: None });
        } else {
            let open = of_job.iter_mut().rev().find(|run| run.worker == worker && run.end.is_none());
            open.unwrap_or_else(|| panic!("an end without a beginning: {line:?}")).end = Some(time);
        }
    }
    let micros = |time: &SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_micros();
    let mut again = 0;
    for (job, mut of_job) in runs {
        of_job.sort_by_key(|run| run.begin);
        again += usize::from(of_job.len() > 1);
        for pair in of_job.windows(2) {
            let [first, next] = pair else { continue };
            let killed = kills.iter().filter(|(worker, _)| *worker == first.worker).map(|(_, at)| micros(at));
            let was_killed = killed.clone().any(|at| (first.begin..=next.begin).contains(&at));
            assert!(was_killed, "{job} was run again, and its worker lived: {pair:?}");
            let over = first.end.into_iter().chain(killed).filter(|at| *at >= first.begin).min();
            assert!(over.is_some_and(|over| over <= next.begin), "{job} was run twice at the same time: {pair:?}");
        }
    }
    again
}
