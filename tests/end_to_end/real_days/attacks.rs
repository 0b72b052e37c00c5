//! What a stranger can do to the servers of both programs.

use std::path::Path;
use std::time::{Duration, Instant};

use end_to_end_tests::{Client, Daemon, Endpoint, FakeQueue, binary, eventually, free_port};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::resident_mib;

/// Longest time for an answer while an attack is under way.
const PROMPT: Duration = Duration::from_secs(5);

fn address(base: &str) -> String {
    base.trim_start_matches("http://").split('/').next().unwrap_or_default().to_owned()
}

/// Runs a program that may open this many descriptors, unless it raises the limit itself.
fn limited(name: &str, descriptors: u32, program: &str, args: &[&str], env: &[(String, String)]) -> Daemon {
    let script = format!("ulimit -S -n {descriptors}; exec \"$0\" \"$@\"");
    let program = binary(program).display().to_string();
    let args: Vec<String> =
        ["-c", &script, &program].into_iter().chain(args.iter().copied()).map(str::to_owned).collect();
    Daemon::start(name, Path::new("bash"), &args, env)
}

/// Opens connections that send nothing. A server may refuse the later ones.
async fn connections(address: &str, count: usize) -> Vec<TcpStream> {
    let mut connections = Vec::new();
    for _ in 0..count {
        if let Ok(Ok(connection)) = timeout(PROMPT, TcpStream::connect(address)).await {
            connections.push(connection);
        }
    }
    connections
}

