//! `POST /graphql`: RunPod's pod query, for the workers that this program runs.

mod pod;

use async_graphql::{Context, EmptyMutation, EmptySubscription, InputObject, Object, Request, Schema, SimpleObject};
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::post;

use super::body::{self, BodyError};
use super::error::ApiError;
use super::limits;
use super::{Keys, client_only};
use crate::local::{GpuFigures, Local, LocalWorker};
use pod::Pod;

/// Bounds of one query; the official tools need a fraction, the usual introspection query about half.
const MAX_DEPTH: usize = 24;
const MAX_COMPLEXITY: usize = 1000;

type Pods = Schema<Query, EmptyMutation, EmptySubscription>;

/// The route; it requires the client key.
pub(crate) fn router(local: Local, keys: &Keys) -> Router {
    client_only(Router::new().route("/graphql", post(answer)), keys).with_state(schema(local))
}

fn schema(local: Local) -> Pods {
    Schema::build(Query, EmptyMutation, EmptySubscription)
        .data(GpuFigures::new(local.clone()))
        .data(local)
        .limit_depth(MAX_DEPTH)
        .limit_complexity(MAX_COMPLEXITY)
        .finish()
}

/// Errors of a query are part of a 200 reply, as in GraphQL over HTTP.
async fn answer(State(schema): State<Pods>, body: Body) -> Result<Response, ApiError> {
    let body = body::read(body, limits::GRAPHQL_BODY).await.map_err(|error| match error {
        BodyError::TooLarge => ApiError::BodyTooLarge { limit: limits::GRAPHQL_BODY },
        BodyError::Unreadable => ApiError::BodyUnreadable,
    })?;
    let request: Request = serde_json::from_slice(&body).map_err(|error| {
        ApiError::BadRequest(format!("the body must be a JSON object like {{\"query\": \"...\"}}: {error}"))
    })?;
    Ok(Json(schema.execute(request).await).into_response())
}

struct Query;

#[derive(InputObject)]
struct PodFilter {
    /// The worker id.
    pod_id: String,
}

#[derive(SimpleObject)]
struct Myself {
    pods: Vec<Pod>,
}

#[Object]
impl Query {
    /// The running worker with this id, or null.
    async fn pod(&self, context: &Context<'_>, input: PodFilter) -> async_graphql::Result<Option<Pod>> {
        Ok(measure(context.data()?, context.data()?, vec![input.pod_id]).await.pop())
    }

    /// All running workers.
    async fn myself(&self, context: &Context<'_>) -> async_graphql::Result<Myself> {
        let local: &Local = context.data()?;
        Ok(Myself { pods: measure(local, context.data()?, local.ids()).await })
    }
}

async fn measure(local: &Local, figures: &GpuFigures, ids: Vec<String>) -> Vec<Pod> {
    let local = local.clone();
    // It reads files: not on the async runtime's threads.
    let measured =
        tokio::task::spawn_blocking(move || ids.iter().filter_map(|id| local.measure(id)).collect::<Vec<_>>());
    let (measured, mut gpus) = tokio::join!(measured, figures.latest());
    let pod = |worker: LocalWorker| {
        let gpus = gpus.remove(&worker.id).unwrap_or_default();
        Pod::new(worker, gpus)
    };
    measured.unwrap_or_default().into_iter().map(pod).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use axum::routing::get;
    use tokio::net::TcpListener;

    /// A worker with this `/health` reply; its port.
    async fn worker_with_health(health: &'static str) -> u16 {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let app = Router::new().route("/health", get(move || async move { health }));
        tokio::spawn(async move { axum::serve(listener, app).await });
        port
    }

    async fn ask(local: &Local, query: &str) -> Value {
        serde_json::to_value(schema(local.clone()).execute(query).await).unwrap()
    }

    #[tokio::test]
    async fn a_running_worker_has_runtime_figures() {
        let health = r#"{"runtime": {"gpus": [{"id": "GPU-1", "name": "NVIDIA L4", "gpuUtilPercent": 57.5}]}}"#;
        let port = worker_with_health(health).await;
        let local = Local::of("ep");
        let _listed = local.list("ep-0", std::process::id(), Some(port));
        let answer = ask(
            &local,
            r#"query { pod(input: {podId: "ep-0"}) { id desiredStatus ports gpuCount machine { gpuDisplayName } runtime {
                uptimeInSeconds ports { ip isIpPublic privatePort publicPort type }
                gpus { id gpuUtilPercent memoryUtilPercent } container { cpuPercent memoryPercent } } } }"#,
        )
        .await;
        let pod = &answer["data"]["pod"];
        assert_eq!(pod["id"], "ep-0");
        assert_eq!(pod["ports"], format!("{port}/http"));
        assert_eq!((&pod["gpuCount"], &pod["machine"]["gpuDisplayName"]), (&json!(1), &json!("NVIDIA L4")));
        let gpu = json!({"id": "GPU-1", "gpuUtilPercent": 57.5, "memoryUtilPercent": null});
        assert_eq!(pod["runtime"]["gpus"], json!([gpu]));
        assert_eq!(
            pod["runtime"]["ports"],
            json!([{"ip": "127.0.0.1", "isIpPublic": false, "privatePort": port, "publicPort": port, "type": "http"}])
        );
        let memory = pod["runtime"]["container"]["memoryPercent"].as_f64().unwrap();
        assert!(memory > 0.0 && memory < 100.0, "{memory}");
        assert!(pod["runtime"]["uptimeInSeconds"].is_number());
    }

    #[tokio::test]
    async fn a_worker_that_reports_no_gpus_has_none() {
        for health in [r#"{"runtime": {"ports": []}}"#, "{}", "no JSON"] {
            let local = Local::of("ep");
            let _listed = local.list("w", std::process::id(), Some(worker_with_health(health).await));
            let answer = ask(&local, "{ myself { pods { gpuCount runtime { gpus { id } } } } }").await;
            assert_eq!(
                answer["data"]["myself"]["pods"][0],
                json!({"gpuCount": 0, "runtime": {"gpus": []}}),
                "{health}"
            );
        }
    }

    #[tokio::test]
    async fn an_unknown_worker_is_null_and_not_an_error() {
        let answer = ask(&Local::default(), r#"{ pod(input: {podId: "x"}) { id } myself { pods { id } } }"#).await;
        assert_eq!(answer, json!({"data": {"pod": null, "myself": {"pods": []}}}));
    }

    #[tokio::test]
    async fn a_field_that_does_not_exist_is_named() {
        let answer = ask(&Local::default(), r#"{ pod(input: {podId: "x"}) { colour } }"#).await;
        assert!(answer["errors"][0]["message"].as_str().unwrap().contains("colour"), "{answer}");
    }
}
