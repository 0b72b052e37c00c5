//! The OpenAPI document at `/openapi.json` and a browser for it at `/docs`, both from the routes' own attributes.

use axum::Router;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_SECURITY_POLICY;
use axum::middleware::map_response;
use axum::response::Response;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Content, InfoBuilder, LicenseBuilder, OpenApi, Ref, ResponseBuilder, SecurityRequirement};
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::error::Problem;

/// Name of the security scheme.
const KEY: &str = "key";

/// Swagger UI sets styles from its scripts, so inline styles are allowed. Everything is loaded from this server.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
                      img-src 'self' data:; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'";

/// The pages need no key: they describe the API and show no jobs.
pub(super) fn routes<S: Clone + Send + Sync + 'static>(document: OpenApi) -> Router<S> {
    let config = Config::default().try_it_out_enabled(true).validator_url("none").use_base_layout();
    let browser = SwaggerUi::new("/docs").config(config).url("/openapi.json", complete(document));
    Router::from(browser).layer(map_response(protect))
}

async fn protect(mut response: Response) -> Response {
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
    let mut scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    scheme.description = Some("The value of --api-key, if the endpoint has one.".to_owned());
    let components = document.components.get_or_insert_default();
    components.add_security_scheme(KEY, SecurityScheme::Http(scheme));
    for item in document.paths.paths.values_mut() {
        complete_item(item);
    }
    document
}

fn complete_item(item: &mut PathItem) {
    if let (Some(get), Some(post)) = (&item.get, &mut item.post) {
        // One route serves both methods, but operation ids must be unique.
        post.operation_id = get.operation_id.as_ref().map(|id| format!("{id}_post"));
    }
    for operation in [&mut item.get, &mut item.post].into_iter().flatten() {
        complete_operation(operation);
    }
}

fn complete_operation(operation: &mut Operation) {
    operation.tags = None;
    let none: [&str; 0] = [];
    operation.security = Some(vec![SecurityRequirement::default(), SecurityRequirement::new(KEY, none)]);
    for (status, description) in [
        ("400", "The request is not understood"),
        ("401", "The key is missing or wrong"),
        ("403", "The request comes from a page of another web site, and the endpoint has no keys"),
        ("404", "The endpoint does not exist"),
        ("429", "Too many requests; try again after the time in Retry-After"),
        ("431", "The headers are too large"),
        ("503", "The data file or the database cannot be used at the moment"),
    ] {
        let content = Content::new(Some(Ref::from_schema_name(Problem::NAME)));
        let response = ResponseBuilder::new().description(description).content("application/json", content).build();
        operation.responses.responses.entry(status.to_owned()).or_insert_with(|| response.into());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::api::client;

    fn document() -> Value {
        serde_json::to_value(complete(client::routes().split_for_parts().1)).unwrap()
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
        get /v2/{endpoint}/health health
        get /v2/{endpoint}/requests requests
        get /v2/{endpoint}/status-sync/{id} status_sync
        get /v2/{endpoint}/status/{id} status
        get /v2/{endpoint}/stream/{id} stream
        post /v2/{endpoint}/cancel/{id} cancel
        post /v2/{endpoint}/purge-queue purge_queue
        post /v2/{endpoint}/retry/{id} retry
        post /v2/{endpoint}/run run
        post /v2/{endpoint}/runsync runsync
        post /v2/{endpoint}/status-sync/{id} status_sync_post
        post /v2/{endpoint}/status/{id} status_post
        post /v2/{endpoint}/stream/{id} stream_post
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
