use std::net::{IpAddr, SocketAddr};

use axum::Router;
use axum::response::Redirect;
use axum::routing::post;
use parking_lot::Mutex;

use super::*;

/// A receiver on this machine; every request is noted.
async fn receiver() -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let hook = move |body: String| async move { log.lock().push(body) };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let inward = Redirect::temporary("http://169.254.169.254/latest/meta-data/");
    let relative = Redirect::temporary("/hook");
    let router = Router::new()
        .route("/hook", post(hook))
        .route("/moved", post(|| async move { relative }))
        .route("/inward", post(|| async move { inward }))
        .route("/file", post(|| async { Redirect::temporary("file:///etc/passwd") }))
        .route("/loop", post(|| async { Redirect::temporary("/loop") }));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (address, seen)
}

async fn post_to(client: &WebhookClient, url: &str) -> Result<(), SendError> {
    client.post(url, HeaderMap::new(), Bytes::from_static(b"{}")).await
}

fn loopback_allowed() -> Guard {
    Guard::new(&["127.0.0.0/8".parse().unwrap()])
}

#[tokio::test]
async fn addresses_and_names_of_this_machine_are_refused() {
    let (address, seen) = receiver().await;
    let client = WebhookClient::new(Guard::default()).unwrap();
    let port = address.port();
    for host in ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1"] {
        let error = post_to(&client, &format!("http://{host}:{port}/hook")).await.unwrap_err();
        assert!(matches!(error, SendError::Target(BadTarget::Private(_))), "{host}: {error}");
    }
    assert!(seen.lock().is_empty());
}

#[tokio::test]
async fn an_allowed_network_is_reached_through_redirects() {
    let (address, seen) = receiver().await;
    let client = WebhookClient::new(loopback_allowed()).unwrap();
    post_to(&client, &format!("http://{address}/moved")).await.unwrap();
    assert_eq!(*seen.lock(), ["{}"]);
    assert!(matches!(post_to(&client, &format!("http://{address}/loop")).await, Err(SendError::TooManyHops)));
}

#[tokio::test]
async fn every_hop_of_a_redirect_is_checked() {
    let (address, _) = receiver().await;
    let client = WebhookClient::new(loopback_allowed()).unwrap();
    for (url, wanted) in [
        (&*format!("http://{address}/inward"), "not public"),
        (&format!("http://{address}/file"), "https://"),
        ("ftp://example.org/", "https://"),
        ("no url", "not a URL"),
    ] {
        let error = post_to(&client, url).await.unwrap_err();
        assert!(error.is_final() && error.to_string().contains(wanted), "{url}: {error}");
    }
}

#[tokio::test]
async fn a_name_that_changes_its_answer_gains_nothing() {
    let (address, seen) = receiver().await;
    let asked = Arc::new(Mutex::new(0));
    let count = Arc::clone(&asked);
    // Public at first, this machine afterwards: a check that is separate from the connection would be fooled.
    let lookup: Lookup = Arc::new(move |_| {
        let mut asked = count.lock();
        *asked += 1;
        let ip: IpAddr = if *asked == 1 { [203, 0, 113, 1].into() } else { [127, 0, 0, 1].into() };
        Box::pin(async move { Ok(vec![SocketAddr::new(ip, 0)]) })
    });
    // The first answer is allowed here so that only the pinning is tested; nothing listens on it.
    let guard = Guard::new(&["203.0.113.0/24".parse().unwrap()]);
    let client = WebhookClient::with_lookup(guard, lookup).unwrap();
    let url = format!("http://rebind.example:{}/hook", address.port());
    let first = timeout(Duration::from_secs(2), post_to(&client, &url)).await;
    assert!(!matches!(first, Ok(Ok(()))), "{first:?}");
    assert_eq!(*asked.lock(), 1, "the connection used the answer that was checked");
    assert!(matches!(post_to(&client, &url).await, Err(SendError::Target(BadTarget::Private(_)))));
    assert!(seen.lock().is_empty());
}
