//! The body of a result, in parts: an output can be large, and is not copied to stand between its braces.

use bytes::Bytes;

/// How the body ends that asks for a fresh worker.
pub(super) const STOP_POD: &[u8] = b",\"stopPod\":true}";

/// Shorter outputs are copied into one part, which costs less than to send three.
const SHORT: usize = 16 * 1024;

/// The JSON text of a job-done body.
#[derive(Clone, Debug, Default)]
pub struct ResultBody([Bytes; 3]);

impl ResultBody {
    /// What comes before the output, the output, what comes after it.
    pub(super) fn new(before: &[u8], output: &Bytes, after: &[u8]) -> Self {
        if output.len() < SHORT {
            return Bytes::from([before, output, after].concat()).into();
        }
        Self([Bytes::copy_from_slice(before), output.clone(), Bytes::copy_from_slice(after)])
    }

    /// Its parts, in order. None is empty.
    pub fn parts(&self) -> impl Iterator<Item = &Bytes> {
        self.0.iter().filter(|part| !part.is_empty())
    }

    /// Its length in bytes.
    #[expect(clippy::len_without_is_empty, reason = "no body is empty")]
    pub fn len(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    /// The whole text in one piece: a copy, unless it is in one piece already.
    #[must_use]
    pub fn whole(&self) -> Bytes {
        let mut parts = self.parts();
        match (parts.next(), parts.next()) {
            (first, None) => first.cloned().unwrap_or_default(),
            (Some(_), Some(_)) | (None, Some(_)) => self.0.concat().into(),
        }
    }
}

impl From<Bytes> for ResultBody {
    fn from(whole: Bytes) -> Self {
        Self([whole, Bytes::new(), Bytes::new()])
    }
}

impl From<&'static str> for ResultBody {
    fn from(whole: &'static str) -> Self {
        Bytes::from_static(whole.as_bytes()).into()
    }
}

/// Two bodies are equal if their texts are, whatever their parts.
impl PartialEq for ResultBody {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.parts().flatten().eq(other.parts().flatten())
    }
}

impl Eq for ResultBody {}

#[cfg(test)]
impl PartialEq<&'static str> for ResultBody {
    fn eq(&self, other: &&'static str) -> bool {
        self.parts().flatten().eq(other.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_output_is_not_copied_and_the_text_is_the_same() {
        for len in [1, SHORT] {
            let output = Bytes::from(vec![b'1'; len]);
            let body = ResultBody::new(b"{", &output, b"}");
            let shared = body.parts().any(|part| part.as_ptr() == output.as_ptr());
            assert_eq!(
                (body.len(), body.parts().count(), shared),
                (len + 2, if len < SHORT { 1 } else { 3 }, len == SHORT)
            );
            assert_eq!(body.whole(), [b"{".as_slice(), &output, b"}"].concat());
            assert_eq!(ResultBody::from(body.whole()), body);
        }
    }
}
