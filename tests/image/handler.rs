//! The echo handler in an image made of the lines that docs/image.md tells handler authors to write, on the base without libtorch.

use std::time::Duration;

use end_to_end_tests::Endpoint;
use rustix::process::Signal;
use serde_json::json;

use crate::container::{Image, Start, on, signal};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an image: make image-test"]
async fn three_lines_make_an_image_that_runs() {
    let image = Image::under_test();
    assert!(!image.has("opt/libtorch"), "libtorch is in the base without it");
    assert!(image.has("app/weights"), "the weights were not copied");
    let endpoint = Endpoint::start(&[]).await;
    let start = Start { user: "10001:10001", read_only: false };
    let mut container = image.start_worker(&endpoint, start, &on("cpu"));
    container.worker.ready().await;
    let done = endpoint.client().run(json!({ "text": "hello" })).await;
    assert_eq!((&done["status"], &done["output"]["text"]), (&json!("COMPLETED"), &json!("hello")), "{done}");

    let health_check = image.health_check();
    let command: Vec<&str> = health_check.iter().map(String::as_str).collect();
    let (code, text) = image.run(start, &container.env, &command);
    assert_eq!((code, text.trim()), (Some(0), r#"{"state":"live"}"#));
    signal(&container.worker.daemon, Signal::TERM);
    let status = container.worker.daemon.wait(Duration::from_secs(60));
    assert_eq!(status.code(), Some(0), "{}", container.worker.daemon.log());
}
