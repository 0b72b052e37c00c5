//! `POST /graphql`: RunPod's pod query, for the workers that this program runs.

mod guard;
mod pod;

use std::sync::Arc;

use async_graphql::{
    Context, EmptyMutation, EmptySubscription, InputObject, Object, Request, Response as GraphQlResponse, Schema,
    ServerError, SimpleObject,
};
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::post;
use runpod_http_server::Budget;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::body;
use super::error::ApiError;
use super::json;
use super::limits;
use super::{Keys, client_only};
use crate::local::{Local, LocalWorker, WorkerFigures};
use pod::Pod;

/// Queries that are executed at once; more of them wait.
const MAX_QUERIES: usize = 4;

type Pods = Schema<Query, EmptyMutation, EmptySubscription>;

/// What the route needs.
#[derive(Clone)]
struct Executor {
    schema: Pods,
    queries: Arc<Semaphore>,
    request_memory: Budget,
}

/// The route; it requires the client key.
pub(crate) fn router(local: Local, keys: &Keys, request_memory: Budget) -> Router {
    let executor = Executor { schema: schema(local), queries: Arc::new(Semaphore::new(MAX_QUERIES)), request_memory };
    client_only(Router::new().route("/graphql", post(answer)), keys).with_state(executor)
}

fn schema(local: Local) -> Pods {
    let schema = Schema::build(Query, EmptyMutation, EmptySubscription);
    schema.data(WorkerFigures::new(local.clone())).data(local).finish()
}

/// Errors of a query are part of a 200 reply, as in GraphQL over HTTP.
async fn answer(State(executor): State<Executor>, body: Body) -> Result<Response, ApiError> {
    let body = body::read(body, limits::GRAPHQL_BODY, &executor.request_memory).await;
    let body = body.map_err(|error| error.of_client(limits::GRAPHQL_BODY))?;
    let request: Request = json::object(&body).map_err(|error| {
        ApiError::BadRequest(format!("the body must be a JSON object like {{\"query\": \"...\"}}: {error}"))
    })?;
    // Never closed.
    let _permit = executor.queries.acquire().await;
    Ok(Json(execute(executor.schema.clone(), request).await).into_response())
}

/// Checks and executes a query on a thread for blocking work: both take computing time that a client chooses.
async fn execute(schema: Pods, mut request: Request) -> GraphQlResponse {
    let runtime = Handle::current();
    let execution = spawn_blocking(move || {
        let document = guard::parse(&request.query)?;
        request.set_parsed_query(document);
        Ok(runtime.block_on(schema.execute(request)))
    });
    match execution.await {
        Ok(Ok(response)) => response,
        Ok(Err::<_, guard::QueryError>(refused)) => failure(refused.to_string()),
        Err(_) => failure("the query could not be executed; simplify it".to_owned()),
    }
}

fn failure(message: String) -> GraphQlResponse {
    GraphQlResponse::from_errors(vec![ServerError::new(message, None)])
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

async fn measure(local: &Local, figures: &WorkerFigures, ids: Vec<String>) -> Vec<Pod> {
    let local = local.clone();
    // It reads files: not on the async runtime's threads.
    let measured = spawn_blocking(move || ids.iter().filter_map(|id| local.measure(id)).collect::<Vec<_>>());
    let (measured, mut figures) = tokio::join!(measured, figures.latest());
    let pod = |worker: LocalWorker| {
        let gpus = figures.remove(&worker.id).unwrap_or_default().gpus;
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
        serde_json::to_value(execute(schema(local.clone()), Request::new(query)).await).unwrap()
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
    async fn a_query_that_would_take_minutes_is_refused_at_once() {
        let mut query = "{ ...f0 }".to_owned();
        for level in 0..25 {
            query.push_str(&format!(" fragment f{level} on Query {{ ...f{n} ...f{n} }}", n = level + 1));
        }
        let answer = ask(&Local::default(), &(query + " fragment f25 on Query { myself { pods { id } } }")).await;
        assert!(answer["errors"][0]["message"].as_str().unwrap().contains("fewer fields"), "{answer}");
    }

    #[tokio::test]
    async fn a_field_that_does_not_exist_is_named() {
        let answer = ask(&Local::default(), r#"{ pod(input: {podId: "x"}) { colour } }"#).await;
        assert!(answer["errors"][0]["message"].as_str().unwrap().contains("colour"), "{answer}");
    }
}
