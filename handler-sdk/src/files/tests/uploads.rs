use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use end_to_end_tests::S3Server;
use runpod_handler_protocol::ErrorKind;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::servers::serve;
use super::*;
use crate::error::HandlerError;
use crate::file_error::FileError;
use crate::files::bucket::Bucket;
use crate::files::job_files::bucket;
use crate::files::large_output::encode_or_upload_with;
use crate::files::s3::PART;
use crate::files::upload::{Upload, Uploaded, upload};

fn with_bucket(endpoint: &str, name: &str, more: &[(&str, &str)]) -> Arc<Shared> {
    let variables = [
        ("BUCKET_ENDPOINT_URL", endpoint),
        ("BUCKET_ACCESS_KEY_ID", S3Server::KEY_ID),
        ("BUCKET_SECRET_ACCESS_KEY", S3Server::SECRET),
        ("BUCKET_NAME", name),
    ];
    shared(&[&variables, more].concat())
}

async fn put(shared: &Arc<Shared>, file: Upload) -> Result<Uploaded, FileError> {
    let bucket = shared.settings.bucket()?.cloned();
    upload(&context(shared), bucket.as_ref(), file).await
}

/// Fetches a link as anyone would.
async fn open(link: &str) -> (u16, String, Bytes) {
    let answer = reqwest::get(link).await.unwrap();
    let content_type = answer.headers().get("content-type").map_or("", |value| value.to_str().unwrap()).to_owned();
    (answer.status().as_u16(), content_type, answer.bytes().await.unwrap())
}

#[tokio::test]
async fn a_file_is_uploaded_and_its_link_needs_no_key() {
    let folder = TempDir::new().unwrap();
    let server = S3Server::start().await;
    let shared = with_bucket(&server.base(), S3Server::BUCKET, &[]);
    let uploaded = put(&shared, Upload::bytes("../cat.png", &b"pixels"[..])).await.unwrap();
    assert_eq!((uploaded.content_type.as_str(), uploaded.bytes, uploaded.expires_in), ("image/png", 6, Some(604_800)));
    assert!(
        uploaded.url.contains("/results/job-1/cat.png?") && !uploaded.url.contains(S3Server::SECRET),
        "{}",
        uploaded.url
    );
    assert_eq!(open(&uploaded.url).await, (200, "image/png".to_owned(), Bytes::from_static(b"pixels")));
    let bare = uploaded.url.split('?').next().unwrap();
    assert_eq!(open(bare).await.0, 403, "without the signature the file is private");

    let path = folder.path().join("notes");
    std::fs::write(&path, "text").unwrap();
    let file = Upload::file(&path).name("a b.txt").content_type("text/markdown").link_lifetime(Duration::from_secs(60));
    let uploaded = put(&shared, file).await.unwrap();
    assert_eq!(uploaded.expires_in, Some(60));
    assert!(uploaded.url.contains("X-Amz-Expires=60"), "{}", uploaded.url);
    assert_eq!(open(&uploaded.url).await, (200, "text/markdown".to_owned(), Bytes::from_static(b"text")));
    let empty = put(&shared, Upload::bytes("empty", Bytes::new())).await.unwrap();
    assert_eq!(open(&empty.url).await.2, Bytes::new());
}

#[tokio::test]
async fn a_large_file_is_uploaded_in_parts() {
    let folder = TempDir::new().unwrap();
    let server = S3Server::start().await;
    let shared = with_bucket(&server.base(), S3Server::BUCKET, &[]);
    let len = 2 * PART as usize + 12_345;
    let data: Vec<u8> = (0..len).map(|i| (i / 4096) as u8 ^ i as u8).collect();
    let path = folder.path().join("video.mp4");
    std::fs::write(&path, &data).unwrap();
    let uploaded = put(&shared, Upload::file(&path)).await.unwrap();
    assert_eq!(uploaded.bytes, len as u64);
    let (status, content_type, served) = open(&uploaded.url).await;
    assert_eq!((status, content_type.as_str()), (200, "video/mp4"));
    assert!(served == data, "the parts are in order");
}

