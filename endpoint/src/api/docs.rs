//! The OpenAPI document at `/openapi.json` and a browser for it at `/docs`, both from the routes' own attributes. All addresses in them
//! are relative, so that they hold behind a proxy that serves this server under a path of its own.

use std::collections::BTreeSet;

use axum::Router;
use axum::http::header::{CONTENT_SECURITY_POLICY, LOCATION};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{
    Content, InfoBuilder, LicenseBuilder, OpenApi, Ref, ResponseBuilder, SecurityRequirement, ServerBuilder,
};
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::error::{ApiError, Problem};
use super::openai::OpenAiProblem;

/// Name of the security scheme.
const KEY: &str = "key";

/// Swagger UI sets styles from its scripts, so inline styles are allowed. Everything is loaded from this server.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
                      img-src 'self' data:; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'";

/// The pages need no key: they describe the API and show no jobs.
pub(super) fn routes<S: Clone + Send + Sync + 'static>(document: OpenApi) -> Router<S> {
    let config = Config::from("../openapi.json").try_it_out_enabled(true).validator_url("none").use_base_layout();
    let browser = SwaggerUi::new("/docs").config(config).url("/openapi.json", complete(document));
    Router::from(browser).layer(map_response(protect))
}

async fn protect(mut response: Response) -> Response {
    if response.status() == StatusCode::BAD_REQUEST {
        // The browser of the API refuses a path that is no text, in a text of its own.
        response =
            ApiError::BadRequest("the path is not UTF-8: the API is described at /docs/".to_owned()).into_response();
    }
    // From `/docs`. The browser of the API knows no path but its own.
    if response.headers().get(LOCATION).is_some_and(|target| target == "/docs/") {
        response.headers_mut().insert(LOCATION, HeaderValue::from_static("docs/"));
    }
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    response
}

/// Adds what all operations have in common.
fn complete(mut document: OpenApi) -> OpenApi {
    document.info = InfoBuilder::new()
        .title("runpod-endpoint")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("The client API of a RunPod-compatible serverless endpoint."))
        .license(Some(LicenseBuilder::new().name(env!("CARGO_PKG_LICENSE")).build()))
        .build();
    // The folder of the document.
    document.servers = Some(vec![ServerBuilder::new().url(".").description(Some("This endpoint")).build()]);
    let mut scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    scheme.description = Some("The value of --api-key, if the endpoint has one.".to_owned());
    let components = document.components.get_or_insert_default();
    components.add_security_scheme(KEY, SecurityScheme::Http(scheme));
    // The router's sign for the rest of a path is none of OpenAPI's.
    let paths = std::mem::take(&mut document.paths.paths);
    document.paths.paths = paths.into_iter().map(|(path, item)| (path.replace("{*", "{"), item)).collect();
    for (path, item) in &mut document.paths.paths {
        complete_item(item, if path.contains("/openai/") { OpenAiProblem::NAME } else { Problem::NAME });
    }
    document
}

fn complete_item(item: &mut PathItem, error: &str) {
    let PathItem { get, post, put, patch, delete, .. } = item;
    let operations = [("get", get), ("post", post), ("put", put), ("patch", patch), ("delete", delete)];
    let mut ids = BTreeSet::new();
    for (method, operation) in operations {
        let Some(operation) = operation else { continue };
        // One function may serve several methods, but operation ids must be unique.
        let id = operation.operation_id.take().unwrap_or_default();
        operation.operation_id = Some(if ids.insert(id.clone()) { id } else { format!("{id}_{method}") });
        complete_operation(operation, error);
    }
}

fn complete_operation(operation: &mut Operation, error: &str) {
    operation.tags = None;
    let none: [&str; 0] = [];
    operation.security = Some(vec![SecurityRequirement::default(), SecurityRequirement::new(KEY, none)]);
    for (status, description) in [
        ("400", "The request is not understood"),
        ("401", "The key is missing or wrong"),
        ("403", "The request comes from a page of another web site, and the endpoint has no keys"),
        ("404", "The endpoint does not exist"),
        ("409", "The state of what is to be changed forbids it"),
        ("415", "The Content-Encoding of the request is not understood"),
        ("429", "Too many requests; try again after the time in Retry-After"),
        ("431", "The headers are too large"),
        ("503", "The data file or the database cannot be used at the moment"),
    ] {
        let content = Content::new(Some(Ref::from_schema_name(error)));
        let response = ResponseBuilder::new().description(description).content("application/json", content).build();
        operation.responses.responses.entry(status.to_owned()).or_insert_with(|| response.into());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::api::documented_routes;

    fn document() -> Value {
        serde_json::to_value(complete(documented_routes().split_for_parts().1)).unwrap()
    }

    #[test]
    fn the_document_lists_every_operation_once() {
        let document = document();
        let mut operations: Vec<_> = document["paths"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(path, item)| {
                item.as_object().unwrap().iter().map(move |(method, operation)| {
                    format!("{method} {path} {}", operation["operationId"].as_str().unwrap())
                })
            })
            .collect();
        operations.sort();
        insta::assert_snapshot!(operations.join("\n"), @r"
        delete /v2/{endpoint}/batch/{id}/requests/{request} remove_request
        delete /v2/{endpoint}/openai/{route} openai_delete
        get /v2/{endpoint}/batch batches
        get /v2/{endpoint}/batch/{id} batch
        get /v2/{endpoint}/batch/{id}/requests batch_requests
        get /v2/{endpoint}/failed failed
        get /v2/{endpoint}/health health
        get /v2/{endpoint}/openai/{route} openai
        get /v2/{endpoint}/requests requests
        get /v2/{endpoint}/status-sync/{id} status_sync
        get /v2/{endpoint}/status/{id} status
        get /v2/{endpoint}/stream/{id} stream
        get /v2/{endpoint}/webhooks webhooks
        patch /v2/{endpoint}/openai/{route} openai_patch
        post /v2/{endpoint}/batch create
        post /v2/{endpoint}/batch/{id}/cancel cancel_batch
        post /v2/{endpoint}/batch/{id}/finalize finalize
        post /v2/{endpoint}/batch/{id}/requests add_requests
        post /v2/{endpoint}/cancel/{id} cancel
        post /v2/{endpoint}/openai/{route} openai_post
        post /v2/{endpoint}/pause pause
        post /v2/{endpoint}/purge-queue purge_queue
        post /v2/{endpoint}/resume resume
        post /v2/{endpoint}/retry-failed retry_failed
        post /v2/{endpoint}/retry/{id} retry
        post /v2/{endpoint}/run run
        post /v2/{endpoint}/runsync runsync
        post /v2/{endpoint}/status-sync/{id} status_sync_post
        post /v2/{endpoint}/status/{id} status_post
        post /v2/{endpoint}/stream/{id} stream_post
        post /v2/{endpoint}/webhooks/resend resend_webhooks
        post /v2/{endpoint}/webhooks/resend/{id} resend_webhook
        put /v2/{endpoint}/batch/{id} rename
        put /v2/{endpoint}/openai/{route} openai_put
        ");
    }

    #[test]
    fn every_reference_has_a_target() {
        let document = document();
        let text = document.to_string();
        for reference in text.split("\"$ref\":\"#").skip(1) {
            let pointer = reference.split('"').next().unwrap();
            assert!(document.pointer(pointer).is_some(), "{pointer}");
        }
    }
}
