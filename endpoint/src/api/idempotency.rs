//! `Idempotency-Key`: a caller that does not know whether its submission has arrived sends it again, and gets the same job.

use axum::http::HeaderMap;
use sha2::{Digest as _, Sha256};

use super::auth::CallerKey;
use super::error::ApiError;
use super::limits;
use crate::store::Idempotency;

/// The header.
pub(crate) const HEADER: &str = "idempotency-key";

/// What makes this submission the same as an earlier one; `None` without the header. The key is one of this caller alone.
///
/// # Errors
/// When the header is not usable as a key.
pub(crate) fn of(headers: &HeaderMap, caller: &CallerKey, body: &[u8]) -> Result<Option<Idempotency>, ApiError> {
    let mut keys = headers.get_all(HEADER).iter();
    let key = match (keys.next(), keys.next()) {
        (None, _) => return Ok(None),
        (Some(key), None) => key.as_bytes(),
        _ => return Err(ApiError::BadRequest("send one Idempotency-Key, not several".to_owned())),
    };
    let is_text = key.iter().all(|byte| (b' '..=b'~').contains(byte));
    if !is_text || !(1..=limits::IDEMPOTENCY_KEY).contains(&key.len()) {
        return Err(ApiError::BadRequest(format!(
            "Idempotency-Key must be 1 to {} printable ASCII characters, for example a UUID",
            limits::IDEMPOTENCY_KEY
        )));
    }
    Ok(Some(Idempotency { key: caller.tag(key), body: Sha256::digest(body).into() }))
}
