//! Every refusal of a path or a method has a reason, whichever part of the program it comes from.

use axum::http::{Method, StatusCode};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::timeout;

use crate::commands::program;
use crate::support::SOON;

/// The status, the methods that the answer names, and the reason.
async fn refused(url: &str, method: Method, encoding: &str) -> (StatusCode, String, String) {
    let request = reqwest::Client::new().request(method, url).header("accept-encoding", encoding);
    let reply = request.send().await.unwrap();
    let (status, headers) = (reply.status(), reply.headers().clone());
    let text = reply.text().await.unwrap();
    assert_eq!(headers.get("content-type").unwrap(), "application/json", "{url}: {text}");
    let problem: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(problem["status"], status.as_u16(), "{url}: {text}");
    let allowed = headers.get("allow").map(|allowed| allowed.to_str().unwrap().to_owned());
    (status, allowed.unwrap_or_default(), problem["error"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_wrong_method_and_an_unknown_path_are_refused_with_a_reason_everywhere() {
    let mut serve = program().args(["serve", "--bind", "127.0.0.1:0"]).spawn().unwrap();
    let mut lines = BufReader::new(serve.stdout.take().unwrap()).lines();
    let line = timeout(SOON, lines.next_line()).await.unwrap().unwrap().unwrap();
    let base = line.split_once("http://").unwrap().1.split_once('/').unwrap().0;
    let gets =
        ["", "metrics", "ready", "live", "ping", "openapi.json", "docs/", "console/console.css", "console/main.js"];
    let consoles =
        ["endpoints", "ep/manifest", "ep/events", "ep/overview", "ep/history", "ep/jobs/j", "ep/jobs/j/events"];
    let consoles = consoles.map(|path| format!("console/{path}"));
    let clients = ["run", "runsync", "status/j", "stream/j", "cancel/j", "health", "batch/b", "metrics", "job-take/w"];
    let clients = clients.map(|path| format!("v2/ep/{path}"));
    let routes = gets.into_iter().map(str::to_owned).chain(consoles).chain(clients).chain(["graphql".to_owned()]);
    for path in routes {
        let url = format!("http://{base}/{path}");
        for encoding in ["identity", "gzip"] {
            let (status, allowed, reason) = refused(&url, Method::PATCH, encoding).await;
            assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "{path}: {reason}");
            assert!(allowed.contains("GET") || allowed.contains("POST"), "{path}: {allowed:?}");
            assert!(reason.contains("method"), "{path}: {reason}");
        }
    }
    for path in [
        "console/ep/history?before=zzz",
        "console/ep/history?from=x",
        "console/ep/overview?status=x",
        "console/ep/events?status=x",
        "docs/%FF",
        "v2/%FF/health",
        "console/%FF/history",
    ] {
        let (status, _, reason) = refused(&format!("http://{base}/{path}"), Method::GET, "identity").await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path}: {reason}");
    }
    for path in ["nope", "docs/nope", "console/nope", "console/ep/nope", "v2/ep/nope", "v2/ep/status", "graphql/nope"] {
        for encoding in ["identity", "gzip"] {
            let (status, _, reason) = refused(&format!("http://{base}/{path}"), Method::GET, encoding).await;
            assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
            assert!(reason.contains("no such route"), "{path}: {reason}");
        }
    }
}
