use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use runpod_handler_protocol::{ErrorKind, StopReason};
use tempfile::TempDir;

use super::servers::{fixed, serve};
use super::*;
use crate::file_error::FileError;
use crate::files::download::{Limits, LocalFile, fetch};
use crate::files::input::FileInput;

const LIMITS: Limits = Limits { max_bytes: 1000, timeout: Duration::from_secs(30) };

fn allowing(network: &str) -> Arc<Shared> {
    shared(&[("RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS", network)])
}

async fn get(url: &str, folder: &Path) -> Result<LocalFile, FileError> {
    get_within(url, folder, LIMITS).await
}

async fn get_within(url: &str, folder: &Path, limits: Limits) -> Result<LocalFile, FileError> {
    fetch(&context(&allowing(LOOPBACK)), folder, limits, FileInput::parse(url).unwrap()).await
}

/// A failed download leaves nothing behind.
fn assert_empty(folder: &TempDir) {
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 0);
}

#[tokio::test]
async fn a_file_keeps_its_name_and_type_and_lies_in_the_jobs_folder() {
    let folder = TempDir::new().unwrap();
    let server = fixed(
        "HTTP/1.1 200 OK\r\nContent-Type: Image/PNG; x=y\r\nContent-Length: 3\r\n\
         Content-Disposition: attachment; filename=\"../../cat pic.png\"\r\n\r\nabc",
    );
    let file = get(&format!("http://{server}/x.bin?sig=hunter22"), folder.path()).await.unwrap();
    assert_eq!((file.name(), file.content_type(), file.len()), ("cat_pic.png", "image/png", 3));
    assert!(file.path().starts_with(folder.path()) && !file.is_empty());
    assert_eq!(std::fs::read(&file).unwrap(), b"abc");

    let server = fixed("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Type: evil\r\n\r\na");
    let file = get(&format!("http://{server}/a/..%2f..%2fdog.jpg?sig=x"), folder.path()).await.unwrap();
    assert_eq!((file.name(), file.content_type()), ("dog.jpg", "image/jpeg"));
    let file = get("data:image/png;base64,iVBORw==", folder.path()).await.unwrap();
    assert_eq!((file.name(), file.content_type(), file.len()), ("file.png", "image/png", 4));
}

#[tokio::test]
async fn private_addresses_and_names_are_refused_before_a_request() {
    let (server, requests) = serve(|_, stream| stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"));
    let folder = TempDir::new().unwrap();
    let shared = shared(&[]);
    for host in
        ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "0", "[64:ff9b::7f00:1]"]
    {
        let input = FileInput::parse(&format!("http://{host}:{}/secret-path", server.port())).unwrap();
        let error = fetch(&context(&shared), folder.path(), LIMITS, input).await.unwrap_err();
        assert!(matches!(error, FileError::PrivateAddress { .. }), "{host}: {error}");
        assert_eq!(error.kind(), ErrorKind::Validation);
        assert!(!error.to_string().contains("secret-path"), "{error}");
    }
    assert_eq!(requests.load(Ordering::Relaxed), 0);
    assert_empty(&folder);
}

