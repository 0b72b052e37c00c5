//! What an answer to a post means. The one place where delivery policy meets status codes.

use std::time::Duration;

use crate::queue::{PostReply, RequestError};

/// What to do after a try.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The queue has it.
    Accepted,
    /// Try again: no answer, 3xx, 408, 429, 5xx.
    Later { retry_after: Option<Duration>, error: RequestError },
    /// Try again, slowly: 401, 403. A key can be repaired while the worker runs.
    Unauthorized { error: RequestError },
    /// The queue does not take this body: 400, 413. Another body may be taken.
    Refused { code: u16 },
    /// The queue does not want anything for this job: 404, other 4xx, or there is no URL. `None` stands for the latter.
    Dead { code: Option<u16> },
}

pub(super) fn verdict(reply: PostReply) -> Verdict {
    let (code, retry_after) = match reply {
        PostReply::Status { code, retry_after } => (code, retry_after),
        PostReply::Failed(error) => return Verdict::Later { retry_after: None, error },
        PostReply::NoRoute => return Verdict::Dead { code: None },
    };
    let error = RequestError::from_status(code);
    match code {
        200..=299 => Verdict::Accepted,
        401 | 403 => Verdict::Unauthorized { error },
        400 | 413 => Verdict::Refused { code },
        408 | 429 => Verdict::Later { retry_after, error },
        402..=499 => Verdict::Dead { code: Some(code) },
        // 3xx that was not followed and 1xx are set-up mistakes somewhere between here and the queue; those get repaired.
        _ => Verdict::Later { retry_after, error },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_of_answer_has_its_verdict() {
        let class = |code| match verdict(PostReply::Status { code, retry_after: None }) {
            Verdict::Accepted => "accepted",
            Verdict::Later { .. } => "later",
            Verdict::Unauthorized { .. } => "unauthorized",
            Verdict::Refused { .. } => "refused",
            Verdict::Dead { .. } => "dead",
        };
        for (expected, codes) in [
            ("accepted", &[200, 201, 204][..]),
            ("later", &[302, 307, 408, 429, 500, 502, 503, 504, 599]),
            ("unauthorized", &[401, 403]),
            ("refused", &[400, 413]),
            ("dead", &[402, 404, 405, 409, 410, 415, 422, 499]),
        ] {
            for code in codes {
                assert_eq!(class(*code), expected, "{code}");
            }
        }
        assert_eq!(verdict(PostReply::NoRoute), Verdict::Dead { code: None });
        let error = RequestError::Unreachable("refused".into());
        assert_eq!(verdict(PostReply::Failed(error.clone())), Verdict::Later { retry_after: None, error });
    }
}
