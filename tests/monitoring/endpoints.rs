//! Incidents of endpoints themselves: each alert fires, and resolves when its cause has ended.

use std::time::Duration;

use axum::Router;
use axum::routing::{get, post};
use end_to_end_tests::{Client, Endpoint, binary, free_port};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::stack::Prometheus;

/// The first polls of one worker are answered with an error.
const FAULTS: &str = r#"
[[fault]]
on = "job-take"
kind = "status"
status = 500
worker = "unlucky"
times = 100
"#;

/// Nothing listens there: only Prometheus is looked at.
const NO_ALERTMANAGER: &str = "127.0.0.1:9";

/// A request again and again, for as long as this exists.
struct Repeated(JoinHandle<()>);

impl Repeated {
    fn get(url: String) -> Self {
        Self(tokio::spawn(async move {
            loop {
                let _ = reqwest::get(&url).await;
                sleep(Duration::from_millis(100)).await;
            }
        }))
    }
}

impl Drop for Repeated {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Two endpoints with an overflow, one of which has money for short jobs only, and a load-balancing one.
fn config(far: &str, balancer: &str) -> String {
    let handler = binary("echo");
    let url = format!("http://{far}/v2/far");
    format!(
        "[[endpoint]]\nid = \"late\"\noverflow = {{ url = {url:?}, after = \"0s\" }}\n\
         [[endpoint]]\nid = \"dear\"\nexecution_timeout = \"5s\"\n\
         overflow = {{ url = {url:?}, after = \"0s\", price_per_hour = 3600.0, max_dollars_per_hour = 36.0 }}\n\
         [[endpoint]]\nid = \"lb\"\nhandler = [{handler:?}]\nload_balancer = {{ bind = {balancer:?} }}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn incidents_of_endpoints_fire_their_alerts_and_end() {
    let folder = tempfile::tempdir().unwrap();
    let [far, balancer] = [free_port(), free_port()].map(|port| format!("127.0.0.1:{port}"));
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_string_lossy().into_owned()
    };
    let (faults, config) = (file("faults.toml", FAULTS), file("endpoints.toml", &config(&far, &balancer)));
    let args = ["--faults", &*faults, "--worker-http-port", "0", "--config", &*config];
    let endpoint = Endpoint::start(&args).await;
    let root = endpoint.base.rsplit_once("/v2").unwrap().0.to_owned();
    // In the place of a worker, too.
    let prometheus = Prometheus::start(&[&endpoint.base], &endpoint.base, NO_ALERTMANAGER).await;
    let [late, dear] = ["late", "dear"].map(|id| Client::new(&format!("{root}/v2/{id}")));
    tokio::join!(
        errors(&prometheus, &root),
        balanced_errors(&prometheus, &root, &balancer),
        an_overflow_that_is_away(&prometheus, &late, &far),
        an_overflow_without_money(&prometheus, &dear),
    );
}

async fn errors(prometheus: &Prometheus, root: &str) {
    const ALERT: &str = "RunpodEndpointErrors";
    prometheus.is_over(ALERT).await;
    let _polls = Repeated::get(format!("{root}/v2/late/job-take/unlucky?job_in_progress=0"));
    prometheus.fires(ALERT).await;
    prometheus.is_over(ALERT).await;
}

async fn balanced_errors(prometheus: &Prometheus, root: &str, balancer: &str) {
    const ALERT: &str = "RunpodBalancedErrors";
    prometheus.is_over(ALERT).await;
    let control = async |what: &str| {
        let sent = reqwest::Client::new().post(format!("{root}/v2/lb/{what}")).send().await;
        assert!(sent.unwrap().status().is_success(), "{what}");
    };
    control("pause").await;
    let _requests = Repeated::get(format!("http://{balancer}/"));
    prometheus.fires(ALERT).await;
    control("resume").await;
    prometheus.is_over(ALERT).await;
}

async fn an_overflow_that_is_away(prometheus: &Prometheus, client: &Client, far: &str) {
    const ALERT: &str = "RunpodOverflowAway";
    prometheus.is_over(ALERT).await;
    client.submit(json!(1)).await;
    prometheus.fires(ALERT).await;
    let router = Router::new()
        .route("/v2/far/run", post(async || r#"{"id": "far-1", "status": "IN_QUEUE"}"#))
        .route("/v2/far/stream/{id}", get(async || r#"{"status": "IN_QUEUE", "stream": []}"#));
    let listener = TcpListener::bind(far).await.unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    prometheus.is_over(ALERT).await;
}

async fn an_overflow_without_money(prometheus: &Prometheus, client: &Client) {
    const ALERT: &str = "RunpodOverflowBudget";
    prometheus.is_over(ALERT).await;
    let long = json!({"input": 1, "policy": {"executionTimeout": 600_000}});
    let id = client.submit_request(long).await;
    prometheus.fires(ALERT).await;
    client.cancel(&id).await;
    prometheus.is_over(ALERT).await;
}