/// Sends a query that costs exponential work; it is refused at once, and others are answered meanwhile.
async fn is_refused_at_once(query: &str) {
    let endpoint = Endpoint::start(&[]).await;
    let url = format!("http://{}/graphql", address(&endpoint.base));
    let begin = Instant::now();
    let attack = reqwest::Client::new().post(&url).json(&json!({ "query": query })).send();
    let attack = tokio::spawn(timeout(Duration::from_secs(90), attack));
    let health = timeout(PROMPT, endpoint.client().health()).await;
    assert!(health.is_ok(), "nobody else is answered");
    let reply = attack.await.unwrap().unwrap().unwrap();
    assert!(begin.elapsed() < PROMPT, "{:?}", begin.elapsed());
    let status = reply.status();
    let text = reply.text().await.unwrap();
    assert!(status.is_client_error() || text.contains("errors"), "{status} {text:.300}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_of_doubling_fragments_is_refused_at_once() {
    let fragment = |level: usize| format!("fragment f{level} on Query{{...f{0} ...f{0}}}", level + 1);
    let fragments: String = (0..25).map(fragment).collect();
    is_refused_at_once(&format!("{{...f0}}{fragments}fragment f25 on Query{{__typename}}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_of_deep_selections_is_refused_at_once() {
    is_refused_at_once(&format!("{}__typename{}", "{myself".repeat(20_000), "}".repeat(20_000))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_of_many_aliases_is_refused_at_once() {
    let alias = |number: usize| format!("a{number}:__schema{{types{{name fields{{name}}}}}} ");
    let aliases: String = (0..20_000).map(alias).collect();
    is_refused_at_once(&format!("{{{aliases}}}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_to_the_endpoint_keep_nobody_else_out() {
    let bind = format!("127.0.0.1:{}", free_port());
    let mut daemon = limited("endpoint", 256, "runpod-endpoint", &["serve", "--bind", &bind], &[]);
    let url = Client::new(&format!("http://{bind}/v2/test")).url("/health");
    eventually("the endpoint to answer", || async { reqwest::get(&url).await.ok() }).await;
    let idle = connections(&bind, 300).await;
    assert!(idle.len() >= 200, "only {} connections", idle.len());
    for _ in 0..3 {
        let health = timeout(PROMPT, reqwest::get(&url)).await;
        assert!(matches!(health, Ok(Ok(reply)) if reply.status().is_success()), "the endpoint answers nobody");
    }
    assert!(daemon.is_running());
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_to_the_worker_take_no_descriptors_of_job_traffic() {
    let queue = FakeQueue::start();
    let bind = format!("127.0.0.1:{}", free_port());
    let handler = binary("puppet-handler").display().to_string();
    let args = ["run", "--http-bind", &bind, "--", &handler];
    let mut daemon = limited("worker", 256, "runpod-worker", &args, &queue.worker_env());
    let url = format!("http://{bind}/ready");
    eventually("the worker to be ready", || async {
        reqwest::get(&url).await.ok().filter(|reply| reply.status().is_success())
    })
    .await;
    let _idle = connections(&bind, 400).await;
    for number in 0..5 {
        let id = format!("job-{number}");
        queue.job(&id, &json!({"do": "ok"}));
        assert_eq!(queue.result(&id).await["output"]["job"], id.as_str());
    }
    assert!(daemon.is_running());
}

/// Sends this many bytes of a header that does not end; whether the server closes the connection within this time.
async fn is_closed(address: &str, bytes: usize, limit: Duration) -> bool {
    let mut connection = TcpStream::connect(address).await.unwrap();
    let filler = format!("x-filler: {}\r\n", "y".repeat(1000));
    let mut header = "GET /health HTTP/1.1\r\nHost: localhost\r\n".to_owned();
    (0..bytes / filler.len()).for_each(|_| header.push_str(&filler));
    // It may be closed before all of it is sent.
    let _ = connection.write_all(header.as_bytes()).await;
    timeout(limit, connection.read_to_end(&mut Vec::new())).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_over_the_limit_are_not_kept() {
    let endpoint = Endpoint::start(&[]).await;
    let address = address(&endpoint.base);
    let pid = endpoint.daemon.pid().as_raw_nonzero().get();
    let before = resident_mib(pid);
    for _ in 0..50 {
        assert!(is_closed(&address, 390_000, PROMPT).await, "390 kB of header are kept");
    }
    let after = resident_mib(pid);
    assert!(after < before + 30, "{before} MiB before, {after} MiB after");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_never_ends_is_not_waited_for_by_either_program() {
    const LIMIT: Duration = Duration::from_secs(45);
    let endpoint = Endpoint::start(&[]).await;
    let worker = super::worker(&endpoint, "worker-1", &[]).await;
    let (endpoint, worker) = (address(&endpoint.base), address(&worker.http));
    let (first, second) = tokio::join!(is_closed(&endpoint, 100, LIMIT), is_closed(&worker, 100, LIMIT));
    assert!(first && second, "half a header is kept by the endpoint: {}, by the worker: {}", !first, !second);
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_of_a_large_result_that_do_not_read_share_it() {
    const SIZE: usize = 60 << 20;
    let endpoint = Endpoint::start(&["--max-result-mib", "64"]).await;
    let client = endpoint.client();
    let id = client.submit(json!({})).await;
    let taken = client.get("/job-take/w1?gpu=LOCAL&job_in_progress=0").await;
    assert_eq!(taken["id"], id.as_str());
    let result = format!(r#"{{"output":"{}"}}"#, "x".repeat(SIZE));
    let posted = reqwest::Client::new().post(client.url(&format!("/job-done/w1/{id}?gpu=LOCAL"))).body(result).send();
    assert!(posted.await.unwrap().status().is_success());
    let address = address(&endpoint.base);
    let pid = endpoint.daemon.pid().as_raw_nonzero().get();
    let before = resident_mib(pid);
    let mut readers = connections(&address, 20).await;
    for reader in &mut readers {
        let request = format!("GET /v2/test/status/{id} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        reader.write_all(request.as_bytes()).await.unwrap();
    }
    // Each has begun to get its answer.
    for reader in &mut readers {
        timeout(Duration::from_secs(30), reader.read_exact(&mut [0])).await.unwrap().unwrap();
    }
    let after = resident_mib(pid);
    assert!(after < before + 300, "{before} MiB before, {after} MiB with 20 readers of {} MiB", SIZE >> 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_for_clients_alone_does_not_leave_the_worker_api_open() {
    let bind = format!("127.0.0.1:{}", free_port());
    let args = ["serve", "--bind", &bind, "--api-key", "secret"].map(str::to_owned);
    let mut daemon = Daemon::start("endpoint", &binary("runpod-endpoint"), &args, &[]);
    let url = format!("http://{bind}/v2/test/job-take/w1?gpu=LOCAL&job_in_progress=0");
    // Either it is refused at start, or workers need a key too.
    let begin = Instant::now();
    let status = loop {
        if !daemon.is_running() {
            break None;
        }
        if let Ok(Ok(reply)) = timeout(PROMPT, reqwest::get(&url)).await {
            break Some(reply.status().as_u16());
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "a poll without a key is held");
    };
    match status {
        None => assert!(daemon.log().contains("worker-key"), "{}", daemon.log()),
        Some(status) => assert_eq!(status, 401),
    }
}

/// The status line of the answer to a request with these lines for the host.
async fn status_with_host(address: &str, host: &[u8]) -> String {
    let mut connection = TcpStream::connect(address).await.unwrap();
    let request = [b"GET /v2/test/health HTTP/1.1\r\n".as_slice(), host, b"Connection: close\r\n\r\n"].concat();
    connection.write_all(&request).await.unwrap();
    let mut answer = Vec::new();
    timeout(PROMPT, connection.read_to_end(&mut answer)).await.unwrap().unwrap();
    String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_not_ours_is_refused_however_it_is_written() {
    let endpoint = Endpoint::start(&[]).await;
    let address = address(&endpoint.base);
    for good in [&b"Host: localhost\r\n"[..], b"Host: 127.0.0.1:8000\r\n", b"Host: [::1]:8000\r\n"] {
        let status = status_with_host(&address, good).await;
        assert!(status.contains(" 200"), "{}: {status}", String::from_utf8_lossy(good));
    }
    for bad in [
        &b"Host: \xff\xfe.evil.example\r\n"[..],
        b"Host: evil.example\r\n",
        b"Host: localhost.evil.example\r\n",
        b"Host: localhost@evil.example\r\n",
        b"Host: localhost\r\nHost: evil.example\r\n",
        b"Host: evil.example\xff\r\n",
        b"Host: localhost\xff\r\n",
    ] {
        let status = status_with_host(&address, bad).await;
        assert!(status.contains(" 4"), "{}: {status}", String::from_utf8_lossy(bad));
    }
}
