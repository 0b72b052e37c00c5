//! Whether an outside address can be reached. Made only with `--check-network`.

use std::time::Duration;

use runpod_handler_protocol::CheckReport;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

/// Opens one TCP connection to `target`, a host and a port, and closes it again.
pub(super) async fn check(target: &str, limit: Duration) -> CheckReport {
    const NAME: &str = "network";
    let started = Instant::now();
    let problem = match timeout(limit, TcpStream::connect(target)).await {
        Ok(Ok(_)) => return CheckReport::ok(NAME, format!("{target} answered in {:.1?}", started.elapsed())),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {limit:?}"),
    };
    CheckReport::failed(
        NAME,
        format!("{target} cannot be reached: {problem}"),
        "check the container's network and DNS, raise RUNPOD_NETWORK_CHECK_TIMEOUT, or leave out --check-network",
    )
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn an_address_that_listens_is_reached_and_another_is_not() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let target = listener.local_addr().unwrap().to_string();
        assert!(!check(&target, Duration::from_secs(5)).await.is_failure());
        drop(listener);
        let report = check(&target, Duration::from_secs(5)).await;
        assert!(report.is_failure() && report.detail.contains(&target), "{report:?}");
    }
}
