//! Three PostgreSQL servers on hosts of their own: a primary and a quorum of synchronous standbys, and who fails over.

use std::fs;
use std::path::{Path, PathBuf};

use crate::postgres::{PASSWORD, USER, command, programs, succeeded, tool};
use crate::{Daemon, Host, Lab, not_tested, run_tool, until};

/// What all servers have in common. A commit waits for one of the two standbys. A server that is killed comes back by itself, so that
/// nothing needs to reach the disk.
const SETTINGS: &str = "listen_addresses = '*'\nport = 5432\nfsync = off\nfull_page_writes = off\nmax_connections = 100\n\
    shared_buffers = 32MB\nwal_log_hints = on\nwal_keep_size = 256MB\nmax_wal_size = 256MB\nhot_standby = on\n\
    synchronous_standby_names = 'ANY 1 (db1, db2, db3)'\nwal_receiver_timeout = 6s\nwal_sender_timeout = 6s\n\
    wal_retrieve_retry_interval = 200ms\nautovacuum_naptime = 5s\n";
/// Nobody reaches the network of the lab from outside. Passwords would be asked for at each of three servers by every connection, which a
/// program that is built for debugging computes for so long that a busy machine does nothing else.
const ACCESS: &str = "local all all trust\nhost all all 0.0.0.0/0 trust\nhost replication all 0.0.0.0/0 trust\n";

/// Three servers, one of which takes writes.
#[derive(Debug)]
pub struct PostgresCluster {
    programs: PathBuf,
    nodes: [Node; 3],
    primary: usize,
}

#[derive(Debug)]
struct Node {
    name: String,
    host: Host,
    folder: PathBuf,
    daemon: Option<Daemon>,
}

impl PostgresCluster {
    /// Starts the servers and waits until both standbys follow; `None`, after a report, when PostgreSQL is not installed.
    ///
    /// # Panics
    /// When they do not start; with `TEST_SKIPS=fail` when PostgreSQL is not installed.
    pub async fn start(lab: &Lab) -> Option<Self> {
        let Some(programs) = programs() else {
            not_tested("PostgreSQL is not installed: apt-get install postgresql-15");
            return None;
        };
        let node = |number: usize| {
            let name = format!("db{number}");
            let folder = lab.folder().join(&name);
            fs::create_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
            Node { name, host: lab.host(), folder, daemon: None }
        };
        let mut cluster = Self { programs, nodes: [1, 2, 3].map(node), primary: 0 };
        lab.open();
        for node in &cluster.nodes {
            must(&["chown", "-R", "postgres:postgres", &node.folder.display().to_string()]);
        }
        cluster.create();
        cluster.run(0);
        until("the first server to answer", || cluster.ask(0, "postgres", "SELECT 1").is_some()).await;
        for standby in [1, 2] {
            cluster.copy(standby);
            cluster.run(standby);
        }
        cluster.in_step().await;
        Some(cluster)
    }

    fn create(&self) {
        let node = &self.nodes[0];
        let password = node.folder.join("password");
        let write = |path: &Path, text: &str| fs::write(path, text).unwrap_or_else(|error| panic!("{error}"));
        write(&password, PASSWORD);
        must(&["chown", "postgres", &password.display().to_string()]);
        let (data, password) = (node.data(), password.display().to_string());
        let args =
            ["-D", &data, "-U", USER, "--pwfile", &password, "-N", "-E", "UTF8", "--locale=C", "-A", "scram-sha-256"];
        self.tool(0, "initdb", &args);
        write(&Path::new(&data).join("pg_hba.conf"), ACCESS);
        let file = Path::new(&data).join("postgresql.conf");
        let defaults = fs::read_to_string(&file).unwrap_or_default();
        write(&file, &format!("{defaults}\n{SETTINGS}"));
    }

    /// How a tool reaches the primary: both may be busy, and nothing is tried again.
    fn source(&self) -> String {
        let conninfo = self.conninfo(self.primary).replace("connect_timeout=3", "connect_timeout=60");
        conninfo + " dbname=postgres options='-c wal_sender_timeout=60s'"
    }

    /// How the servers reach this one.
    fn conninfo(&self, node: usize) -> String {
        format!("host={} port=5432 user={USER} password='{PASSWORD}' connect_timeout=3", self.nodes[node].host.address)
    }

    /// Copies the primary.
    fn copy(&self, node: usize) {
        let _ = fs::remove_dir_all(self.nodes[node].data());
        let from = self.source();
        self.tool(node, "pg_basebackup", &["-D", &self.nodes[node].data(), "-d", &from, "-X", "stream", "-c", "fast"]);
        self.follow_from_start(node);
    }

    /// Has a server that does not run follow the primary from its start on.
    fn follow_from_start(&self, node: usize) {
        let data = PathBuf::from(self.nodes[node].data());
        let settings = data.join("postgresql.auto.conf");
        let text = fs::read_to_string(&settings).unwrap_or_default();
        let kept: String =
            text.lines().filter(|line| !line.starts_with("primary_conninfo")).map(|line| format!("{line}\n")).collect();
        let quoted = self.conninfo(self.primary).replace('\'', "''");
        let written = fs::write(&settings, format!("{kept}primary_conninfo = '{quoted}'\n"));
        written.and_then(|()| fs::write(data.join("standby.signal"), "")).unwrap_or_else(|error| panic!("{error}"));
        must(&["chown", "-R", "postgres:postgres", &self.nodes[node].data()]);
    }

