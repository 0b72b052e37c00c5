//! Images as handler authors make them, on the bases: what `runpod-worker new` writes, compiled by its own Dockerfile, and the lines
//! of docs/image.md.

use serde_json::{Value, json};

use crate::container::Image;

/// The job in the new crate's `test_input.json`.
fn test_input(file: &str) -> Value {
    let document: Value = serde_json::from_str(file).unwrap();
    document["input"].clone()
}

async fn greets(image: &Image) {
    let input = test_input(include_str!("../../worker/templates/common/names.json"));
    let done = image.does_one_job(input).await;
    assert_eq!(done["output"]["greetings"], json!(["Hello, Ada!", "Hello, Grace!"]), "{done}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an image: make image-test"]
async fn new_plain() {
    greets(&Image::under_test()).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an image: make image-test"]
async fn new_torch() {
    let image = Image::under_test();
    assert!(image.has("opt/libtorch"), "the base has no libtorch");
    let input = test_input(include_str!("../../worker/templates/torch/test_input.json"));
    let done = image.does_one_job(input).await;
    assert_eq!(done["output"]["probabilities"][0].as_array().map(Vec::len), Some(3), "{done}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an image: make image-test"]
async fn three_lines() {
    let image = Image::under_test();
    assert!(!image.has("opt/libtorch"), "libtorch is in the base without it");
    assert!(image.has("app/weights"), "the weights were not copied");
    greets(&image).await;
}
