//! The commands of `docs/scale-out.md`, and what is deployed for it, are run as they are; only names and ports are changed.

use std::time::Duration;

use end_to_end_tests::{Endpoint, Postgres, free_port, repository};
use serde_json::json;

use crate::readme::{block_of, built_repository, shell};

const GUIDE: &str = "docs/scale-out.md";
const LIMIT: Duration = Duration::from_secs(120);

/// The text with each of these replaced; each must be there.
fn replaced(text: &str, changes: &[(&str, &str)]) -> String {
    changes.iter().fold(text.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "no {from} in {text}");
        text.replace(from, to)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guide_leads_from_a_fresh_server_to_a_job_through_each_of_two_replicas() {
    let Some(server) = Postgres::durable() else { return };
    let folder = built_repository();
    // The package is installed, and the server is one of the test's own.
    let create = block_of(GUIDE, "sh", "CREATE ROLE");
    let (_, create) = create.split_once("systemd has not done it\n").unwrap();
    let psql = format!("psql -X -d '{}'", server.url("postgres"));
    let names = [("ROLE jobs", "ROLE guide"), ("DATABASE jobs", "DATABASE guide"), ("OWNER jobs", "OWNER guide")];
    let create = replaced(&replaced(create, &names), &[("runuser -u postgres -- psql", &psql)]);
    let mut created = shell("scale-out.md: create", &create, folder.path());
    assert!(created.wait(LIMIT).success(), "{}", created.log());

    let [first, second] = [free_port(), free_port()].map(|port| format!("127.0.0.1:{port}"));
    let ready = format!(
        "for at in {first} {second}; do until runpod-endpoint health --url $at >/dev/null 2>&1; do sleep 0.1; done; done"
    );
    let serve = replaced(
        &block_of(GUIDE, "sh", "runpod-endpoint serve"),
        &[
            ("jobs@127.0.0.1/jobs", &*format!("guide@127.0.0.1:{}/guide", server.port())),
            ("127.0.0.1:8000", &first),
            ("127.0.0.1:9000", &second),
            ("sleep 3", &ready),
        ],
    );
    let mut served = shell("scale-out.md: serve", &serve, folder.path());
    assert!(served.wait(LIMIT).success(), "{}", served.log());
    let log = served.log();
    for words in ["{\"text\":\"one\"}", "{\"text\":\"two\"}", "fsync = \"on\": ok"] {
        assert!(log.contains(words), "no {words} in {log}");
    }
    let completed = server.sql(&server.url("guide"), "SELECT count(*) FROM jobs WHERE status = 'COMPLETED'");
    assert_eq!(completed, "2", "{log}");
    let replicas = server.sql(&server.url("guide"), "SELECT count(*) FROM replicas");
    assert_eq!(replicas, "2", "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scaler_on_the_database_counts_what_needs_a_worker() {
    let Some(server) = Postgres::shared() else { return };
    let url = server.database();
    let endpoint = Endpoint::start(&["--database", &url]).await;
    let manifest = std::fs::read_to_string(repository().join("docker/monitoring/keda-database.yml")).unwrap();
    let query = manifest.lines().find_map(|line| line.trim().strip_prefix("query: \"")?.strip_suffix('"')).unwrap();
    let query = replaced(query, &[("'local'", "'test'")]);
    assert_eq!(server.sql(&url, &query), "0");
    let client = endpoint.client();
    for _ in 0..3 {
        client.submit(json!({})).await;
    }
    let http = reqwest::Client::new();
    let taken = http.get(client.url("/job-take/w")).send().await.unwrap();
    assert_eq!((taken.status().as_u16(), &*server.sql(&url, &query)), (200, "3"), "two wait and one runs");
    let batch = http.post(client.url("/batch")).json(&json!([{"input": 1}, {"input": 2}, {"input": 3}]));
    let batch: serde_json::Value = batch.send().await.unwrap().json().await.unwrap();
    assert_eq!(server.sql(&url, &query), "3", "nothing of a draft runs");
    let finalize = client.url(&format!("/batch/{}/finalize", batch["id"].as_str().unwrap()));
    assert_eq!(http.post(finalize).send().await.unwrap().status(), 200);
    assert_eq!(server.sql(&url, &query), "5", "a batch is for one worker, which is two jobs here");
    http.post(client.url("/pause")).send().await.unwrap();
    assert_eq!(server.sql(&url, &query), "1");
}
