//! The API does what its OpenAPI document says, as schemathesis sees it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use runpod_endpoint::store::Outcome;
use tokio::time::{sleep, timeout};

use crate::commands::serve;
use crate::support::Api;

/// Includes the start of Python on a busy machine; the run itself takes about twenty seconds.
const LIMIT: Duration = Duration::from_secs(150);

/// Where `pip install --target` has put the package, if it has.
fn package() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.venv/schemathesis");
    folder.join("schemathesis").is_dir().then_some(folder)
}

/// A worker for every endpoint that the checker thinks of; it ends each job at once.
async fn work(api: Api) {
    let store = &api.app.store;
    loop {
        for endpoint in store.endpoints().await {
            for job in store.take(&endpoint, "w1", 100, Duration::ZERO).await.unwrap() {
                store.finish(&endpoint, "w1", &job.id, Outcome::default()).await.unwrap();
            }
        }
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reply_is_documented() {
    let Some(package) = package() else {
        eprintln!("not checked: `pip install --target .venv/schemathesis schemathesis` installs the checker");
        return;
    };
    let api = Api::new();
    let worker = tokio::spawn(work(api.clone()));
    let url = serve(api.router.clone()).await;
    let document = url.replace("/v2/ep", "/openapi.json");
    #[expect(clippy::disallowed_methods, reason = "the test runs the checker")]
    let mut checker = tokio::process::Command::new("python3");
    // Not the checks for strictness: clients send what RunPod's API ignores, and so does this one.
    checker
        .args(["-m", "schemathesis.cli", "run", &document, "--max-examples", "10", "--seed", "1", "--no-color"])
        .args(["--checks", "not_a_server_error,status_code_conformance,content_type_conformance"])
        .args(["--checks", "response_schema_conformance,unsupported_method,use_after_free"])
        .args(["--generation-database", "none", "--suppress-health-check", "all"])
        .env("PYTHONPATH", package)
        .kill_on_drop(true);
    let checked = timeout(LIMIT, checker.output()).await.expect("the checker ends").unwrap();
    worker.abort();
    let told = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success(), "{told}\n{}", String::from_utf8_lossy(&checked.stderr));
}
