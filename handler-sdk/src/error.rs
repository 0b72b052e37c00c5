//! The one error type that handler code returns.

use std::error::Error;
use std::fmt;

use runpod_handler_protocol::{ErrorKind, ErrorReport};

use crate::classify::classify;
use crate::encode::EncodeError;
use crate::job::EmitError;
use crate::text::{cut, split_stack};

/// Longest message that is sent, in bytes.
const MAX_MESSAGE: usize = 8 * 1024;
/// Longest traceback that is sent, in bytes.
const MAX_TRACEBACK: usize = 64 * 1024;
/// Errors that name themselves as their own cause must not hang the report.
const MAX_CAUSES: usize = 32;

/// Why a job, or a load, has failed.
///
/// `?` turns every ordinary error into one: `thiserror` enums, `anyhow::Error`, `eyre::Report`, `String`, `&str`. For that
/// reason this type does not implement [`Error`] itself.
///
/// An error without an explicit kind is judged by its text, so that running out of device memory is reported as
/// [`ErrorKind::Oom`] and a dead CUDA context as [`ErrorKind::DeviceLost`], and is an [`ErrorKind::InferenceError`]
/// otherwise ([`ErrorKind::Load`] while loading). Of a lost device the text alone is no proof, since it may quote a job's
/// input: a device that still computes is not lost.
///
/// ```no_run,standalone_crate
/// use runpod_handler_sdk::HandlerError;
///
/// fn tokens(text: &str) -> Result<usize, HandlerError> {
///     if text.is_empty() {
///         return Err(HandlerError::validation("input.text: must not be empty"));
///     }
///     let limit: usize = "512".parse()?;
///     Ok(text.len().min(limit))
/// }
/// ```
pub struct HandlerError {
    kind: Option<ErrorKind>,
    message: String,
    /// What lies below the message, outermost first.
    causes: Vec<String>,
    traceback: String,
}

/// An error type that knows its own kind; see [`HandlerError::classified`].
///
/// ```no_run,standalone_crate
/// use runpod_handler_sdk::{ErrorClass, ErrorKind, HandlerError};
///
/// #[derive(Debug, thiserror::Error)]
/// enum RouteError {
///     #[error("there is no model called {0:?}")]
///     UnknownModel(String),
/// }
///
/// impl ErrorClass for RouteError {
///     fn kind(&self) -> ErrorKind {
///         match self {
///             Self::UnknownModel(_) => ErrorKind::ModelNotFound,
///         }
///     }
/// }
///
/// fn pick(name: &str) -> Result<(), HandlerError> {
///     let found = Err(RouteError::UnknownModel(name.to_owned()));
///     found.map_err(HandlerError::classified)
/// }
/// ```
pub trait ErrorClass: Error + 'static {
    /// Which of the closed set this error is.
    fn kind(&self) -> ErrorKind;
}

