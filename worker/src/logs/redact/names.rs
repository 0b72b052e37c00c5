//! Names of variables and fields whose values are secret.

/// Words that a name of a secret ends with.
const SECRET_WORDS: [&str; 9] =
    ["key", "keys", "token", "tokens", "secret", "secrets", "password", "passwd", "credentials"];

/// Whether a name is that of a secret, such as `HF_TOKEN`, `PGPASSWORD`, `AWS_ACCESS_KEY_ID` or `accessSecret`.
pub fn is_secret_name(name: &str) -> bool {
    let mut words = words(name);
    // `…_ID` and `…_VALUE` of a secret are secret too.
    while words.len() > 1 && words.last().is_some_and(|word| ["id", "value"].contains(&word.as_str())) {
        words.pop();
    }
    words.last().is_some_and(|last| SECRET_WORDS.iter().any(|word| last.ends_with(word)))
}

/// The words of a name in snake, kebab or camel case, in lower case.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut lower = false;
    for c in name.chars() {
        if !c.is_alphanumeric() || lower && c.is_uppercase() {
            words.push(String::new());
        }
        lower = c.is_lowercase();
        if let Some(word) = words.last_mut().filter(|_| c.is_alphanumeric()) {
            word.extend(c.to_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_secrets_are_recognized_in_every_case_style() {
        for name in [
            "RUNPOD_AI_API_KEY",
            "HF_TOKEN",
            "AWS_ACCESS_KEY_ID",
            "PGPASSWORD",
            "BUCKET_SECRET_ACCESS_KEY",
            "accessSecret",
            "accessKeyId",
            "api-key",
            "APIKEY",
        ] {
            assert!(is_secret_name(name), "{name}");
        }
        for name in ["TOKENIZERS_CACHE", "SECRET_FILE", "KEYBOARD", "PATH", "RUNPOD_POD_ID", "KEY_ROTATION", "ID", ""] {
            assert!(!is_secret_name(name), "{name}");
        }
    }
}