    /// Starts a server.
    pub fn run(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        let settings =
            [format!("unix_socket_directories={}", node.folder.display()), format!("cluster_name={}", node.name)];
        let server = self.programs.join("postgres").display().to_string();
        let mut args = as_postgres().map(str::to_owned).to_vec();
        args.extend([server, "-D".to_owned(), node.data()]);
        args.extend(settings.into_iter().flat_map(|setting| ["-c".to_owned(), setting]));
        let program = args.remove(0);
        node.daemon = Some(node.host.start(&node.name, Path::new(&program), &args, &[]));
    }

    /// Kills a server with all that runs on its host.
    pub fn kill(&mut self, node: usize) {
        self.nodes[node].host.kill();
        // Waits for its end.
        self.nodes[node].daemon = None;
    }

    /// The server that takes writes.
    pub fn primary(&self) -> usize {
        self.primary
    }

    /// The servers that follow it.
    pub fn standbys(&self) -> [usize; 2] {
        [(self.primary + 1) % 3, (self.primary + 2) % 3]
    }

    /// Where a server runs.
    pub fn host(&self, node: usize) -> &Host {
        &self.nodes[node].host
    }

    /// A new database, and its URL, in which all servers stand.
    ///
    /// # Panics
    /// When it cannot be created.
    pub fn database(&self, name: &str) -> String {
        self.sql("postgres", &format!("CREATE DATABASE {name}"));
        let hosts: Vec<String> = self.nodes.iter().map(|node| format!("{}:5432", node.host.address)).collect();
        format!("postgres://{USER}:{}@{}/{name}?sslmode=disable", PASSWORD.replace(' ', "%20"), hosts.join(","))
    }

    /// Runs SQL at the primary, past the network; returns what it prints.
    ///
    /// # Panics
    /// When it fails.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        succeeded(sql, &self.psql(self.primary, database, sql))
    }

    /// The same at any server; `None` when it fails.
    pub fn ask(&self, node: usize, database: &str, sql: &str) -> Option<String> {
        let output = self.psql(node, database, sql);
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn psql(&self, node: usize, database: &str, sql: &str) -> std::process::Output {
        let folder = self.nodes[node].folder.display().to_string();
        let args =
            ["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", &folder, "-U", USER, "-d", database, "-c", sql];
        tool(command(self.programs.join("psql")).args(args))
    }

    /// Waits until both standbys have all that the primary has written.
    pub async fn in_step(&self) {
        let sql = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = 'quorum' \
            AND pg_wal_lsn_diff(pg_current_wal_lsn(), flush_lsn) < 100000";
        until("both standbys to follow", || self.ask(self.primary, "postgres", sql).as_deref() == Some("2")).await;
    }

    /// Fences the primary and promotes the standby that has more of its log: with a quorum of one, the other may lack commits. Both
    /// standbys must run.
    pub async fn fail_over(&mut self) {
        let old = self.primary;
        self.kill(old);
        let standbys = self.standbys();
        let quiet = "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'";
        let has_all = |node| self.ask(node, "postgres", quiet).as_deref() == Some("0");
        until("the standbys to have read what has come", || standbys.into_iter().all(has_all)).await;
        let received = "SELECT (greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) - '0/0')::bigint";
        let far =
            |node| self.ask(node, "postgres", received).and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
        let [one, other] = standbys;
        let (new, behind) = if far(one) >= far(other) { (one, other) } else { (other, one) };
        let promoted = self.ask(new, "postgres", "SELECT pg_promote(true, 60)");
        assert_eq!(promoted.as_deref(), Some("t"), "{} was not promoted", self.nodes[new].name);
        self.primary = new;
        let quoted = self.conninfo(new).replace('\'', "''");
        for sql in [&*format!("ALTER SYSTEM SET primary_conninfo = '{quoted}'"), "SELECT pg_reload_conf()"] {
            assert!(self.ask(behind, "postgres", sql).is_some(), "{} does not follow", self.nodes[behind].name);
        }
    }

    /// Brings a server that was fenced back as a standby. What it wrote and nobody has read is taken back.
    ///
    /// # Panics
    /// When it cannot be brought back.
    pub fn rejoin(&mut self, node: usize) {
        // Before its first checkpoint, a server that was promoted still shows the history of its predecessor.
        self.sql("postgres", "CHECKPOINT");
        let source = self.source();
        let args = ["-D", &self.nodes[node].data(), "--source-server", &source];
        if self.try_tool(node, "pg_rewind", &args) {
            self.follow_from_start(node);
        } else {
            self.copy(node);
        }
        self.run(node);
    }

    fn try_tool(&self, node: usize, name: &str, args: &[&str]) -> bool {
        let program = self.programs.join(name).display().to_string();
        self.nodes[node].host.try_run(&[&as_postgres()[..], &[&*program], args].concat())
    }

    fn tool(&self, node: usize, name: &str, args: &[&str]) {
        let program = self.programs.join(name).display().to_string();
        self.nodes[node].host.run(&[&as_postgres()[..], &[&*program], args].concat());
    }
}

impl Node {
    fn data(&self) -> String {
        self.folder.join("data").display().to_string()
    }
}

impl Drop for PostgresCluster {
    fn drop(&mut self) {
        // Servers have processes in groups of their own.
        self.nodes.iter().for_each(|node| node.host.kill());
    }
}

/// The server refuses to run as root.
fn as_postgres() -> [&'static str; 6] {
    ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"]
}

fn must(args: &[&str]) {
    succeeded(&args.join(" "), &run_tool(args[0], &args[1..]));
}
