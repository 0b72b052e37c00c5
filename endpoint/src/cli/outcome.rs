//! How a client command ends.

use super::exit::Exit;
use super::http::ClientError;
use super::request::RequestError;

/// Why a client command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    /// The input cannot be submitted.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The request failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The endpoint could not be asked for the results of a batch, which it keeps.
    #[error("{error}; `{command}` prints all results once the endpoint answers again")]
    Results {
        /// Why.
        error: ClientError,
        /// The command.
        command: String,
    },
    /// The reply has another form.
    #[error("the reply is not the expected JSON: {0}; check that --url names an endpoint (…/v2/<endpoint id>)")]
    Reply(#[from] serde_json::Error),
    /// The system refuses to report signals.
    #[error("{}", super::signals::unwatched(.0))]
    Signals(#[source] std::io::Error),
    /// The terminal cannot be used.
    #[error("the terminal cannot be used: {0}; try another one, or `runpod-endpoint health --watch`")]
    Terminal(#[source] std::io::Error),
}

impl CommandError {
    /// The exit status.
    pub(crate) fn exit(&self) -> Exit {
        if matches!(self, Self::Request(_)) { Exit::Usage } else { Exit::Failure }
    }
}

/// An exit status, or the reason for the failure.
pub(super) type CommandResult = Result<Exit, CommandError>;
