//! Proof that a webhook comes from this endpoint, after the Standard Webhooks specification.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::secret::Secret;

/// Marks a secret that is written in base64.
const BASE64_PREFIX: &str = "whsec_";

/// A secret that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the webhook secret starts with whsec_ but no base64 follows; remove the prefix or correct the rest")]
pub struct BadSecret;

/// Signs webhook bodies.
#[derive(Clone)]
pub struct Signer {
    key: Hmac<Sha256>,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Signer([redacted])")
    }
}

impl Signer {
    /// A signer for a secret: `whsec_` and base64, or any other text as it is.
    ///
    /// # Errors
    /// When the part after `whsec_` is empty or not base64.
    pub fn new(secret: &Secret) -> Result<Self, BadSecret> {
        let bytes = match secret.expose().strip_prefix(BASE64_PREFIX) {
            Some("") => return Err(BadSecret),
            Some(encoded) => STANDARD.decode(encoded).map_err(|_| BadSecret)?,
            None => secret.expose().as_bytes().to_vec(),
        };
        // HMAC takes keys of any length.
        Hmac::new_from_slice(&bytes).map(|key| Self { key }).map_err(|_| BadSecret)
    }

    /// The value of `webhook-signature`: the scheme's version and HMAC-SHA256 over `id.timestamp.body`.
    #[must_use]
    pub fn sign(&self, id: &str, timestamp: u64, body: &[u8]) -> String {
        let mut key = self.key.clone();
        key.update(format!("{id}.{timestamp}.").as_bytes());
        key.update(body);
        format!("v1,{}", STANDARD.encode(key.finalize().into_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_specifications_example_is_reproduced() {
        let signer = Signer::new(&Secret::from("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")).unwrap();
        let signature = signer.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_broken_secret_is_refused() {
        for broken in ["whsec_***", "whsec_", " whsec_ "] {
            assert!(Signer::new(&Secret::from(broken)).is_err(), "{broken}");
        }
    }
}
