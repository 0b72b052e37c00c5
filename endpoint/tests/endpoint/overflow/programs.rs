//! Two programs, one of which is killed.

use std::path::Path;

use reqwest::Client;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;

use super::*;
use crate::commands::program;

/// A server program.
struct Program {
    child: Child,
    base: String,
}

impl Program {
    async fn start(folder: &Path, args: &[&str]) -> Self {
        let mut child = program().current_dir(folder).arg("serve").args(args).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = timeout(SOON, lines.next_line()).await.unwrap().unwrap().unwrap();
        tokio::spawn(async move { while lines.next_line().await.is_ok_and(|line| line.is_some()) {} });
        let url = line.split_once("http://").unwrap().1;
        Self { child, base: format!("http://{}/v2/ep", url.split_once('/').unwrap().0) }
    }

    /// Like `kill -9`.
    async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    fn port(&self) -> &str {
        self.base.rsplit_once(':').unwrap().1.split_once('/').unwrap().0
    }

    async fn get(&self, path: &str) -> Value {
        let reply = Client::new().get(format!("{}/{path}", self.base)).send().await.unwrap();
        serde_json::from_str(&reply.text().await.unwrap()).unwrap()
    }

    async fn post(&self, path: &str, body: &str) -> String {
        let reply = Client::new().post(format!("{}/{path}", self.base)).body(body.to_owned()).send().await.unwrap();
        assert!(reply.status().is_success(), "{path}: {}", reply.status());
        reply.text().await.unwrap()
    }

    async fn reaches(&self, job: &str, state: &str) -> Value {
        eventually(&format!("{job} is {state}"), async || {
            Some(self.get(&format!("status/{job}")).await).filter(|document| document["status"] == state)
        })
        .await
    }
}

/// A program that sends late jobs to `cloud`.
async fn near_program(folder: &TempDir, cloud: &str, lost_after: &str, args: &[&str]) -> Program {
    let config = format!(
        "[[endpoint]]\nid = \"ep\"\noverflow = {{ url = {cloud:?}, after = \"0s\", lost_after = {lost_after:?} }}\n"
    );
    std::fs::write(folder.path().join("endpoints.toml"), config).unwrap();
    let args = [&["--config", "endpoints.toml", "--bind", "127.0.0.1:0", "--endpoint-id", "ep"], args].concat();
    Program::start(folder.path(), &args).await
}