#[tokio::test]
async fn every_hop_of_a_redirect_is_checked() {
    let (server, _) = serve(|request, stream| {
        let target = match request {
            "GET /inward" => "http://10.0.0.1/",
            "GET /metadata" => "http://169.254.169.254/latest/meta-data/",
            "GET /file" => "file:///etc/passwd",
            "GET /loop" => "/loop",
            "GET /moved" => "/there",
            _ => return stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        };
        write!(stream, "HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    });
    let folder = TempDir::new().unwrap();
    for path in ["inward", "metadata"] {
        let error = get(&format!("http://{server}/{path}"), folder.path()).await.unwrap_err();
        assert!(matches!(error, FileError::PrivateAddress { .. }), "{path}: {error}");
    }
    for path in ["file", "loop"] {
        let error = get(&format!("http://{server}/{path}"), folder.path()).await.unwrap_err();
        assert!(matches!(error, FileError::Redirects { .. }), "{path}: {error}");
    }
    assert_empty(&folder);
    let file = get(&format!("http://{server}/moved"), folder.path()).await.unwrap();
    assert_eq!((file.name(), file.len()), ("there", 2));
}

#[tokio::test]
async fn a_name_that_changes_its_answer_gains_nothing() {
    let (server, requests) = serve(|_, stream| stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"));
    let asked = Arc::new(Mutex::new(0));
    let count = Arc::clone(&asked);
    // Allowed at first, this machine afterwards: a check that is separate from the connection would be fooled.
    let lookup: Lookup = Arc::new(move |_| {
        let mut asked = count.lock();
        *asked += 1;
        let ip: IpAddr = if *asked == 1 { [203, 0, 113, 1].into() } else { [127, 0, 0, 1].into() };
        Box::pin(async move { Ok(vec![SocketAddr::new(ip, 0)]) })
    });
    let shared = shared_with(&[("RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS", "203.0.113.0/24")], lookup);
    let folder = TempDir::new().unwrap();
    let url = format!("http://rebind.example:{}/", server.port());
    let limits = Limits { timeout: Duration::from_secs(1), ..LIMITS };
    let first = fetch(&context(&shared), folder.path(), limits, FileInput::parse(&url).unwrap()).await;
    assert!(first.is_err());
    assert!(*asked.lock() >= 1, "the name was asked for");
    let second = fetch(&context(&shared), folder.path(), limits, FileInput::parse(&url).unwrap()).await;
    assert!(matches!(second, Err(FileError::PrivateAddress { .. })), "{second:?}");
    assert_eq!(requests.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn the_size_is_limited_whatever_the_server_announces() {
    let folder = TempDir::new().unwrap();
    // Announced: nothing is read.
    let server = fixed("HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n");
    let error = get(&format!("http://{server}/"), folder.path()).await.unwrap_err();
    assert_eq!(error.to_string(), "the file is larger than the limit of 1000 bytes");
    // Not announced, and endless.
    let (server, _) = serve(|_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
        loop {
            stream.write_all(&[b'x'; 512])?;
        }
    });
    let error = get(&format!("http://{server}/"), folder.path()).await.unwrap_err();
    assert!(matches!(error, FileError::TooLarge { limit: 1000 }), "{error}");
    // Announced as less: what was announced is the file.
    let server = fixed("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabcdefgh");
    assert_eq!(get(&format!("http://{server}/"), folder.path()).await.unwrap().len(), 2);
    // The operator's limit holds too, and for data.
    let small = shared(&[("RUNPOD_MAX_DOWNLOAD_BYTES", "3")]);
    let data = FileInput::parse("data:,abcd").unwrap();
    let error = fetch(&context(&small), folder.path(), LIMITS, data).await.unwrap_err();
    assert!(matches!(error, FileError::TooLarge { limit: 3 }), "{error}");
}

#[tokio::test]
async fn a_torn_download_is_tried_again_and_fails_in_the_end() {
    let folder = TempDir::new().unwrap();
    let (server, requests) = serve(|_, stream| stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc"));
    let error = get(&format!("http://{server}/secret-path?sig=hunter22"), folder.path()).await.unwrap_err();
    assert!(matches!(error, FileError::Unreachable { .. }), "{error}");
    assert!(!format!("{error:?}").contains("secret-path"), "{error:?}");
    assert_eq!(requests.load(Ordering::Relaxed), 3);
    assert_empty(&folder);

    let failures = Arc::new(Mutex::new(2));
    let (server, _) = serve(move |_, stream| {
        let mut failures = failures.lock();
        if *failures > 0 {
            *failures -= 1;
            return stream.write_all(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
    });
    assert_eq!(get(&format!("http://{server}/"), folder.path()).await.unwrap().len(), 2);
    let (server, requests) = serve(|_, stream| stream.write_all(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"));
    let error = get(&format!("http://{server}/"), folder.path()).await.unwrap_err();
    assert_eq!(error.to_string(), "127.0.0.1 answered 404 to the request for the file");
    assert_eq!(requests.load(Ordering::Relaxed), 1, "another attempt would fail in the same way");
}

/// Sends a byte now and then, for ever.
fn dripping() -> SocketAddr {
    let drip = |_: &str, stream: &mut std::net::TcpStream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
        loop {
            stream.write_all(b"x")?;
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    serve(drip).0
}

#[tokio::test]
async fn an_endless_download_ends_with_its_time_or_with_its_job() {
    let folder = TempDir::new().unwrap();
    let limits = Limits { max_bytes: u64::MAX, timeout: Duration::from_millis(200) };
    let url = format!("http://{}/", dripping());
    let error = get_within(&url, folder.path(), limits).await.unwrap_err();
    assert_eq!(error.to_string(), "the download from 127.0.0.1 was given up: it was not complete after 200ms");

    let shared = allowing(LOOPBACK);
    let limits = Limits { timeout: Duration::from_secs(30), ..limits };
    let job = running("late", Duration::from_millis(200));
    let late = Context { running: job, shared: Arc::clone(&shared) };
    let error = fetch(&late, folder.path(), limits, FileInput::parse(&url).unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");

    let cancelled = context(&shared);
    let job = Arc::clone(&cancelled.running);
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        job.stop(StopReason::Cancelled);
    });
    let began = Instant::now();
    let error = fetch(&cancelled, folder.path(), limits, FileInput::parse(&url).unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
    assert!(began.elapsed() < Duration::from_secs(10));
    assert_empty(&folder);
}

#[test]
fn the_api_of_a_job_takes_data_without_a_network() {
    let job = job("job-1", &serde_json::json!({}));
    let inputs = ["data:,one", "data:,two"].map(|text| FileInput::parse(text).unwrap());
    let files = job.files().fetch_all(&inputs).unwrap();
    let texts: Vec<_> = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    assert_eq!(texts, ["one", "two"]);
    let error = job.files().max_bytes(2).fetch(&inputs[0]).unwrap_err();
    assert!(matches!(error, FileError::TooLarge { limit: 2 }), "{error}");
    // Within a runtime the blocking call blocks, and does not panic.
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        assert_eq!(job.files().fetch(&inputs[1]).unwrap().len(), 3);
        assert_eq!(job.files().fetch_async(&inputs[1]).await.unwrap().len(), 3);
        assert_eq!(job.files().fetch_all_async(&inputs).await.unwrap().len(), 2);
    });
    let error: crate::HandlerError = job.files().max_bytes(2).fetch(&inputs[0]).unwrap_err().into();
    assert_eq!(error.kind(), Some(ErrorKind::Validation));
}