impl HandlerError {
    /// An error of a given kind. The message is for the person who sent the job.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind: Some(kind), message: message.into(), causes: Vec::new(), traceback: String::new() }
    }

    /// The input is not what the handler takes. Name the field in the message, as in `input.text: must not be empty`.
    pub fn validation(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Validation, message)
    }

    /// The job names a model that this handler does not have.
    pub fn model_not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::ModelNotFound, message)
    }

    /// An error that brings its own kind; use it with `map_err`.
    // By value, so that the path itself fits `map_err`.
    #[expect(clippy::needless_pass_by_value, reason = "`map_err(HandlerError::classified)` hands the error over")]
    pub fn classified(error: impl ErrorClass) -> Self {
        let mut this = Self::from_error(&error);
        this.kind = Some(error.kind());
        this
    }

    /// Adds the error behind this one, with its own causes; it shows in the traceback, not in the message.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        let source = source.into();
        self.causes.push(source.to_string());
        self.causes.extend(causes(source.as_ref()));
        self
    }

    /// The kind, when it was given explicitly.
    pub fn kind(&self) -> Option<ErrorKind> {
        self.kind
    }

    /// The message for the person who sent the job.
    pub fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn from_panic(message: String, backtrace: String) -> Self {
        Self { kind: None, message, causes: Vec::new(), traceback: backtrace }
    }

    fn from_error(error: &(dyn Error + 'static)) -> Self {
        let kind = error
            .downcast_ref::<EncodeError>()
            .or_else(|| match error.downcast_ref::<EmitError>() {
                Some(EmitError::Encode(error)) => Some(error),
                _ => None,
            })
            .map(|_| ErrorKind::Protocol);
        Self { kind, message: error.to_string(), causes: causes(error).collect(), traceback: String::new() }
    }

    /// The error as it travels. `default` is the kind of an error that neither names its kind nor has a telling text.
    pub(crate) fn into_report(self, default: ErrorKind) -> ErrorReport {
        let (message, stack) = split_stack(&self.message);
        let by_text = || {
            let causes = self.causes.iter().map(|cause| split_stack(cause).0);
            std::iter::once(message).chain(causes).find_map(classify)
        };
        let kind = self.kind.or_else(by_text).unwrap_or(default);
        let mut traceback: String =
            self.causes.iter().map(|cause| format!("caused by: {}\n", cut(cause, MAX_MESSAGE))).collect();
        traceback.push_str(&self.traceback);
        traceback.push_str(stack);
        ErrorReport {
            kind,
            message: cut(message, MAX_MESSAGE).into_owned(),
            traceback: cut(&traceback, MAX_TRACEBACK).into_owned(),
        }
    }
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = String> + 'a {
    std::iter::successors(error.source(), |cause| (**cause).source()).take(MAX_CAUSES).map(ToString::to_string)
}

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for HandlerError {
    fn from(error: E) -> Self {
        Self::from_error(error.into().as_ref())
    }
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandlerError")
            .field("kind", &self.kind)
            .field("message", &self.message)
            .field("causes", &self.causes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("while embedding")]
    struct Outer(#[source] std::num::ParseIntError);

    fn outer() -> Result<(), HandlerError> {
        let error = "x".parse::<u32>().unwrap_err();
        Err(Outer(error))?
    }

    #[test]
    fn question_mark_keeps_the_chain_of_causes() {
        let report = outer().unwrap_err().into_report(ErrorKind::InferenceError);
        assert_eq!(report.kind, ErrorKind::InferenceError);
        assert_eq!(report.message, "while embedding");
        assert_eq!(report.traceback, "caused by: invalid digit found in string\n");
    }

    #[test]
    fn question_mark_takes_text_and_anyhow() {
        fn text() -> Result<(), HandlerError> {
            Err("no such voice")?
        }
        fn anyhow() -> Result<(), HandlerError> {
            Err(anyhow::anyhow!("CUDA out of memory. Tried to allocate 2.00 GiB").context("decoding"))?
        }
        assert_eq!(text().unwrap_err().to_string(), "no such voice");
        let report = anyhow().unwrap_err().into_report(ErrorKind::InferenceError);
        assert_eq!((report.message.as_str(), report.kind), ("decoding", ErrorKind::Oom), "a cause tells the kind");
    }

    #[derive(Debug, thiserror::Error)]
    #[error("there is no model called {0:?}")]
    struct UnknownModel(&'static str);

    impl ErrorClass for UnknownModel {
        fn kind(&self) -> ErrorKind {
            ErrorKind::ModelNotFound
        }
    }

    #[test]
    fn an_error_type_can_bring_its_kind() {
        let error = HandlerError::classified(UnknownModel("x"));
        assert_eq!((error.message(), error.kind()), ("there is no model called \"x\"", Some(ErrorKind::ModelNotFound)));
    }

    #[test]
    fn an_explicit_kind_beats_the_text() {
        let error = HandlerError::validation("input.prompt: must not contain \"CUDA out of memory\"");
        assert_eq!(error.into_report(ErrorKind::InferenceError).kind, ErrorKind::Validation);
    }

    #[test]
    fn a_very_long_message_is_cut() {
        let report = HandlerError::from("é".repeat(MAX_MESSAGE)).into_report(ErrorKind::Load);
        assert!(report.message.len() <= MAX_MESSAGE + 64, "{} bytes", report.message.len());
        assert!(report.message.starts_with('é'));
    }
}
