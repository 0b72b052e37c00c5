//! A job's input, and what it asks for.

use runpod_handler_sdk::HandlerError;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

/// Tokens that a job may write if it does not say.
const DEFAULT_MAX_TOKENS: u32 = 256;
/// Bytes of English text that make one token, about.
const BYTES_PER_TOKEN: usize = 4;

/// A job's `input`: `prompt` or `messages`, or a request of an OpenAI client.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Input {
    /// What to write, and how.
    #[serde(flatten)]
    pub request: Request,
    /// Set by the endpoint for a request to one of its OpenAI routes: the path from `/v1` on.
    pub openai_route: Option<String>,
    /// Set by the endpoint: the body of that request.
    pub openai_input: Option<Value>,
}

/// What to write, and how. The names are those of OpenAI's API.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
pub struct Request {
    /// Model to use, by default the loaded one.
    pub model: Option<String>,
    /// A text to go on with.
    pub prompt: Option<String>,
    /// A chat to answer.
    #[schemars(length(min = 1, max = 256))]
    pub messages: Option<Vec<Message>>,
    /// Most tokens to write; 256 by default.
    #[serde(alias = "max_completion_tokens")]
    #[schemars(range(min = 1, max = 8192))]
    pub max_tokens: Option<u32>,
    /// 0 always takes the most probable token; 1, the default, follows the probabilities of the model.
    #[schemars(range(min = 0.0, max = 2.0))]
    pub temperature: Option<f32>,
    /// Only the most probable tokens with together this probability are candidates; 1, the default, means all.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub top_p: Option<f32>,
    /// The same seed gives the same text.
    pub seed: Option<u64>,
    /// The text ends before any of these words.
    pub stop: Option<StopWords>,
    /// Stream the text in pieces.
    pub stream: Option<bool>,
    /// What else is streamed.
    pub stream_options: Option<StreamOptions>,
}

/// A message of a chat.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Message {
    /// Who wrote it.
    pub role: Role,
    /// What they wrote.
    pub content: String,
}

/// Who wrote a message.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions for the model.
    #[serde(alias = "developer")]
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// The name that the model knows.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// One stop word, or a few.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum StopWords {
    /// One.
    One(String),
    /// At most four.
    Many(#[schemars(length(max = 4))] Vec<String>),
}

impl StopWords {
    /// The words.
    pub fn into_words(self) -> Vec<String> {
        match self {
            Self::One(word) => vec![word],
            Self::Many(words) => words,
        }
    }
}

/// What else is streamed.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
pub struct StreamOptions {
    /// A last item with the numbers of tokens.
    #[serde(default)]
    pub include_usage: bool,
}

impl Request {
    /// Most tokens to write.
    pub fn max_tokens(&self) -> u32 {
        self.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS)
    }

    /// Whether the text is streamed.
    pub fn streams(&self) -> bool {
        self.stream == Some(true)
    }

    /// About how many tokens the prompt and the text will have.
    pub fn estimated_tokens(&self) -> u64 {
        let messages = self.messages.iter().flatten().map(|message| message.content.len() + 4 * BYTES_PER_TOKEN);
        let bytes = self.prompt.as_ref().map_or(0, String::len) + messages.sum::<usize>();
        (bytes / BYTES_PER_TOKEN) as u64 + u64::from(self.max_tokens())
    }

    /// Checks what the schema cannot say. `of` names the object in the message.
    pub(crate) fn check(&self, of: &str) -> Result<(), HandlerError> {
        match (&self.prompt, &self.messages) {
            (Some(_), None) | (None, Some(_)) => Ok(()),
            _ => Err(HandlerError::validation(format!("{of}: needs either prompt or messages"))),
        }
    }
}