async fn submit(near: &Program) -> String {
    let reply: Value = serde_json::from_str(&near.post("run", r#"{"input": 1}"#).await).unwrap();
    id(&reply).to_owned()
}

#[tokio::test]
async fn an_endpoint_that_is_killed_in_the_middle_of_a_submission_submits_the_same_job_again() {
    let folder = tempfile::tempdir().unwrap();
    let far = Api::new();
    let url = serve(mute(&far, &Arc::new(Semaphore::new(0)))).await;
    let near = near_program(&folder, &url, "60s", &["--data", "near.db"]).await;
    let job = submit(&near).await;
    eventually("it is there", async || (held(&far).await == 1).then_some(())).await;
    near.kill().await;
    let near = near_program(&folder, &url, "60s", &["--data", "near.db"]).await;
    let there = taken(&far).await;
    near.reaches(&job, "IN_PROGRESS").await;
    assert_eq!(held(&far).await, 1);
    far.done("f1", id(&there), r#"{"output": "once"}"#).await;
    let ended = near.reaches(&job, "COMPLETED").await;
    assert_eq!((ended["output"].as_str(), ended.get("retries")), (Some("once"), None));
    let counters = far.get("health").await.json()["jobs"].clone();
    assert_eq!((&counters["completed"], &counters["inQueue"]), (&json!(1), &json!(0)));
}

#[tokio::test]
async fn a_cloud_that_is_killed_and_comes_back_with_its_jobs_finishes_them() {
    let folder = tempfile::tempdir().unwrap();
    let cloud =
        Program::start(folder.path(), &["--bind", "127.0.0.1:0", "--endpoint-id", "ep", "--data", "c.db"]).await;
    let near = near_program(&folder, &cloud.base, "60s", &[]).await;
    let job = submit(&near).await;
    let there = cloud.get("job-take/f1?gpu=FAR&job_in_progress=0").await;
    near.reaches(&job, "IN_PROGRESS").await;
    let bind = format!("127.0.0.1:{}", cloud.port());
    cloud.kill().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(near.get(&format!("status/{job}")).await["status"], "IN_PROGRESS", "it is waited for");
    let cloud = Program::start(folder.path(), &["--bind", &bind, "--endpoint-id", "ep", "--data", "c.db"]).await;
    cloud.post(&format!("job-done/f1/{}?gpu=FAR&isStream=false", id(&there)), r#"{"output": "late"}"#).await;
    let ended = near.reaches(&job, "COMPLETED").await;
    assert_eq!((ended["output"].as_str(), ended.get("retries")), (Some("late"), None));
}

#[tokio::test]
async fn a_job_comes_back_from_a_cloud_that_is_killed_and_has_forgotten_it_or_stays_away() {
    for returns in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let cloud = Program::start(folder.path(), &["--bind", "127.0.0.1:0", "--endpoint-id", "ep"]).await;
        let near = near_program(&folder, &cloud.base, if returns { "60s" } else { "3s" }, &[]).await;
        let job = submit(&near).await;
        cloud.get("job-take/f1?gpu=FAR&job_in_progress=0").await;
        near.reaches(&job, "IN_PROGRESS").await;
        let bind = format!("127.0.0.1:{}", cloud.port());
        cloud.kill().await;
        let restarted = match returns {
            true => Some(Program::start(folder.path(), &["--bind", &bind, "--endpoint-id", "ep"]).await),
            false => None,
        };
        if let Some(cloud) = &restarted {
            // Still late, so it is sent again, once.
            let again = cloud.get("job-take/f1?gpu=FAR&job_in_progress=0").await;
            cloud.post(&format!("job-done/f1/{}?gpu=FAR&isStream=false", id(&again)), r#"{"output": "again"}"#).await;
        } else {
            let taken = eventually("it is here", async || {
                let reply =
                    Client::new().get(format!("{}/job-take/w1?job_in_progress=0", near.base)).send().await.ok()?;
                (reply.status().as_u16() == 200).then_some(())
            });
            taken.await;
            near.post(&format!("job-done/w1/{job}?gpu=L&isStream=false"), r#"{"output": "again"}"#).await;
        }
        let ended = near.reaches(&job, "COMPLETED").await;
        assert_eq!((ended["output"].as_str(), ended.get("retries")), (Some("again"), None));
    }
}

#[tokio::test]
async fn an_endpoint_that_is_killed_finds_its_jobs_at_the_cloud_again() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Program::start(folder.path(), &["--bind", "127.0.0.1:0", "--endpoint-id", "ep"]).await;
    let near = near_program(&folder, &cloud.base, "60s", &["--data", "near.db"]).await;
    let job = submit(&near).await;
    let there = cloud.get("job-take/f1?gpu=FAR&job_in_progress=0").await;
    near.reaches(&job, "IN_PROGRESS").await;
    near.kill().await;
    cloud.post(&format!("job-done/f1/{}?gpu=FAR&isStream=false", id(&there)), r#"{"output": "kept"}"#).await;
    let near = near_program(&folder, &cloud.base, "60s", &["--data", "near.db"]).await;
    assert_eq!(near.reaches(&job, "COMPLETED").await["output"], "kept");
    assert_eq!(cloud.get("health").await["jobs"]["completed"], 1);
}

#[tokio::test]
async fn the_settings_of_the_guide_are_accepted() {
    let guide = include_str!("../../../../docs/endpoint.md");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("endpoints.toml");
    for (setting, shown) in
        [("overflow =", "images.overflow-max-dollars-per-hour"), ("load_balancer =", "chat.load-balancer-bind")]
    {
        let block = guide.split("```").find(|block| block.starts_with("toml") && block.contains(setting)).unwrap();
        std::fs::write(&path, block.strip_prefix("toml").unwrap()).unwrap();
        let mut command = program();
        command.args(["serve", "--check-config", "--config"]).arg(&path).env("RUNPOD_API_KEY", "hunter2");
        let output = command.output().await.unwrap();
        let lines = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(lines.contains(shown) && !lines.contains("hunter2"), "{lines}");
    }
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused_before_anything_is_started() {
    let folder = tempfile::tempdir().unwrap();
    for (overflow, bind, part) in [
        ("url = \"http://127.0.0.1:7777/v2/ep\", after = \"1s\"", "127.0.0.1:7777", "this endpoint itself"),
        ("url = \"http://localhost:7777/v2/ep/\", after = \"1s\"", "0.0.0.0:7777", "this endpoint itself"),
        ("url = \"https://h\", after = \"1s\"", "127.0.0.1:0", "such as https://h/v2/my-endpoint"),
        ("url = \"https://h/v2/e\", after = \"1s\", key_env = \"NO_SUCH_KEY\"", "127.0.0.1:0", "NO_SUCH_KEY"),
        ("url = \"https://user:hunter2@h/v2/e\", after = \"1s\"", "127.0.0.1:0", "key_file"),
    ] {
        let path = folder.path().join("endpoints.toml");
        std::fs::write(&path, format!("[[endpoint]]\nid = \"ep\"\noverflow = {{ {overflow} }}")).unwrap();
        let args = ["serve", "--insecure-no-auth", "--check-config", "--bind", bind, "--config"];
        let output = program().args(args).arg(&path).output().await.unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{error}");
        assert!(error.contains(part) && !error.contains("hunter2"), "{error}");
    }
}
