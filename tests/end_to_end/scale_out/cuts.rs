//! Cuts through the network of the lab: each heals alone.

use std::time::Duration;

use end_to_end_tests::{Host, Lab, until};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longer than a packet takes within one machine, shorter than a connection waits for a lost one.
const ANSWER_LIMIT: Duration = Duration::from_millis(300);

/// Whether packets come through: nothing listens there, and a host that is reached says so.
fn reaches(from: &Host, to: &Host) -> bool {
    let asked = async { timeout(ANSWER_LIMIT, TcpStream::connect((to.address, 9))).await };
    matches!(from.enter(asked), Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused)
}

#[tokio::test]
async fn a_cut_that_heals_leaves_other_cuts_of_the_same_hosts() {
    let Some(lab) = Lab::start() else { return };
    let [one, two, three] = [lab.host(), lab.host(), lab.host()];
    assert!(reaches(&one, &two) && reaches(&one, &three));
    let alone = lab.isolate(&one);
    let parted = lab.part(&[(&two, &one)]);
    assert!(!reaches(&two, &one) && !reaches(&three, &one));
    drop(alone);
    until("the isolated host to be reached", || reaches(&three, &one)).await;
    assert!(!reaches(&two, &one) && !reaches(&one, &two), "the other cut is gone too");
    drop(parted);
    until("the cut to heal", || reaches(&two, &one) && reaches(&one, &two)).await;
}
