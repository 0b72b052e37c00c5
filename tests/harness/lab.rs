//! Hosts: network namespaces, joined by a router that can part any two of them.

use std::fs::File;
use std::future::Future;
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{StatVfs, statvfs};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tempfile::TempDir;

use crate::process::guard;
use crate::{Daemon, PATIENCE, not_tested, run_tool};

/// A file system in memory, and what three databases may need of it.
const MEMORY: &str = "/dev/shm";
const ROOM: u64 = 4 << 30;

/// How long killed processes may take to end before it is looked again.
const KILL_PAUSE: Duration = Duration::from_millis(5);

/// Some hosts and the network between them. All of it ends with the process of the test, however that ends.
#[derive(Debug)]
pub struct Lab {
    /// What the names of its namespaces begin with.
    name: String,
    folder: PathBuf,
    hosts: AtomicU8,
    rules: AtomicU32,
    _guard: Child,
}

/// One host, with one address.
#[derive(Debug, Clone)]
pub struct Host {
    namespace: String,
    /// Its address in the network.
    pub address: Ipv4Addr,
}

/// A cut through the network, which heals when this is dropped.
#[derive(Debug)]
#[must_use = "the cut heals when it is dropped"]
pub struct Cut {
    router: String,
    /// By which its rules are told from those of other cuts: a rule that is named by its hosts is also one between one of them and
    /// another host.
    priorities: Vec<u32>,
}

impl Lab {
    /// A network without hosts; `None`, after a report, where network namespaces cannot be made.
    ///
    /// # Panics
    /// With `TEST_SKIPS=fail` where they cannot be made.
    pub fn start() -> Option<Self> {
        static LABS: AtomicU32 = AtomicU32::new(0);
        let name = format!("lab-{}-{}", std::process::id(), LABS.fetch_add(1, Ordering::Relaxed));
        let folder = new_folder().map(TempDir::keep).unwrap_or_else(|error| panic!("no folder: {error}"));
        let sweep = "cat >/dev/null; ip netns list | cut -d ' ' -f 1 | grep \"^$1-\" | while read -r space; do \
            for pid in $(ip netns pids \"$space\"); do \
            if [ /proc/$pid/ns/net -ef /run/netns/$space ]; then kill -9 $pid; fi; done; \
            ip netns del \"$space\"; done; rm -rf \"$0\"";
        let lab = Self {
            _guard: guard(sweep, &[&folder.display().to_string(), &name]),
            name,
            folder,
            hosts: AtomicU8::new(0),
            rules: AtomicU32::new(0),
        };
        let router = lab.router();
        let forward = "echo 1 >/proc/sys/net/ipv4/ip_forward";
        let made = succeeds("ip", &["netns", "add", &router])
            && succeeds("ip", &["netns", "exec", &router, "sh", "-c", forward]);
        if !made {
            not_tested("hosts in network namespaces: this needs root and `ip netns` (apt-get install iproute2)");
            return None;
        }
        Some(lab)
    }

    /// A folder that all hosts see, and that ends with the lab.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Lets other users read the folder.
    ///
    /// # Panics
    /// When it is gone.
    pub fn open(&self) {
        must("chmod", &["755", &self.folder.display().to_string()]);
    }

    fn router(&self) -> String {
        format!("{}-router", self.name)
    }

    /// A new host.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn host(&self) -> Host {
        let number = self.hosts.fetch_add(1, Ordering::Relaxed) + 1;
        let (router, namespace) = (self.router(), format!("{}-{number}", self.name));
        let address = Ipv4Addr::new(10, 77, number, 2);
        let script = format!(
            "set -e; ip netns add {namespace}; \
             ip -n {router} link add h{number} type veth peer name eth0 netns {namespace}; \
             ip -n {router} addr add 10.77.{number}.1/24 dev h{number}; ip -n {router} link set h{number} up; \
             ip -n {namespace} addr add {address}/24 dev eth0; ip -n {namespace} link set eth0 up; \
             ip -n {namespace} link set lo up; ip -n {namespace} route add default via 10.77.{number}.1"
        );
        must("sh", &["-c", &script]);
        Host { namespace, address }
    }

    /// Lets nothing through between these pairs of hosts: packets vanish, and nobody is told.
    pub fn part(&self, pairs: &[(&Host, &Host)]) -> Cut {
        let both = |(a, b): &(&Host, &Host)| {
            [(a, b), (b, a)].map(|(from, to)| format!("from {} to {} blackhole", from.address, to.address))
        };
        self.cut(pairs.iter().flat_map(both).collect())
    }

    /// Lets nothing through from or to a host.
    pub fn isolate(&self, host: &Host) -> Cut {
        self.cut(["from", "to"].map(|way| format!("{way} {} blackhole", host.address)).to_vec())
    }

    fn cut(&self, rules: Vec<String>) -> Cut {
        let mut cut = Cut { router: self.router(), priorities: Vec::new() };
        for rule in rules {
            let priority = self.rules.fetch_add(1, Ordering::Relaxed) + 1;
            let number = priority.to_string();
            let args = ["-n", &*cut.router, "rule", "add", "priority", &*number].into_iter().chain(rule.split(' '));
            must("ip", &args.collect::<Vec<_>>());
            cut.priorities.push(priority);
        }
        cut
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        for priority in &self.priorities {
            let healed = succeeds("ip", &["-n", &self.router, "rule", "del", "priority", &priority.to_string()]);
            // After a failure the network may be gone already, and a second panic would end all tests.
            assert!(healed || thread::panicking(), "rule {priority} stays");
        }
    }
}