#[tokio::test]
async fn a_refused_upload_is_a_clear_error_without_secrets() {
    let server = S3Server::start().await;
    // The S3 server of the tests takes files for buckets that do not exist.
    let (strict, _) = serve(|_, stream| answer(stream, "404 Not Found", "<Error><Code>NoSuchBucket</Code></Error>"));
    let wrong_name = with_bucket(&format!("http://{strict}"), "other", &[]);
    let wrong_key = shared(&[
        ("BUCKET_ENDPOINT_URL", &server.base()),
        ("BUCKET_ACCESS_KEY_ID", S3Server::KEY_ID),
        ("BUCKET_SECRET_ACCESS_KEY", "hunter22-wrong"),
        ("BUCKET_NAME", "results"),
    ]);
    // A port on which nothing listens.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let unreachable = with_bucket(&format!("http://{closed}"), S3Server::BUCKET, &[]);
    for (shared, text) in [
        (wrong_name, "answered 404 (NoSuchBucket); check the name of the bucket"),
        (wrong_key, "answered 403 (SignatureDoesNotMatch); check the keys"),
        (unreachable, "onnection refused"),
    ] {
        let error = put(&shared, Upload::bytes("a.txt", &b"a"[..])).await.unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
        assert_eq!(error.kind(), ErrorKind::InferenceError);
        assert!(!format!("{error:?}").contains("hunter22") && !format!("{error:?}").contains("X-Amz"), "{error:?}");
    }
}

fn answer(stream: &mut std::net::TcpStream, status: &str, body: &str) -> std::io::Result<()> {
    let len = body.len();
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n{body}")
}

#[tokio::test]
async fn an_upload_in_parts_that_fails_is_aborted() {
    let aborted = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&aborted);
    let (server, _) = serve(move |request, stream| match request.split_once(' ').unwrap_or_default() {
        ("POST", _) => {
            let body = "<InitiateMultipartUploadResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Bucket>b</Bucket>\
                        <Key>k</Key><UploadId>upload-1</UploadId></InitiateMultipartUploadResult>";
            answer(stream, "200 OK", body)
        }
        ("DELETE", path) => {
            seen.store(path.contains("uploadId=upload-1"), Ordering::Relaxed);
            answer(stream, "204 No Content", "")
        }
        (_, path) => {
            // Most of the large part is read, so that its sender reads the answer.
            let unread = if path.contains("partNumber=1") { PART - 64 * 1024 } else { 0 };
            std::io::copy(&mut stream.take(unread), &mut std::io::sink())?;
            answer(stream, "403 Forbidden", "<Error><Code>QuotaExceeded</Code></Error>")
        }
    });
    let shared = with_bucket(&format!("http://{server}"), S3Server::BUCKET, &[]);
    let error = put(&shared, Upload::bytes("a.bin", vec![0; PART as usize + 1])).await.unwrap_err();
    assert!(error.to_string().contains("the upload to the bucket \"results\" at 127.0.0.1 failed"), "{error}");
    for _ in 0..500 {
        if aborted.load(Ordering::Relaxed) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the storage keeps the parts");
}

fn s3_config(endpoint: &str) -> Value {
    json!({"s3Config": {
        "accessId": S3Server::KEY_ID, "accessSecret": S3Server::SECRET, "bucketName": S3Server::BUCKET, "endpointUrl": endpoint, "objectPath": "a/../b/"
    }})
}

#[tokio::test]
async fn the_bucket_of_the_job_comes_first() {
    let server = S3Server::start().await;
    let job = job("job-1", &s3_config(&server.base()));
    let shared = with_bucket("http://127.0.0.1:9", "other", &[("RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS", LOOPBACK)]);
    let bucket = bucket(&job, &shared).unwrap().unwrap();
    let uploaded = upload(&context(&shared), Some(&bucket), Upload::bytes("c.txt", &b"c"[..])).await.unwrap();
    assert!(uploaded.url.contains("/results/a/b/job-1/c.txt?"), "{}", uploaded.url);
    assert_eq!(open(&uploaded.url).await.0, 200);
}

