//! Secrets that are recognized by their form alone: signed URLs, passwords in URLs, authorization headers.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;

/// What is in groups stays; the rest of the match is masked.
const FORMS: [&str; 3] = [
    // A parameter of a URL whose name says that its value is secret. Some encoders write the ampersand as `\u0026` in JSON.
    r#"(?i)((?:[?&;]|\\u0026)(?:[a-z0-9_.~-]*(?:signature|credential|token|secret|password|passwd|key|sig)|x-amz-[a-z-]+)=)[^&\s"'\\<>]+"#,
    // `user:password@` in a URL.
    r#"(://[^/\s:@"']*:)[^/\s@"']+(@)"#,
    // The value of an authorization header, with or without a scheme; or a bearer token anywhere.
    r#"(?i)((?:authorization["']?\s*[:=]\s*["']?)(?:(?:bearer|basic|digest|token|apikey)\s+)?|\bbearer\s+)(?:aws4-hmac-sha256\s[^\r\n"']*|[a-z0-9._~+/=-]{8,})"#,
];

static PATTERNS: LazyLock<Vec<Regex>> =
    LazyLock::new(|| FORMS.iter().filter_map(|form| Regex::new(form).ok()).collect());

/// `text` with everything masked that looks like a secret.
pub(super) fn mask(text: &str) -> Cow<'_, str> {
    let mut text = Cow::Borrowed(text);
    for pattern in PATTERNS.iter() {
        if let Cow::Owned(masked) = pattern.replace_all(&text, "${1}***${2}") {
            text = Cow::Owned(masked);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_a_pattern() {
        assert_eq!(PATTERNS.len(), FORMS.len());
    }

    #[test]
    fn signed_urls_lose_their_signature_and_keep_their_place() {
        let masked =
            mask("got https://b.s3.amazonaws.com/in.png?X-Amz-Expires=60&X-Amz-Signature=0a1b2c&response=x end");
        assert_eq!(
            masked,
            "got https://b.s3.amazonaws.com/in.png?X-Amz-Expires=***&X-Amz-Signature=***&response=x end"
        );
        for (url, expected) in [
            ("https://a/b?sv=1&sig=abc%2Bd%3D", "https://a/b?sv=1&sig=***"),
            (
                "\"https://a/b?Expires=5&Signature=ab~cd&Key-Pair-Id=K\"",
                "\"https://a/b?Expires=5&Signature=***&Key-Pair-Id=K\"",
            ),
            ("https://a/b?access_token=t1\\u0026x=2", "https://a/b?access_token=***\\u0026x=2"),
            (
                "https://s/?X-Goog-Credential=me&X-Goog-Signature=zz",
                "https://s/?X-Goog-Credential=***&X-Goog-Signature=***",
            ),
            ("postgres://user:hunter22@db:5432/x", "postgres://user:***@db:5432/x"),
        ] {
            assert_eq!(mask(url), expected);
        }
    }

    #[test]
    fn authorization_headers_lose_their_value() {
        for (text, expected) in [
            ("Authorization: Bearer abc.def-123", "Authorization: Bearer ***"),
            ("{\"authorization\": \"rpa_1234567890\"}", "{\"authorization\": \"***\"}"),
            ("authorization=Basic dXNlcjpwdw==, x", "authorization=Basic ***, x"),
            (
                "Authorization: AWS4-HMAC-SHA256 Credential=AKIA/20, SignedHeaders=host, Signature=ff",
                "Authorization: ***",
            ),
            ("sent bearer 0123456789abcdef to it", "sent bearer *** to it"),
        ] {
            assert_eq!(mask(text), expected);
        }
    }

    #[test]
    fn ordinary_text_is_left_alone() {
        for text in
            ["max_tokens=7 top_k=50", "key=value", "https://h/x?monkeys=3&page=2", "the bearer of news", "a & b; c=d"]
        {
            assert!(matches!(mask(text), Cow::Borrowed(_)), "{text}: {}", mask(text));
        }
    }
}
