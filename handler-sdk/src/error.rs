//! The one error type that handler code returns.

use std::error::Error;
use std::fmt;

use runpod_handler_protocol::{ErrorKind, ErrorReport};

use crate::classify::classify;
use crate::encode::EncodeError;
use crate::stopped::EmitError;
use crate::text::{cut, split_stack};

/// Longest message, or cause of it, that is sent, in bytes.
const MAX_MESSAGE: usize = 8 * 1024;
/// Longest traceback that is sent, in bytes.
const MAX_TRACEBACK: usize = 64 * 1024;
/// Most causes that are reported. Limited because an error can be its own cause.
const MAX_CAUSES: usize = 32;

/// Why a job or a load failed.
///
/// `?` converts every ordinary error: `thiserror` enums, `anyhow::Error`, `eyre::Report`, `String`, `&str`. To make that
/// possible, this type does not implement [`Error`] itself.
///
/// The kind of an error without an explicit kind follows from its text: running out of device memory is [`ErrorKind::Oom`], a
/// lost CUDA context is [`ErrorKind::DeviceLost`], everything else is [`ErrorKind::InferenceError`] ([`ErrorKind::Load`] while
/// loading). Because a text may only quote a job's input, a device that still computes is never reported as lost.
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
#[derive(Clone)]
pub struct HandlerError {
    kind: Option<ErrorKind>,
    message: String,
    /// The causes of the error, outermost first.
    causes: Vec<String>,
    traceback: String,
}

/// An error type that defines its own kind; see [`HandlerError::classified`].
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
    /// The kind of this error.
    fn kind(&self) -> ErrorKind;
}

impl HandlerError {
    /// An error of a given kind. The message is for the caller.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind: Some(kind), message: message.into(), causes: Vec::new(), traceback: String::new() }
    }

    /// The input is not valid. Name the field in the message, as in `input.text: must not be empty`.
    pub fn validation(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Validation, message)
    }

    /// The job names a model that this handler does not have.
    pub fn model_not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::ModelNotFound, message)
    }

    /// An error that defines its own kind; use it with `map_err`.
    #[expect(clippy::needless_pass_by_value, reason = "`map_err(HandlerError::classified)` passes the error by value")]
    pub fn classified(error: impl ErrorClass) -> Self {
        let mut this = Self::from_error(&error);
        this.kind = Some(error.kind());
        this
    }

    /// Adds the error that caused this one, together with its own causes. They appear in the traceback, not in the message.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        let source = source.into();
        self.causes.push(source.to_string());
        self.causes.extend(causes(source.as_ref()));
        self
    }

    /// The explicit kind, if there is one.
    pub fn kind(&self) -> Option<ErrorKind> {
        self.kind
    }

    /// The message for the caller.
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
        #[cfg(feature = "files")]
        let kind = kind.or_else(|| error.downcast_ref::<crate::file_error::FileError>().map(|error| error.kind()));
        Self { kind, message: error.to_string(), causes: causes(error).collect(), traceback: String::new() }
    }

    /// The explicit kind, or the one that follows from the text of the error or of a cause.
    pub(crate) fn apparent_kind(&self) -> Option<ErrorKind> {
        let texts = std::iter::once(&self.message).chain(&self.causes);
        self.kind.or_else(|| texts.map(|text| split_stack(text).0).find_map(classify))
    }

    /// The error in the form that is sent. `default` is the kind of an error that has no explicit kind and none by its text.
    pub(crate) fn into_report(self, default: ErrorKind) -> ErrorReport {
        let kind = self.apparent_kind().unwrap_or(default);
        let (message, stack) = split_stack(&self.message);
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
mod tests;
