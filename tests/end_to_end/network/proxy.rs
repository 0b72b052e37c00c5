//! Proxies, as the usual variables name them, and TLS.

use std::path::Path;
use std::time::Duration;

use end_to_end_tests::{
    Daemon, FakeQueue, Worker, WorkerOptions, binary, eventually, free_port, not_tested, run_tool, worker_env,
};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::still_works;

/// Far longer than a worker takes to connect.
const SOON: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn requests_go_through_http_proxy() {
    // A proxy gets the whole URL in the request line; the scripted queue looks only at its path.
    let queue = FakeQueue::start();
    let options = WorkerOptions::default().env("HTTP_PROXY", &format!("http://127.0.0.1:{}", queue.port()));
    let env = worker_env("http://queue.invalid/v2/test", "worker-1");
    let worker = Worker::start_with(env, &binary("puppet-handler"), options);
    still_works(&queue, "through-the-proxy").await;
    assert!(!queue.seen("ping").is_empty() && !queue.seen("job-stop").is_empty());
    assert_eq!(worker.health().await["worker"]["lastPing"]["failures"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_in_no_proxy_are_reached_directly() {
    let queue = FakeQueue::start();
    let options = WorkerOptions::default()
        .env("HTTP_PROXY", &format!("http://127.0.0.1:{}", free_port()))
        .env("NO_PROXY", "127.0.0.1,localhost");
    let _worker = Worker::start_with(queue.worker_env(), &binary("puppet-handler"), options);
    still_works(&queue, "past-the-proxy").await;
}

/// A proxy that is asked for one tunnel: what it was asked, and the first byte that went through.
async fn one_tunnel(proxy: &TcpListener) -> (String, u8) {
    timeout(SOON, tunnel(proxy)).await.unwrap()
}

async fn tunnel(proxy: &TcpListener) -> (String, u8) {
    let (mut stream, _) = proxy.accept().await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    (String::from_utf8(head).unwrap().to_ascii_lowercase(), stream.read_u8().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn https_proxy_is_asked_for_a_tunnel_and_does_not_see_the_key() {
    /// The first byte of a TLS handshake.
    const HANDSHAKE: u8 = 22;
    let proxy = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let options = WorkerOptions::default().env("HTTPS_PROXY", &format!("http://{}", proxy.local_addr().unwrap()));
    let env = worker_env("https://queue.invalid/v2/test", "worker-1");
    let _worker = Worker::start_with(env, &binary("puppet-handler"), options);
    // The heartbeat's and both long polls' at least.
    for _ in 0..3 {
        let (head, first) = one_tunnel(&proxy).await;
        assert!(head.starts_with("connect queue.invalid:443 http/1.1\r\n"), "{head}");
        assert!(!head.contains("test-worker-key") && !head.contains("authorization"), "{head}");
        assert_eq!(first, HANDSHAKE);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_does_not_speak_tls_is_logged_and_tried_again() {
    let queue = FakeQueue::start();
    let env = worker_env(&queue.base().replace("http://", "https://"), "worker-1");
    let mut worker = Worker::start_with(env, &binary("puppet-handler"), WorkerOptions::default());
    worker.ready().await;
    eventually("a line about it", || async {
        worker.daemon.log().contains("the queue cannot be reached").then_some(())
    })
    .await;
    assert!(queue.seen("job-take").is_empty());
    worker.daemon.signal(Signal::TERM);
    assert_eq!(worker.daemon.wait(Duration::from_secs(20)).code(), Some(0));
}

/// A server with a self-signed certificate; `None` where there is no `openssl` to make one.
fn self_signed(port: u16) -> Option<Daemon> {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (key, certificate) = (path("key"), path("certificate"));
    let openssl = ["/usr/bin/openssl", "/usr/local/bin/openssl"].into_iter().find(|path| Path::new(path).exists())?;
    let request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2"];
    let request = [&request[..], &["-keyout", &key, "-out", &certificate]].concat();
    run_tool(openssl, &request).status.success().then_some(())?;
    let serve = ["s_server", "-quiet", "-www", "-accept", &port.to_string(), "-key", &key, "-cert", &certificate];
    let server = Daemon::start("openssl", Path::new(openssl), &serve.map(str::to_owned), &[]);
    let listening = || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
    // The files are read before it listens, and go with the folder.
    (0..500)
        .any(|_| {
            listening() || {
                std::thread::sleep(Duration::from_millis(10));
                false
            }
        })
        .then_some(server)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_self_signed_certificate_is_refused() {
    let port = free_port();
    let Some(_server) = self_signed(port) else {
        not_tested("a self-signed certificate needs openssl");
        return;
    };
    let env = worker_env(&format!("https://localhost:{port}/v2/test"), "worker-1");
    let mut worker = Worker::start_with(env, &binary("puppet-handler"), WorkerOptions::default());
    worker.ready().await;
    eventually("a line about the certificate", || async {
        let log = worker.daemon.log();
        log.lines().find(|line| line.contains("the queue cannot be reached") && line.contains("certificate")).map(drop)
    })
    .await;
    worker.daemon.signal(Signal::TERM);
    assert_eq!(worker.daemon.wait(Duration::from_secs(20)).code(), Some(0));
}
