//! An input that is a file.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use reqwest::Url;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Visitor;
use serde::{Deserialize, Deserializer};

use super::base64::from_base64;
use super::data_url;
use super::http::host_of;
use crate::file_error::FileError;

/// A file in a job's input: an `http://` or `https://` URL, a `data:` URL, or base64. Data is decoded when the input is read, so a mistake
/// in it fails the job as `validation`, with the path of the field. A URL is downloaded by [`JobFiles::fetch`](super::JobFiles::fetch).
///
/// `{:?}` shows the host of a URL and the length of data, because a URL may hold a signature.
#[derive(Clone)]
pub struct FileInput(pub(crate) Source);

/// Where the file is.
#[derive(Clone)]
pub(crate) enum Source {
    Url(Url),
    Data { content_type: Option<String>, data: Bytes },
}

impl FileInput {
    /// Reads a URL, a data URL or base64.
    ///
    /// # Errors
    /// [`FileError::Form`] when `text` is none of these.
    pub fn parse(text: &str) -> Result<Self, FileError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(FileError::Form(": this is empty"));
        }
        if let Some((scheme, rest)) = text.split_once(':') {
            return match scheme.to_ascii_lowercase().as_str() {
                "data" => {
                    let (content_type, data) = data_url::parse(rest)?;
                    Ok(Self(Source::Data { content_type: Some(content_type), data }))
                }
                "http" | "https" => match Url::parse(text) {
                    Ok(url) if url.has_host() => Ok(Self(Source::Url(url))),
                    _ => Err(FileError::Form(": this URL is not valid")),
                },
                _ => Err(FileError::Form(": this is a URL with another scheme")),
            };
        }
        Ok(Self(Source::Data { content_type: None, data: from_base64(text)?.into() }))
    }

    /// The data, if the input holds it; `None` for a URL.
    pub fn data(&self) -> Option<&Bytes> {
        match &self.0 {
            Source::Data { data, .. } => Some(data),
            Source::Url(_) => None,
        }
    }
}

impl fmt::Debug for FileInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Source::Url(url) => write!(f, "FileInput(URL at {})", host_of(url)),
            Source::Data { data, .. } => write!(f, "FileInput({} bytes)", data.len()),
        }
    }
}

impl<'de> Deserialize<'de> for FileInput {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = FileInput;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an http:// or https:// URL, a data: URL or base64")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<FileInput, E> {
                FileInput::parse(text).map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Text)
    }
}

impl JsonSchema for FileInput {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "FileInput".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "minLength": 1,
            "description": "A file: an http:// or https:// URL, a data: URL, or base64",
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::input::parse_input;
    use crate::schema::InputSchema;

    #[derive(Debug, Deserialize, JsonSchema)]
    struct Input {
        images: Vec<FileInput>,
    }

    fn parse(input: &serde_json::Value) -> Result<Input, String> {
        let raw = serde_json::value::to_raw_value(input).unwrap();
        let schema = InputSchema::compile(schemars::schema_for!(Input).as_value()).unwrap();
        parse_input(Some(raw.get().as_bytes()), &schema).map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_is_a_url_a_data_url_or_base64() {
        let url = "https://storage.example/cat.png?X-Amz-Signature=hunter22";
        let input = parse(&json!({"images": [url, "data:image/png;base64,iVBORw==", "iVBORw=="]})).unwrap();
        let shown = "[FileInput(URL at storage.example), FileInput(4 bytes), FileInput(4 bytes)]";
        assert_eq!(format!("{:?}", input.images), shown);
        assert_eq!(input.images[1].data(), input.images[2].data());
        assert_eq!(input.images[0].data(), None);
    }

    #[test]
    fn a_problem_names_the_field_and_never_the_value() {
        for (value, problem) in [
            (json!("file:///etc/passwd"), "another scheme"),
            (json!("gopher://hunter22/"), "another scheme"),
            (json!("http://"), "this URL is not valid"),
            (json!("data:image/png;base64"), "no comma"),
            (json!("hunter22!"), "not valid base64"),
            (json!(""), "empty"),
            (json!(7), "URL"),
        ] {
            let error = parse(&json!({"images": ["YQ==", value]})).unwrap_err();
            assert!(error.contains("input.images[1]: ") && error.contains(problem), "{value}: {error}");
            assert!(!error.contains("hunter22") && !error.contains("passwd"), "{error}");
        }
    }
}
