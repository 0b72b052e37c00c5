//! One data file for two endpoints; a disk that is full; a file that shrinks.

use std::path::{Path, PathBuf};
use std::time::Duration;

use end_to_end_tests::{Client, Daemon, Endpoint, binary, eventually, free_port, not_tested, run_tool};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::END;

/// Starts an endpoint on this file, which must be refused; what it said.
fn refused(data: &Path) -> String {
    let (bind, data) = (format!("127.0.0.1:{}", free_port()), data.display().to_string());
    let args = ["serve", "--bind", &bind, "--data", &data].map(str::to_owned);
    let mut daemon = Daemon::start("second endpoint", &binary("runpod-endpoint"), &args, &[]);
    let code = daemon.wait(END).code();
    assert!(code.is_some_and(|code| code != 0), "{code:?}\n{}", daemon.log());
    daemon.log()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_file_is_locked_whatever_its_name() {
    let endpoint = Endpoint::start_durable(&[]).await;
    let id = endpoint.client().submit(json!({"do": "ok"})).await;
    let data = endpoint.folder().join("jobs.db");
    let elsewhere = tempfile::tempdir_in(endpoint.folder()).unwrap();
    let (symlink, hard_link) = (elsewhere.path().join("symlink.db"), elsewhere.path().join("hard-link.db"));
    std::os::unix::fs::symlink(&data, &symlink).unwrap();
    std::fs::hard_link(&data, &hard_link).unwrap();
    let folder_link = elsewhere.path().join("folder");
    std::os::unix::fs::symlink(endpoint.folder(), &folder_link).unwrap();
    let detour = elsewhere.path().join("../jobs.db");
    for name in [data, symlink, hard_link, folder_link.join("jobs.db"), detour] {
        let log = refused(&name);
        assert!(log.contains("use"), "{}:\n{log}", name.display());
    }
    assert_eq!(endpoint.client().status(&id).await["status"], "IN_QUEUE");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_file_is_free_again_when_its_endpoint_was_killed() {
    let mut endpoint = Endpoint::start_durable(&[]).await;
    let id = endpoint.client().submit(json!({"do": "ok"})).await;
    endpoint.restart(Signal::KILL).await;
    assert_eq!(endpoint.client().status(&id).await["status"], "IN_QUEUE");
}

/// An endpoint whose data file is on a file system of a few megabytes, in a mount namespace of its own.
struct SmallDisk {
    endpoint: Daemon,
    client: Client,
    /// The file system as it looks from outside of the namespace.
    root: PathBuf,
}

impl SmallDisk {
    /// `None` where no file system can be mounted.
    async fn start(folder: &Path) -> Option<Self> {
        let mount = format!("mount -t tmpfs -o size=8m none '{}'", folder.display());
        let namespace = ["--mount", "--map-root-user", "sh", "-c"];
        if !run_tool("unshare", &[&namespace[..], &[&mount]].concat()).status.success() {
            return None;
        }
        let port = free_port();
        let script = format!(
            "{mount} && head -c 1048576 /dev/zero >'{0}/ballast' && \
             exec '{1}' serve --bind 127.0.0.1:{port} --data '{0}/jobs.db'",
            folder.display(),
            binary("runpod-endpoint").display()
        );
        let args: Vec<String> = namespace.iter().copied().chain([script.as_str()]).map(str::to_owned).collect();
        let endpoint = Daemon::start("endpoint", Path::new("unshare"), &args, &[]);
        let client = Client::new(&format!("http://127.0.0.1:{port}/v2/test"));
        eventually("the endpoint on the small disk", || async { reqwest::get(client.url("/health")).await.ok() }).await;
        let inside = folder.strip_prefix("/").unwrap();
        let root = PathBuf::from(format!("/proc/{}/root", endpoint.pid().as_raw_nonzero())).join(inside);
        Some(Self { endpoint, client, root })
    }

    async fn submit(&self, text: &str) -> (u16, Value) {
        let request = reqwest::Client::new().post(self.client.url("/run")).json(&json!({"input": {"text": text}}));
        let reply = request.send().await.unwrap();
        (reply.status().as_u16(), reply.json().await.unwrap_or_default())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_no_reads_and_writes_go_on_when_there_is_room_again() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut disk) = SmallDisk::start(folder.path()).await else {
        not_tested("a full disk: this machine does not let us mount a small file system");
        return;
    };
    let text = "x".repeat(100_000);
    let mut acknowledged = Vec::new();
    let (code, refusal) = loop {
        let (code, answer) = disk.submit(&text).await;
        if code != 200 {
            break (code, answer);
        }
        acknowledged.push(answer["id"].as_str().unwrap().to_owned());
        assert!(acknowledged.len() < 200, "the disk is never full");
    };
    assert_eq!(code, 503, "{refusal}");
    for id in &acknowledged {
        let job = disk.client.status(id).await;
        assert_eq!(job["status"], "IN_QUEUE", "{job}\n{}", disk.endpoint.log());
    }
    // The submission that was refused may be among them: it is written when there is room again.
    let waiting = disk.client.health().await["jobs"]["inQueue"].as_u64().unwrap();
    assert!(waiting >= acknowledged.len() as u64, "{waiting} of {}", acknowledged.len());

    std::fs::remove_file(disk.root.join("ballast")).unwrap();
    let id = eventually("a submission to be accepted", || async {
        let (code, answer) = disk.submit("short").await;
        (code == 200).then(|| answer["id"].as_str().unwrap().to_owned())
    })
    .await;
    assert_eq!(disk.client.status(&id).await["status"], "IN_QUEUE");
    assert!(disk.endpoint.is_running());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_file_shrinks_when_its_jobs_have_expired() {
    let endpoint = Endpoint::start_durable(&[]).await;
    let client = endpoint.client();
    let size = || endpoint.folder().join("jobs.db").metadata().unwrap().len();
    for _ in 0..150 {
        let input = json!({"text": "x".repeat(200_000)});
        client.submit_request(json!({"input": input, "policy": {"ttl": 10_000}})).await;
    }
    let full = size();
    assert!(full > 10_000_000, "{full} bytes");
    eventually("the data file to shrink", || async {
        // A write now and then, as of an endpoint in use.
        client.submit(json!({"text": "short"})).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        (size() < full / 2).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_of_many_large_results_that_do_not_read_do_not_fill_the_memory() {
    const COUNT: usize = 12;
    let endpoint = Endpoint::start_durable(&["--max-result-mib", "16", "--max-reply-memory-mib", "64"]).await;
    let client = endpoint.client();
    let output = "x".repeat(15 << 20);
    let mut jobs = Vec::new();
    for _ in 0..COUNT {
        let id = client.submit(json!({})).await;
        assert_eq!(client.get("/job-take/w1?gpu=LOCAL&job_in_progress=0").await["id"], id.as_str());
        let url = client.url(&format!("/job-done/w1/{id}?gpu=LOCAL"));
        let posted = reqwest::Client::new().post(url).body(format!(r#"{{"output":"{output}"}}"#)).send().await.unwrap();
        assert!(posted.status().is_success());
        jobs.push(id);
    }
    let http = reqwest::Client::new();
    // A client that has seen the beginning of an answer and reads no further holds all of it.
    let mut readers = Vec::new();
    for id in &jobs {
        // Packed, the same letter again and again would be a short answer.
        let request = http.get(client.url(&format!("/status/{id}"))).header("accept-encoding", "identity");
        readers.push(request.send().await.unwrap());
    }
    let served = readers.iter().filter(|reader| reader.status().is_success()).count();
    assert!((1..=4).contains(&served), "{served} answers of 15 MiB are held");
    let refused = readers.iter().find(|reader| reader.status() == 503).unwrap();
    assert_eq!(refused.headers()["retry-after"], "1");
    drop(readers);
    for id in &jobs {
        eventually("the result to be readable", || async {
            let reply = reqwest::get(client.url(&format!("/status/{id}"))).await.unwrap();
            reply.status().is_success().then_some(())
        })
        .await;
    }
}