#[tokio::test]
async fn a_job_cannot_make_the_worker_upload_to_private_addresses() {
    let (server, requests) = serve(|_, stream| stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"));
    let shared = shared(&[]);
    for host in ["127.0.0.1", "localhost"] {
        let job = job("job-1", &s3_config(&format!("http://{host}:{}", server.port())));
        let bucket = bucket(&job, &shared).unwrap().unwrap();
        let error = upload(&context(&shared), Some(&bucket), Upload::bytes("c", &b"c"[..])).await.unwrap_err();
        assert!(error.to_string().contains("public"), "{error}");
        assert_eq!(error.kind(), ErrorKind::Validation);
    }
    assert_eq!(requests.load(Ordering::Relaxed), 0);
}

#[test]
fn a_wrong_s3_config_names_the_field_and_never_the_value() {
    let complete = s3_config("https://s3.example");
    for (field, value, text) in [
        ("endpointUrl", json!("hunter22"), "s3Config.endpointUrl is not an http:// or https:// URL"),
        ("bucketName", json!(""), "s3Config.bucketName: must not be empty"),
        ("accessSecret", json!(["hunter22"]), "s3Config.accessSecret"),
        ("accessId", json!(null), "s3Config.accessId"),
    ] {
        let mut fields = complete.clone();
        fields["s3Config"][field] = value;
        let error = Bucket::of_job(&job("a", &fields)).unwrap_err();
        assert!(error.to_string().contains(text) && !error.to_string().contains("hunter22"), "{error}");
        assert_eq!(error.kind(), ErrorKind::Validation);
    }
    assert!(Bucket::of_job(&job("a", &json!({"s3Config": null}))).unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_over_the_limit_is_uploaded_if_there_is_a_bucket() {
    let server = S3Server::start().await;
    let limit = [("RUNPOD_UPLOAD_OUTPUT_ABOVE_BYTES", "100")];
    let shared_bucket = with_bucket(&server.base(), S3Server::BUCKET, &limit);
    let output = "x".repeat(99);
    let encode = |shared: &Arc<Shared>, output: &str| -> Result<Bytes, HandlerError> {
        let (shared, output) = (Arc::clone(shared), output.to_owned());
        std::thread::spawn(move || encode_or_upload_with(&shared, &job("job-1", &json!({})), &output)?.wait())
            .join()
            .unwrap()
    };
    let encoded = encode(&shared_bucket, &output).unwrap();
    let replaced: Value = serde_json::from_slice(&encoded).unwrap();
    let file = &replaced["output_file"];
    assert_eq!((&file["content_type"], &file["bytes"]), (&json!("application/json"), &json!(101)), "{replaced}");
    assert_eq!(open(file["url"].as_str().unwrap()).await.2, format!("\"{output}\""));

    assert_eq!(encode(&shared_bucket, &"x".repeat(98)).unwrap(), format!("\"{}\"", "x".repeat(98)), "within the limit");
    assert_eq!(encode(&shared(&limit), &output).unwrap(), format!("\"{output}\""), "without a bucket");
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = encode(&with_bucket(&format!("http://{closed}"), S3Server::BUCKET, &limit), &output).unwrap_err();
    let text =
        "the output has 101 bytes, more than the platform takes, and cannot be uploaded: the upload to the bucket";
    assert!(error.message().starts_with(text), "{}", error.message());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_too_large_for_a_message_is_uploaded_from_disk() {
    let server = S3Server::start().await;
    let shared = with_bucket(&server.base(), S3Server::BUCKET, &[]);
    let output = "x".repeat(runpod_handler_protocol::MAX_PAYLOAD_LEN);
    let len = output.len() as u64 + 2;
    let encode = move || {
        // Its temporary folder holds the file.
        let job = job("sync-1", &json!({}));
        encode_or_upload_with(&shared, &job, &output)?.wait()
    };
    let encoded = std::thread::spawn(encode).join().unwrap().unwrap();
    let replaced: Value = serde_json::from_slice(&encoded).unwrap();
    assert_eq!(replaced["output_file"]["bytes"], json!(len));
    let kept = std::fs::metadata(server.folder().join("results/sync-1/output.json")).unwrap().len();
    assert_eq!(kept, len);
}
