//! The trace that a request belongs to (W3C Trace Context). It is passed to the worker and to the job's webhook.

use std::sync::Arc;

use axum::http::HeaderMap;

/// The header, and the job's field.
pub(crate) const TRACEPARENT: &str = "traceparent";
/// Length of version 00, in characters.
const LEN: usize = 55;
/// Longest value of a later version that is passed on.
const MAX_LEN: usize = 128;

/// The request's `traceparent`. An invalid one is ignored, as the specification requires.
pub(crate) fn traceparent(headers: &HeaderMap) -> Option<Arc<str>> {
    let text = headers.get(TRACEPARENT)?.to_str().ok()?.trim();
    is_valid(text).then(|| Arc::from(text))
}

fn is_valid(text: &str) -> bool {
    let mut parts = text.split('-');
    let mut hex = |len: usize| {
        let part = parts.next().filter(|part| part.len() == len)?;
        part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')).then_some(part)
    };
    let (Some(version), Some(trace), Some(parent), Some(_)) = (hex(2), hex(32), hex(16), hex(2)) else { return false };
    let known = |id: &str| id.bytes().any(|byte| byte != b'0');
    let length = if version == "00" { LEN..=LEN } else { LEN..=MAX_LEN };
    version != "ff" && known(trace) && known(parent) && length.contains(&text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_valid_context_is_passed_on() {
        let (trace, parent) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
        for good in [format!("00-{trace}-{parent}-01"), format!("01-{trace}-{parent}-00-more")] {
            assert!(is_valid(&good), "{good}");
        }
        for bad in [
            String::new(),
            "00-x-y-01".to_owned(),
            format!("ff-{trace}-{parent}-01"),
            format!("00-{trace}-{parent}-01-more"),
            format!("00-{trace}-{parent}"),
            format!("00-{}-{parent}-01", trace.to_uppercase()),
            format!("00-{}-{parent}-01", "0".repeat(32)),
            format!("00-{trace}-{}-01", "0".repeat(16)),
            format!("01-{trace}-{parent}-01-{}", "x".repeat(200)),
        ] {
            assert!(!is_valid(&bad), "{bad}");
        }
    }
}
