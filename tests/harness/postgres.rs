//! A PostgreSQL server in a folder of its own, from Debian's package.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

use crate::{Daemon, free_port, not_tested, process};

/// The user of all databases, and the password.
pub(crate) const USER: &str = "jobs";
pub(crate) const PASSWORD: &str = "a password of the tests";

/// Settings of a server that may forget everything when the machine fails, and of one that may not.
const VOLATILE: &str =
    "fsync = off\nfull_page_writes = off\nmax_connections = 400\nshared_buffers = 64MB\nmin_wal_size = 2MB\n";
const DURABLE: &str = "max_connections = 100\nshared_buffers = 256MB\nmax_wal_size = 4GB\n";

/// Folders in which the programs of a version are, the newest first.
const VERSIONS: &str = "/usr/lib/postgresql";

/// A server. Ends with the process of the test, however that ends, and its folder with it.
#[derive(Debug)]
pub struct Postgres {
    programs: PathBuf,
    folder: PathBuf,
    settings: &'static str,
    port: u16,
    databases: AtomicU32,
    /// Ends the server once its standard input is closed.
    _guard: Child,
}

impl Postgres {
    /// One server for all tests of this process; `None`, after a report, when PostgreSQL is not installed.
    ///
    /// # Panics
    /// When it does not start; with `TEST_SKIPS=fail` when it is not installed.
    pub fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<Postgres>> = OnceLock::new();
        SHARED.get_or_init(Self::start).as_ref()
    }

    /// A server of the test's own, which may be killed.
    ///
    /// # Panics
    /// When it does not start; with `TEST_SKIPS=fail` when it is not installed.
    pub fn start() -> Option<Self> {
        let server = Self::in_folder(TempDir::new(), VOLATILE)?;
        server.create();
        Some(server)
    }

    /// A server to measure, which syncs as one in production does, on a disk.
    ///
    /// # Panics
    /// When it does not start; with `TEST_SKIPS=fail` when it is not installed.
    pub fn durable() -> Option<Self> {
        let server = Self::in_folder(TempDir::new_in("/var/tmp"), DURABLE)?;
        server.create();
        Some(server)
    }

    /// A server that follows this one. It can be read.
    ///
    /// # Panics
    /// When it does not start.
    pub fn standby(&self) -> Self {
        let standby = Self::in_folder(TempDir::new(), VOLATILE).unwrap_or_else(|| panic!("PostgreSQL is gone"));
        standby.give_to_server();
        let (data, primary) = (standby.data().display().to_string(), self.url("postgres"));
        standby.server_tool("pg_basebackup", &["-D", &data, "-d", &primary, "-R", "-c", "fast", "-X", "stream"]);
        standby.set_up();
        standby.run();
        standby
    }

    fn in_folder(folder: std::io::Result<TempDir>, settings: &'static str) -> Option<Self> {
        let Some(programs) = programs() else {
            not_tested("PostgreSQL is not installed: apt-get install postgresql-15");
            return None;
        };
        let folder = folder.map(TempDir::keep).unwrap_or_else(|error| panic!("no folder: {error}"));
        let (port, databases, guard) = (free_port(), AtomicU32::new(0), guard(&folder));
        Some(Self { programs, folder, settings, port, databases, _guard: guard })
    }

    /// The server refuses to run as root.
    fn give_to_server(&self) {
        if is_root() {
            succeeded("chown", &tool(command("chown").args(["-R", "postgres"]).arg(&self.folder)));
        }
    }

    /// What overrides other settings, those of the primary included.
    fn set_up(&self) {
        let file = self.data().join("postgresql.auto.conf");
        let mut settings = fs::read_to_string(&file).unwrap_or_default();
        settings += &format!(
            "port = {}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{}'\n{}",
            self.port,
            self.folder.display(),
            self.settings
        );
        fs::write(file, settings).unwrap_or_else(|error| panic!("{error}"));
    }

    /// A server of the test's own, on a file system of so many MiB; `None`, after a report, where none can be mounted.
    ///
    /// # Panics
    /// When it does not start; with `TEST_SKIPS=fail` where no file system can be mounted.
    pub fn start_on_small_disk(mib: u32) -> Option<Self> {
        let server = Self::in_folder(TempDir::new(), VOLATILE)?;
        let mut mount = command("mount");
        if !run(mount.args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "none"]).arg(&server.folder)) {
            not_tested("a full disk of the database: this machine does not let us mount a small file system");
            return None;
        }
        server.create();
        Some(server)
    }

    /// Where everything of the server is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn create(&self) {
        let password = self.folder.join("password");
        fs::write(&password, PASSWORD).unwrap_or_else(|error| panic!("{error}"));
        self.give_to_server();
        let (data, password) = (self.data(), password.display().to_string());
        let data = data.display().to_string();
        let access = ["-U", USER, "--pwfile", &password, "-A", "scram-sha-256"];
        // Small files, so that a small disk holds them.
        let small = if self.settings == VOLATILE { &["--wal-segsize=1"][..] } else { &[] };
        let args = [&["-D", &data, "-N", "-E", "UTF8", "--locale=C"], &access[..], small].concat();
        self.server_tool("initdb", &args);
        self.set_up();
        self.run();
    }

    /// Starts the server that [`kill`](Self::kill) has ended, and waits until it answers.
    pub fn run(&self) {
        let (data, log) = (self.data().display().to_string(), self.folder.join("log").display().to_string());
        self.server_tool("pg_ctl", &["start", "-w", "-s", "-D", &data, "-l", &log]);
    }

    /// Whether the server has not ended by itself.
    pub fn is_running(&self) -> bool {
        let data = self.data().display().to_string();
        run(self.as_user("pg_ctl").args(["status", "-D", &data]).stdout(Stdio::null()))
    }

    /// Ends the server at once, as a crash would.
    pub fn kill(&self) {
        let data = self.data().display().to_string();
        self.server_tool("pg_ctl", &["stop", "-w", "-s", "-m", "immediate", "-D", &data]);
    }

    /// Offers TLS with this certificate.
    ///
    /// # Panics
    /// When the files cannot be copied, or the server cannot be set up.
    pub fn use_certificate(&self, certificate: &Path, key: &Path) {
        let copy = |from: &Path, name: &str| {
            let to = self.data().join(name);
            fs::copy(from, &to).unwrap_or_else(|error| panic!("{error}"));
            succeeded("chmod", &tool(command("chmod").arg("600").arg(&to)));
        };
        copy(certificate, "server.crt");
        copy(key, "server.key");
        self.give_to_server();
        self.sql("postgres", "ALTER SYSTEM SET ssl = on");
        self.sql("postgres", "SELECT pg_reload_conf()");
    }

    /// A new database; returns its URL.
    pub fn database(&self) -> String {
        let name = format!("jobs_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.sql("postgres", &format!("CREATE DATABASE {name}"));
        self.url(&name)
    }

    /// The URL of a database.
    pub fn url(&self, database: &str) -> String {
        self.url_of(USER, PASSWORD, database)
    }

    /// The URL with another user or password.
    pub fn url_of(&self, user: &str, password: &str, database: &str) -> String {
        let password = password.replace(' ', "%20");
        format!("postgres://{user}:{password}@127.0.0.1:{}/{database}", self.port)
    }

    /// PgBouncer in front of the server, which hands a session to one transaction after the other; and its port. `None`, after a
    /// report, when it is not installed.
    ///
    /// # Panics
    /// When it does not start; with `TEST_SKIPS=fail` when it is not installed.
    pub fn transaction_pooler(&self) -> Option<(Daemon, u16)> {
        let program = Path::new("/usr/sbin/pgbouncer");
        if !program.is_file() {
            not_tested("PgBouncer is not installed: apt-get install pgbouncer");
            return None;
        }
        let port = free_port();
        let file = self.folder.join(format!("pgbouncer-{port}.ini"));
        let settings = format!(
            "[databases]\n* = host=127.0.0.1 port={} user={USER} password='{PASSWORD}'\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nauth_type = any\npool_mode = transaction\nunix_socket_dir =\n",
            self.port
        );
        fs::write(&file, settings).unwrap_or_else(|error| panic!("{error}"));
        let (program, file) = (program.display().to_string(), file.display().to_string());
        // It refuses to run as root, as the server does.
        let daemon = if is_root() {
            let args = ["-u", "postgres", "--", &program, &file].map(str::to_owned);
            Daemon::start("pgbouncer", Path::new("/usr/sbin/runuser"), &args, &[])
        } else {
            Daemon::start("pgbouncer", Path::new(&program), &[file], &[])
        };
        Some((daemon, port))
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The password in the URLs.
    pub fn password(&self) -> &'static str {
        PASSWORD
    }

    /// Runs SQL as the owner; returns what it prints. `database` is a name or a URL.
    ///
    /// # Panics
    /// When it fails.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        succeeded(sql, &self.psql(database, sql))
    }

    /// The same; `None` when it fails.
    pub fn try_sql(&self, database: &str, sql: &str) -> Option<String> {
        let output = self.psql(database, sql);
        output.status.success().then(|| succeeded(sql, &output))
    }

    fn psql(&self, database: &str, sql: &str) -> Output {
        let database = if database.contains("://") { database.to_owned() } else { self.url(database) };
        let args = ["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", &database, "-c", sql];
        tool(command(self.programs.join("psql")).args(args))
    }

    /// Opens a session, runs SQL in it and leaves it open: transactions and locks last until it is dropped.
    ///
    /// # Panics
    /// When it fails.
    pub fn hold(&self, url: &str, sql: &str) -> Session {
        let mut psql = command(self.programs.join("psql"));
        psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", url]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut session = psql.spawn().unwrap_or_else(|error| panic!("cannot start psql: {error}"));
        let sent = session.stdin.as_mut().map(|stdin| writeln!(stdin, "{sql};\n\\echo held"));
        assert!(matches!(sent, Some(Ok(()))), "psql has ended");
        let lines = session.stdout.take().map(|stdout| BufReader::new(stdout).lines()).into_iter().flatten();
        assert!(lines.map_while(Result::ok).any(|line| line == "held"), "{sql} has failed");
        Session(session)
    }

    /// A program of the server, under the user that it runs as.
    fn as_user(&self, name: &str) -> Command {
        let program = self.programs.join(name);
        if !is_root() {
            return command(program);
        }
        let mut as_user = command("runuser");
        as_user.args(["-u", "postgres", "--"]).arg(program);
        as_user
    }

    fn server_tool(&self, name: &str, args: &[&str]) {
        // A server that inherited a pipe would hold it open.
        let mut command = self.as_user(name);
        let status = run(command.args(args).current_dir(&self.folder).stdin(Stdio::null()).stdout(Stdio::null()));
        let log = || fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        assert!(status, "{name} has failed: {}", log());
    }
}

