//! A database under Patroni, as an operator runs it: nobody but Patroni decides who takes writes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use end_to_end_tests::{Daemon, Host, Lab, binary, eventually, not_tested};
use tokio::time::sleep;

use super::clients::{Clients, check_order};
use super::history;
use super::site::{Replica, WorkerHost, http};

const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";
const PASSWORD: &str = "secret";

/// Patroni's shortest time to live is 20 s: so long a leader that is gone is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

/// A server with Patroni and a member of etcd.
struct Node {
    name: String,
    host: Host,
    folder: PathBuf,
    daemons: Vec<Daemon>,
}

impl Node {
    fn new(lab: &Lab, number: usize) -> Self {
        let name = format!("db{number}");
        let folder = lab.folder().join(&name);
        fs::create_dir(&folder).unwrap();
        Self { name, host: lab.host(), folder, daemons: Vec::new() }
    }

    fn etcd(&self, all: &[(String, String)], state: &str) -> Daemon {
        let address = self.host.address;
        let cluster: Vec<String> = all.iter().map(|(name, address)| format!("{name}=http://{address}:2380")).collect();
        let (clients, peers) = (format!("http://{address}:2379"), format!("http://{address}:2380"));
        let (data, cluster) = (self.folder.join("etcd").display().to_string(), cluster.join(","));
        let args = [
            "--name",
            &self.name,
            "--data-dir",
            &data,
            "--listen-client-urls",
            &clients,
            "--advertise-client-urls",
            &clients,
            "--listen-peer-urls",
            &peers,
            "--initial-advertise-peer-urls",
            &peers,
            "--initial-cluster",
            &cluster,
            "--initial-cluster-state",
            state,
        ];
        self.host.start("etcd", Path::new("etcd"), &args.map(str::to_owned), &[])
    }

    fn patroni(&self, all: &[(String, String)]) -> Daemon {
        let (name, address, folder) = (&self.name, self.host.address, self.folder.display());
        let etcd: Vec<String> = all.iter().map(|(_, address)| format!("{address}:2379")).collect();
        let settings = format!(
            "scope: jobs\nname: {name}\netcd3: {{hosts: [{etcd}]}}\n\
             restapi: {{listen: '{address}:8008', connect_address: '{address}:8008'}}\n\
             bootstrap:\n  dcs:\n    ttl: 20\n    loop_wait: 2\n    retry_timeout: 4\n    synchronous_mode: true\n    \
             synchronous_mode_strict: true\n    postgresql: {{use_pg_rewind: true, parameters: {{wal_log_hints: 'on', max_connections: 100}}}}\n  \
             initdb: [{{encoding: UTF8}}, {{locale: C}}]\n\
             postgresql:\n  listen: '0.0.0.0:5432'\n  connect_address: '{address}:5432'\n  data_dir: {folder}/data\n  bin_dir: {PROGRAMS}\n  \
             pgpass: {folder}/pgpass\n  parameters: {{unix_socket_directories: '{folder}', fsync: 'off'}}\n  \
             pg_hba: ['local all all trust', 'host all all 0.0.0.0/0 scram-sha-256', 'host replication all 0.0.0.0/0 scram-sha-256']\n  \
             authentication: {{superuser: {{username: postgres, password: {PASSWORD}}}, replication: {{username: replicator, password: {PASSWORD}}}}}\n",
            etcd = etcd.join(", ")
        );
        let file = self.folder.join("patroni.yml");
        fs::write(&file, settings).unwrap();
        self.host.run(&["chown", "-R", "postgres:postgres", &self.folder.display().to_string()]);
        let file = file.display().to_string();
        let args = ["--reuid", "postgres", "--regid", "postgres", "--clear-groups", "/usr/bin/patroni", &file];
        self.host.start("patroni", Path::new("setpriv"), &args.map(str::to_owned), &[])
    }

    fn start(&mut self, all: &[(String, String)], state: &str) {
        self.daemons = vec![self.etcd(all, state), self.patroni(all)];
    }

