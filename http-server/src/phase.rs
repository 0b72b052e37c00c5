//! What a connection does at the moment.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::counts::Refusal;
use crate::limits::ServerLimits;

/// How long a header may be incomplete before its connection may be evicted: it may be split over packets.
const HEADER_GRACE: Duration = Duration::from_secs(1);
/// How long a body may pause before its connection may be evicted.
const BODY_GRACE: Duration = Duration::from_secs(5);

/// What a connection does, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// No byte has arrived on it.
    New,
    /// It waits for its next request.
    Idle,
    /// A header is incomplete.
    Header,
    /// A body is incomplete, and its reader waits for more.
    Body,
    /// A request is being answered.
    Answer,
    /// It speaks another protocol, such as WebSocket, and this server only counts it.
    Upgraded,
}

/// One connection, as the server's table sees it.
#[derive(Debug)]
pub(crate) struct Activity {
    state: Mutex<(Phase, Instant)>,
    closed: CancellationToken,
}

impl Activity {
    pub(crate) fn new() -> Self {
        Self { state: Mutex::new((Phase::New, Instant::now())), closed: CancellationToken::new() }
    }

    /// Bytes of a request have arrived.
    pub(crate) fn received(&self) {
        let mut state = self.state.lock();
        if matches!(state.0, Phase::New | Phase::Idle) {
            *state = (Phase::Header, Instant::now());
        }
    }

    /// Enters a phase. The time since when it lasts stays the same if it is the current one.
    pub(crate) fn enter(&self, phase: Phase) {
        let mut state = self.state.lock();
        if state.0 != phase {
            *state = (phase, Instant::now());
        }
    }

    /// The reader of a body no longer waits for more of it.
    pub(crate) fn leave_body(&self) {
        let mut state = self.state.lock();
        if state.0 == Phase::Body {
            *state = (Phase::Answer, Instant::now());
        }
    }

    /// Whether no byte has arrived on it.
    pub(crate) fn is_new(&self) -> bool {
        self.state.lock().0 == Phase::New
    }

    /// Closes the connection.
    pub(crate) fn close(&self) {
        self.closed.cancel();
    }

    /// Waits until the connection must be closed.
    pub(crate) async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// The reason to close the connection now, if there is one.
    pub(crate) fn expired(&self, limits: &ServerLimits) -> Option<Expiry> {
        let (phase, since) = *self.state.lock();
        let (limit, expiry) = match phase {
            Phase::New | Phase::Header => (limits.header_timeout, Expiry::Refused(Refusal::HeaderTimeout)),
            Phase::Idle => (limits.idle_timeout, Expiry::Idle),
            Phase::Body => (limits.body_timeout, Expiry::Refused(Refusal::BodyStalled)),
            Phase::Answer | Phase::Upgraded => return None,
        };
        (since.elapsed() >= limit).then_some(expiry)
    }

    /// The rank of the connection among those that may be closed to make room for another one: the highest is closed first. `None`
    /// while it is being answered, and once it is upgraded. Idle connections rank above incomplete requests, long waits above short ones.
    pub(crate) fn eviction_rank(&self) -> Option<(u8, Duration)> {
        let (phase, since) = *self.state.lock();
        let waited = since.elapsed();
        match phase {
            Phase::New | Phase::Idle => Some((3, waited)),
            Phase::Header => (waited >= HEADER_GRACE).then_some((2, waited)),
            Phase::Body => (waited >= BODY_GRACE).then_some((1, waited)),
            Phase::Answer | Phase::Upgraded => None,
        }
    }
}

/// Why a connection's time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expiry {
    /// It had no next request: a normal end.
    Idle,
    /// A limit was exceeded.
    Refused(Refusal),
}