/// A session that somebody left open.
#[derive(Debug)]
pub struct Session(Child);

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Ends the server and removes its folder once this process has ended, or dropped the guard.
fn guard(folder: &Path) -> Child {
    let script = "cat >/dev/null; pid=$(head -n 1 \"$0/data/postmaster.pid\" 2>/dev/null) && kill -QUIT \"$pid\"; \
        for i in 1 2 3 4 5 6 7 8 9 10; do [ -e \"$0/data/postmaster.pid\" ] || break; sleep 0.2; done; \
        umount \"$0\" 2>/dev/null; rm -rf \"$0\"";
    process::guard(script, &[&folder.display().to_string()])
}

pub(crate) fn programs() -> Option<PathBuf> {
    let folders = fs::read_dir(VERSIONS).ok()?.flatten().map(|entry| entry.path().join("bin"));
    let version = |folder: &PathBuf| folder.parent()?.file_name()?.to_str()?.parse::<u32>().ok();
    folders.filter(|folder| folder.join("initdb").is_file()).max_by_key(version)
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[expect(clippy::disallowed_methods, reason = "the harness starts the programs under test")]
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    Command::new(program)
}

pub(crate) fn tool(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"))
}

fn run(command: &mut Command) -> bool {
    command.status().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}")).success()
}

pub(crate) fn succeeded(what: &str, output: &Output) -> String {
    assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