    /// What Patroni says of it: 200 for `primary`, `replica` or `sync` when it is one.
    async fn is(&self, role: &str) -> bool {
        let url = format!("http://{}:8008/{role}", self.host.address);
        http().get(url).send().await.is_ok_and(|reply| reply.status().is_success())
    }
}

/// The number of the node that leads, once there is one and another one is in step with it.
async fn leader(nodes: &[Node]) -> usize {
    let find = async {
        loop {
            let (mut leader, mut in_step) = (None, false);
            for (at, node) in nodes.iter().enumerate() {
                if node.is("primary").await {
                    leader = Some(at);
                }
                in_step |= node.is("synchronous").await;
            }
            if let Some(leader) = leader.filter(|_| in_step) {
                return leader;
            }
            sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(PATIENCE, find)
        .await
        .unwrap_or_else(|_| panic!("Patroni has no leader with a standby in step"))
}

/// Runs SQL past the network.
fn sql(node: &Node, database: &str, text: &str) -> String {
    let folder = node.folder.display().to_string();
    let args = ["-XqAt", "-v", "ON_ERROR_STOP=1", "-h", &folder, "-U", "postgres", "-d", database, "-c", text];
    let output = end_to_end_tests::run_tool("psql", &args);
    assert!(output.status.success(), "{text}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
#[ignore = "Patroni waits 20 s for a leader that is gone; `make soak` runs it"]
fn replicas_follow_the_leader_that_patroni_elects() {
    if !["/usr/bin/patroni", "/usr/bin/etcd", PROGRAMS].iter().all(|path| Path::new(path).exists()) {
        return not_tested("Patroni: apt-get install patroni etcd-server postgresql-15");
    }
    binary("runpod-endpoint");
    let Some(lab) = Lab::start() else { return };
    lab.host().enter(async move {
        let mut nodes = [1, 2, 3].map(|number| Node::new(&lab, number));
        lab.open();
        let all: Vec<_> = nodes.iter().map(|node| (node.name.clone(), node.host.address.to_string())).collect();
        for node in &mut nodes {
            node.start(&all, "new");
        }
        let first = leader(&nodes).await;
        sql(&nodes[first], "postgres", "CREATE DATABASE jobs");
        let hosts: Vec<String> = all.iter().map(|(_, address)| format!("{address}:5432")).collect();
        let url = format!("postgres://postgres:{PASSWORD}@{}/jobs?sslmode=disable", hosts.join(","));
        let mut replicas = [Replica::start(&lab, &url), Replica::start(&lab, &url)];
        for replica in &replicas {
            replica.ready().await;
        }
        history::record(&|text| sql(&nodes[first], "jobs", text));
        let mut workers = [0, 1].map(|at| WorkerHost::start(&lab, &replicas[at], &format!("w{at}")));
        let diary = lab.folder().join("diary");
        let clients = Clients::start(&replicas, &diary, 1);
        sleep(Duration::from_secs(3)).await;

        nodes[first].host.kill();
        nodes[first].daemons.clear();
        let second = leader(&nodes).await;
        assert_ne!(first, second);
        for replica in &replicas {
            replica.ready().await;
        }
        nodes[first].start(&all, "existing");
        let is_back = || async { nodes[first].is("replica").await.then_some(()) };
        eventually("the old leader to follow the new one", is_back).await;
        sleep(Duration::from_secs(3)).await;

        let (accepted, refused) = clients.end().await;
        let query = |text: &str| sql(&nodes[second], "jobs", text);
        eventually("all jobs to complete", || async { history::open(&query).is_empty().then_some(()) }).await;
        assert_eq!(history::contradictions(&query), "");
        check_order(&accepted, &history::numbers(&query));
        assert_eq!(history::check_runs(&diary, &[]), 0, "a worker that lived has lost a job");
        for daemon in
            replicas.iter_mut().map(|one| &mut one.daemon).chain(workers.iter_mut().map(|one| &mut one.daemon))
        {
            assert!(daemon.is_running(), "one has ended by itself");
        }
        assert!(refused > 0, "nothing has happened");
        eprintln!(
            "{} jobs acknowledged, {refused} refused or unanswered; {first} led, and now {second}",
            accepted.len()
        );
    });
}
