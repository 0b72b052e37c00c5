//! `database check`, and the start of an endpoint on a database that cannot be used: what is wrong is named, with the fix.

use end_to_end_tests::{Postgres, binary, run_tool, until};

/// The exit status, and what was printed.
fn command(args: &[&str]) -> (Option<i32>, String, String) {
    let output = run_tool(&binary("runpod-endpoint").to_string_lossy(), args);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// What a check says about one thing.
fn finding(url: &str, name: &str) -> String {
    let (_, report, error) = command(&["database", "check", "--database", url]);
    let found = report.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "));
    found.unwrap_or_else(|| panic!("{name} is not in {report}{error}")).to_owned()
}

/// The one line with which a check and a start refuse the same database.
fn refusal(url: &str) -> String {
    let refused = |args: &[&str]| {
        let (code, report, error) = command(&[args, &["--database", url]].concat());
        assert_eq!((code, report.is_empty(), error.lines().count()), (Some(1), true, 1), "{report}{error}");
        error
    };
    let at_start = refused(&["serve", "--bind", "127.0.0.1:0"]);
    assert_eq!(refused(&["database", "check"]), at_start);
    assert!(!at_start.contains("a password of the tests"), "{at_start}");
    at_start
}

/// The name in the URL of a database.
fn name(url: &str) -> &str {
    url.rsplit('/').next().unwrap()
}

/// A database in which functions of the server can be replaced by others.
fn with_function(server: &Postgres, function: &str) -> String {
    let url = server.database();
    server.sql(&url, &format!("CREATE FUNCTION public.{function}"));
    server.sql(&url, &format!("ALTER DATABASE {} SET search_path = public, pg_catalog", name(&url)));
    url
}

#[test]
fn what_is_wrong_with_a_database_ends_the_start_in_one_line() {
    let Some(server) = Postgres::shared() else { return };
    let wrong = server.url_of("jobs", "hunter2", "postgres");
    let missing = ["--database-password-file", "/no/such/file"];
    for (url, more, status, words) in [
        (&*wrong, &[][..], 1, "correct the user, or the password"),
        (&server.url("no_such_database"), &[], 1, "--template template0 no_such_database"),
        ("mysql://jobs@localhost/jobs", &[], 64, "give postgres://"),
        ("postgres://jobs:hunt@hunter2@127.0.0.1/jobs", &[], 64, "write %40"),
        ("postgres://jobs:hunter2@127.0.0.1/jobs?sslmode=verify-full", &[], 64, "disable, prefer or require"),
        (&wrong, &missing, 64, "/no/such/file"),
    ] {
        let args = [&["serve", "--bind", "127.0.0.1:0", "--database", url], more].concat();
        let (code, _, error) = command(&args);
        assert_eq!((code, error.lines().count()), (Some(status), 1), "{error}");
        assert!(error.contains(words) && !error.contains("hunter2"), "{words:?} is not in {error:?}");
    }
}

#[test]
fn a_conflict_with_what_the_environment_says_names_the_variable() {
    let program = binary("runpod-endpoint").to_string_lossy().into_owned();
    let set = "RUNPOD_ENDPOINT_DATABASE=postgres://jobs:hunter2@localhost/jobs";
    let output = run_tool("env", &[set, &program, "serve", "--data", "jobs.db"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{error}");
    assert!(error.contains("RUNPOD_ENDPOINT_DATABASE (--database)") && !error.contains("hunter2"), "{error}");
}

#[test]
fn check_and_start_refuse_what_cannot_be_used() {
    let Some(server) = Postgres::shared() else { return };
    let newer = server.database();
    let version =
        "CREATE TABLE runpod_endpoint_version (version integer); INSERT INTO runpod_endpoint_version VALUES (99)";
    server.sql(&newer, version);
    let foreign = server.database();
    server.sql(&foreign, "CREATE TABLE jobs (id integer)");
    // Whatever would be in the way: a table of another name, a view, a type.
    let [table, view, kind] =
        ["TABLE workers (id integer)", "VIEW turns AS SELECT 1", "TYPE beat AS ENUM ('x')"].map(|what| {
            let url = server.database();
            server.sql(&url, &format!("CREATE {what}"));
            url
        });
    let setting = "current_setting(name text) RETURNS text LANGUAGE sql AS \
        $$ SELECT CASE WHEN name LIKE 'server_version%' THEN '130014' ELSE pg_catalog.current_setting(name) END $$";
    let too_old = with_function(server, setting);
    for (url, words) in [
        (server.url_of("jobs", "hunter2", name(&newer)), "correct the user, or the password"),
        (server.url("no_such_database"), "--template template0 no_such_database"),
        (newer, "upgrade runpod-endpoint"),
        (foreign, "a database of its own"),
        (table, "another program (workers)"),
        (view, "another program (turns)"),
        (too_old, "14 or newer is needed"),
    ] {
        let refusal = refusal(&url);
        assert!(refusal.contains(words), "{words:?} is not in {refusal:?}");
    }
    let (code, _, error) = command(&["database", "migrate", "--database", &kind]);
    assert!(code == Some(1) && error.contains("a database of its own") && error.lines().count() == 1, "{error}");
}

#[test]
fn a_migration_that_others_get_in_the_way_of_is_tried_again() {
    let Some(server) = Postgres::shared() else { return };
    let url = server.database();
    // A sequence counts what is rolled back too.
    server.sql(
        &url,
        "CREATE SEQUENCE tries; CREATE FUNCTION fail() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN \
         IF nextval('tries') < 4 THEN RAISE EXCEPTION 'in the way' USING ERRCODE = 'deadlock_detected'; END IF; END $$; \
         CREATE EVENT TRIGGER fail ON ddl_command_start EXECUTE FUNCTION fail()",
    );
    let (code, report, error) = command(&["database", "migrate", "--database", &url]);
    assert_eq!((code, report.lines().count()), (Some(0), 1), "{error}");
}

#[tokio::test]
async fn check_and_start_refuse_a_standby_and_find_the_primary() {
    let Some(primary) = Postgres::start() else { return };
    let url = primary.database();
    let standby = primary.standby();
    let known = format!("SELECT count(*) FROM pg_database WHERE datname = '{}'", name(&url));
    until("the standby to have the database", || standby.sql("postgres", &known) == "1").await;
    let refusal = refusal(&standby.url(name(&url)));
    assert!(refusal.contains("name the primary"), "{refusal}");
    let [first, second] = [&standby, &primary].map(Postgres::port);
    let both = url.replace(&format!("127.0.0.1:{second}/"), &format!("127.0.0.1:{first},127.0.0.1:{second}/"));
    assert!(finding(&both, "notifications").ends_with("ok"));
}

#[tokio::test]
async fn check_and_start_refuse_a_pooler_in_transaction_mode() {
    let Some(server) = Postgres::shared() else { return };
    let Some((pooler, port)) = server.transaction_pooler() else { return };
    until("the pooler to listen", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()).await;
    let refusal = refusal(&server.database().replace(&format!(":{}/", server.port()), &format!(":{port}/")));
    assert!(refusal.contains("set the pooler to session mode"), "{refusal}\n{}", pooler.log());
}

#[test]
fn the_check_names_what_is_set_up_badly_and_shows_no_password() {
    let Some(server) = Postgres::shared() else { return };
    let url = server.database();
    let (code, report, error) = command(&["database", "migrate", "--database", &url]);
    assert_eq!((code, report.lines().count()), (Some(0), 1), "{error}");
    let (code, report, error) = command(&["database", "check", "--database", &url]);
    assert_eq!(code, Some(1), "{error}");
    for line in [
        "fsync = \"off\": FIX: ",
        "full_page_writes = \"off\": FIX: ",
        "autovacuum = \"on\": ok",
        "server_encoding = \"UTF8\": ok",
        "notifications = \"arrive\": ok",
        "synchronous_standby_names = \"\": NOTE: ",
        "may create tables = \"true\": ok",
        "tables without rights = \"\": ok",
    ] {
        assert!(report.contains(line), "{line:?} is not in {report}");
    }
    let (_, settings, _) = command(&["serve", "--database", &url, "--check-config"]);
    assert!(settings.contains("database"), "{settings}");
    assert!(![report, error, settings].concat().contains(server.password()));
}

#[test]
fn a_server_that_is_set_up_well_passes_the_check() {
    let Some(server) = Postgres::durable() else { return };
    let url = server.database();
    let (code, report, error) = command(&["database", "check", "--database", &url]);
    assert_eq!(code, Some(0), "{report}{error}");
    assert!(!report.contains("FIX"), "{report}");
}

/// An authority of the test's own, and a certificate of it for 127.0.0.1.
const CERTIFICATES: &str = "openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -subj /CN=authority -days 2 && \
    openssl req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=database && \
    printf 'subjectAltName = IP:127.0.0.1\\nbasicConstraints = CA:false\\n' > names && \
    openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.crt";

#[test]
fn a_server_with_an_authority_of_its_own_is_trusted_when_that_is_named() {
    let Some(server) = Postgres::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let made = end_to_end_tests::run_tool_in(folder.path(), "sh", &["-c", CERTIFICATES]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    server.use_certificate(&folder.path().join("server.crt"), &folder.path().join("server.key"));
    let url = format!("{}?sslmode=require", server.database());
    let program = binary("runpod-endpoint").to_string_lossy().into_owned();
    let check = |authority: &str| {
        let output = run_tool("env", &[authority, &program, "database", "check", "--database", &url]);
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned())
    };
    let [_, error] = check("NOTHING=else");
    assert!(error.contains("no TLS with 127.0.0.1") && error.contains("PGSSLROOTCERT=FILE"), "{error}");
    let [_, error] = check("PGSSLROOTCERT=/no/such/file");
    assert!(error.contains("/no/such/file") && error.lines().count() == 1, "{error}");
    let authority = folder.path().join("ca.crt");
    let [report, error] = check(&format!("PGSSLROOTCERT={}", authority.display()));
    assert!(report.contains("notifications = \"arrive\": ok"), "{report}{error}");
    let other_name = url.replace("127.0.0.1", "localhost");
    let args = ["database", "check", "--database", &other_name];
    let authority = format!("PGSSLROOTCERT={}", authority.display());
    let output = run_tool("env", &[&[&*authority, &program][..], &args].concat());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("a name that the certificate has"), "{error}");
    // On this machine nobody listens, and certificates are for other names: Debian's server has one.
    let (_, report, error) = command(&["database", "check", "--database", &server.database()]);
    assert!(report.contains("notifications = \"arrive\": ok"), "{report}{error}");
}

#[test]
fn settings_of_a_database_and_of_a_user_are_checked() {
    let Some(server) = Postgres::shared() else { return };
    let url = server.database();
    let alter = |what: &str| server.sql("postgres", &format!("ALTER DATABASE {} {what}", name(&url)));
    alter("SET synchronous_commit = off");
    assert!(finding(&url, "synchronous_commit").starts_with("\"off\": FIX: jobs that were acknowledged may be lost"));
    alter("CONNECTION LIMIT 20");
    let limited = finding(&url, "connections allowed");
    assert!(limited.starts_with("\"20\": FIX") && limited.contains("ALTER DATABASE"), "{limited}");
    alter("CONNECTION LIMIT -1");

    server.sql("postgres", "CREATE ROLE stranger LOGIN PASSWORD 'stranger' CONNECTION LIMIT 10");
    let stranger = server.url_of("stranger", "stranger", name(&url));
    let limited = finding(&stranger, "connections allowed");
    assert!(limited.starts_with("\"10\": FIX") && limited.contains("ALTER ROLE"), "{limited}");
    assert!(finding(&stranger, "may create tables").starts_with("\"false\": FIX: run as a superuser"));
    server.sql("postgres", "ALTER ROLE stranger CONNECTION LIMIT 0");
    let (_, _, refused) = command(&["database", "check", "--database", &stranger]);
    assert!(refused.contains("each endpoint opens up to 17: ALTER ROLE \"stranger\" CONNECTION LIMIT -1"), "{refused}");
    server.sql("postgres", "ALTER ROLE stranger CONNECTION LIMIT 10");
    let (code, _, error) = command(&["serve", "--bind", "127.0.0.1:0", "--database", &stranger]);
    assert_eq!((code, error.lines().count()), (Some(1), 1), "{error}");
    assert!(error.contains("GRANT USAGE, CREATE ON SCHEMA public TO \"stranger\""), "{error}");

    command(&["database", "migrate", "--database", &url]);
    let (code, _, error) = command(&["database", "check", "--database", &stranger]);
    assert_eq!((code, error.lines().count()), (Some(1), 1), "{error}");
    assert!(error.contains("GRANT SELECT, INSERT") && !error.contains("CREATE ON SCHEMA"), "{error}");
    server.sql(&url, "GRANT SELECT ON ALL TABLES IN SCHEMA public TO stranger; CREATE TABLE of_others (id integer)");
    let closed = finding(&stranger, "tables without rights");
    assert!(closed.contains("jobs, numbers, ") && closed.contains("FIX: run as their owner"), "{closed}");
    assert!(!closed.contains("of_others"), "{closed}");
    // What is advised is enough.
    let advice = closed.split_once("their owner: ").unwrap().1.split_once("; better").unwrap().0;
    server.sql(&url, advice);
    assert!(finding(&stranger, "tables without rights").starts_with("\"\": ok"));
    assert!(finding(&stranger, "may create tables").starts_with("\"false\": NOTE"));
    let (code, _, error) = command(&["database", "migrate", "--database", &stranger]);
    assert_eq!(code, Some(0), "{error}");

    for (table, setting) in [
        ("chunks", "autovacuum_enabled = off"),
        ("workers", "autovacuum_enabled = no"),
        ("payloads", "toast.autovacuum_enabled = 0"),
        ("of_others", "autovacuum_enabled = false"),
        ("jobs", "autovacuum_enabled = on"),
    ] {
        server.sql(&url, &format!("ALTER TABLE {table} SET ({setting})"));
    }
    assert!(finding(&url, "tables without autovacuum").starts_with("\"chunks, payloads, workers\": FIX"));

    server.sql("postgres", "CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0");
    assert!(finding(&server.url("latin"), "server_encoding").starts_with("\"LATIN1\": FIX"));
}

#[test]
fn settings_of_a_server_are_checked() {
    let Some(server) = Postgres::start() else { return };
    let url = server.database();
    for (name, value, said) in [
        ("autovacuum", "off", "\"off\": FIX: dead rows"),
        ("track_counts", "off", "\"off\": FIX: autovacuum does nothing"),
        ("synchronous_standby_names", "ANY 1 (nobody)", "\"ANY 1 (nobody)\": FIX: none of these standbys"),
    ] {
        server.sql("postgres", &format!("ALTER SYSTEM SET {name} = '{value}'"));
        server.sql("postgres", "SELECT pg_reload_conf()");
        let found = || finding(&url, name).starts_with(said);
        assert!((0..50).any(|_| found()), "{name}: {}", finding(&url, name));
        server.sql("postgres", &format!("ALTER SYSTEM RESET {name}"));
    }
}

#[test]
fn clocks_and_long_transactions_are_checked() {
    let Some(server) = Postgres::shared() else { return };
    let clock = "clock_timestamp() RETURNS timestamptz LANGUAGE sql AS \
        $$ SELECT pg_catalog.clock_timestamp() + interval '2 hours' $$";
    let found = finding(&with_function(server, clock), "clock of the server");
    assert!(
        found.contains("s ahead\": FIX") && found.contains("NTP") && found.contains("as if it were UTC"),
        "{found}"
    );

    let later = "now() RETURNS timestamptz LANGUAGE sql AS $$ SELECT pg_catalog.now() + interval '2 minutes' $$";
    let url = with_function(server, later);
    let wait = "DO $$ BEGIN WHILE NOT EXISTS (SELECT FROM pg_class WHERE relname = 'stop') \
        LOOP PERFORM pg_sleep(0.05); END LOOP; END $$";
    let found = || finding(&url, "oldest transaction");
    std::thread::scope(|scope| {
        scope.spawn(|| server.sql(&url, wait));
        let is_long = (0..50).any(|_| found().contains("FIX: dead rows cannot be removed"));
        server.sql(&url, "CREATE TABLE stop ()");
        assert!(is_long, "{}", found());
    });
}