impl Host {
    /// Starts a program there.
    pub fn start(&self, name: &str, program: &Path, args: &[String], env: &[(String, String)]) -> Daemon {
        let mut all = ["netns", "exec", &self.namespace].map(str::to_owned).to_vec();
        all.push(program.display().to_string());
        all.extend_from_slice(args);
        Daemon::start(name, Path::new("ip"), &all, env)
    }

    /// Runs a program there to its end; returns whether it succeeded.
    pub fn try_run(&self, args: &[&str]) -> bool {
        succeeds("ip", &[&["netns", "exec", &*self.namespace][..], args].concat())
    }

    /// Runs a program there to its end.
    ///
    /// # Panics
    /// When it fails.
    pub fn run(&self, args: &[&str]) {
        must("ip", &[&["netns", "exec", &*self.namespace][..], args].concat());
    }

    /// Ends every process there at once, as the loss of the machine would. Returns once there is none: one that was being started
    /// while the others were killed is not left behind.
    ///
    /// # Panics
    /// When a process does not end.
    pub fn kill(&self) {
        let begin = Instant::now();
        loop {
            let output = run_tool("ip", &["netns", "pids", &self.namespace]);
            // The lab may have ended before its hosts are dropped.
            if !output.status.success() && !self.is_there() {
                return;
            }
            assert!(output.status.success(), "{output:?}");
            let text = String::from_utf8_lossy(&output.stdout);
            if text.trim().is_empty() {
                return;
            }
            assert!(begin.elapsed() < PATIENCE || thread::panicking(), "processes do not end: {text}");
            text.lines().filter_map(|pid| Pid::from_raw(pid.trim().parse().ok()?)).for_each(|pid| self.kill_here(pid));
            thread::sleep(KILL_PAUSE);
        }
    }

    /// Ends a process of this host. It may have ended since it was listed, and its number may be that of another one by now: with hundreds of
    /// new processes a second, numbers come back while a list is worked off.
    fn kill_here(&self, pid: Pid) {
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { return };
        let namespace = |path: &Path| std::fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
        let its = namespace(Path::new(&format!("/proc/{pid}/ns/net")));
        if its.is_some() && its == namespace(&self.file()) {
            let _ = pidfd_send_signal(process, Signal::KILL);
        }
    }

    fn is_there(&self) -> bool {
        self.file().exists()
    }

    fn file(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.namespace)
    }

    /// Runs a part of the test there: what it connects to is in the network of the lab.
    ///
    /// # Panics
    /// When that part does.
    pub fn enter<T: Send>(&self, work: impl Future<Output = T> + Send) -> T {
        let enter = || {
            let namespace = File::open(self.file())?;
            // Of this thread, and of those of the runtime, which it starts.
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            std::io::Result::Ok(runtime.block_on(work))
        };
        let outcome = thread::scope(|scope| scope.spawn(enter).join());
        outcome.unwrap_or_else(|panic| resume_unwind(panic)).unwrap_or_else(|error| panic!("{self:?}: {error}"))
    }
}

/// In memory, where there is room: what is tested are hosts and links, and a disk on which others write holds up all of them at once.
fn new_folder() -> std::io::Result<TempDir> {
    let has_room = |found: StatVfs| found.f_bavail.saturating_mul(found.f_frsize) >= ROOM;
    if statvfs(MEMORY).is_ok_and(has_room) { TempDir::new_in(MEMORY) } else { TempDir::new() }
}

fn succeeds(program: &str, args: &[&str]) -> bool {
    run_tool(program, args).status.success()
}

fn must(program: &str, args: &[&str]) {
    let output = run_tool(program, args);
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}
