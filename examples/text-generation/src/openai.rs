//! Requests of OpenAI clients, and their answers.

use std::time::{SystemTime, UNIX_EPOCH};

use runpod_handler_sdk::{ErrorKind, HandlerError};
use serde_json::{Value, json};

use crate::request::{Input, Request};

/// Whether a value changes nothing.
type IsHarmless = fn(&Value) -> bool;

/// Fields of a request that would change the answer, and that this handler does not know.
const UNSUPPORTED: [(&str, IsHarmless); 5] = [
    ("n", |value| value == 1),
    ("logprobs", |value| value == false),
    ("tools", |value| value.as_array().is_some_and(Vec::is_empty)),
    ("echo", |value| value == false),
    ("response_format", |value| value["type"] == "text"),
];

/// The form of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// This handler's own.
    Plain,
    Chat,
    Completion,
}

/// What an input asks for.
#[derive(Debug)]
pub(crate) enum Asked {
    Text(Form, Request),
    /// The list of models.
    Models,
}

impl Asked {
    /// Reads an input. An error about a request of an OpenAI client says so in [`error_object`]'s form.
    pub(crate) fn read(input: Input) -> Result<Self, HandlerError> {
        let Some(route) = &input.openai_route else {
            input.request.check("input")?;
            return Ok(Self::Text(Form::Plain, input.request));
        };
        let path = route.split_once('?').map_or(&**route, |(path, _query)| path);
        let form = match path.trim_start_matches("/v1") {
            "/models" => return Ok(Self::Models),
            "/chat/completions" => Form::Chat,
            "/completions" => Form::Completion,
            _ => {
                let message = format!("there is no route {route}: use /chat/completions, /completions or /models");
                return Err(HandlerError::model_not_found(message));
            }
        };
        let body = input.openai_input.unwrap_or_default();
        for (field, is_harmless) in UNSUPPORTED {
            if body.get(field).is_some_and(|value| !value.is_null() && !is_harmless(value)) {
                return Err(HandlerError::validation(format!("{field}: is not supported by this handler")));
            }
        }
        let request: Request =
            serde_json::from_value(body).map_err(|error| HandlerError::validation(error.to_string()))?;
        request.check("the request")?;
        let wanted = if form == Form::Chat { request.messages.is_some() } else { request.prompt.is_some() };
        if !wanted {
            return Err(HandlerError::validation("chat completions need messages, completions need a prompt"));
        }
        let in_range = request.temperature.is_none_or(|temperature| (0.0..=2.0).contains(&temperature))
            && request.top_p.is_none_or(|top_p| (0.0..=1.0).contains(&top_p))
            && (1..=8192).contains(&request.max_tokens());
        if in_range {
            Ok(Self::Text(form, request))
        } else {
            Err(HandlerError::validation("temperature must be 0 to 2, top_p 0 to 1, max_tokens 1 to 8192"))
        }
    }
}

/// A mistake of the caller as OpenAI clients expect it; `None` for an error that fails the job. The endpoint takes the HTTP status from
/// `code`.
pub(crate) fn error_object(error: &HandlerError) -> Option<Value> {
    let (code, kind) = match error.kind()? {
        ErrorKind::Validation => (400, "invalid_request_error"),
        ErrorKind::ModelNotFound => (404, "not_found_error"),
        _ => return None,
    };
    Some(json!({ "error": { "message": error.message(), "type": kind, "param": null, "code": code } }))
}

/// The list of models.
pub(crate) fn models(model: &str) -> Value {
    json!({ "object": "list", "data": [{ "id": model, "object": "model", "created": 0, "owned_by": "local" }] })
}

/// What all answers to one request have in common.
#[derive(Debug)]
pub(crate) struct Answer {
    form: Form,
    id: String,
    created: u64,
    model: String,
    /// Whether the role has been streamed.
    has_begun: bool,
}

impl Answer {
    pub(crate) fn new(form: Form, job: &str, model: &str) -> Self {
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let prefix = if form == Form::Chat { "chatcmpl" } else { "cmpl" };
        Self { form, id: format!("{prefix}-{job}"), created, model: model.to_owned(), has_begun: false }
    }

    /// Whether it goes to an OpenAI client.
    pub(crate) fn is_openai(&self) -> bool {
        self.form != Form::Plain
    }

    /// A piece of the text, or its end with the reason.
    pub(crate) fn piece(&mut self, text: &str, finish_reason: Option<&str>) -> Value {
        let choice = match self.form {
            Form::Plain => return json!({ "text": text }),
            Form::Completion => json!({ "index": 0, "text": text, "logprobs": null, "finish_reason": finish_reason }),
            Form::Chat => {
                let delta = match (self.has_begun, text) {
                    (false, _) => json!({ "role": "assistant", "content": text }),
                    (true, "") => json!({}),
                    (true, _) => json!({ "content": text }),
                };
                json!({ "index": 0, "delta": delta, "logprobs": null, "finish_reason": finish_reason })
            }
        };
        self.has_begun = true;
        self.object(true, &json!([choice]))
    }

    /// The last item of a stream, if the caller wants it.
    pub(crate) fn usage(&self, usage: &Value) -> Value {
        let mut object = self.object(true, &json!([]));
        object["usage"] = usage.clone();
        object
    }

    /// The whole answer.
    pub(crate) fn whole(&self, text: &str, finish_reason: &str, usage: Value) -> Value {
        let choice = match self.form {
            Form::Plain => {
                return json!({ "model": self.model, "text": text, "finish_reason": finish_reason, "usage": usage });
            }
            Form::Completion => json!({ "index": 0, "text": text, "logprobs": null, "finish_reason": finish_reason }),
            Form::Chat => json!({
                "index": 0,
                "message": { "role": "assistant", "content": text },
                "logprobs": null,
                "finish_reason": finish_reason,
            }),
        };
        let mut object = self.object(false, &json!([choice]));
        object["usage"] = usage;
        object
    }

    fn object(&self, is_piece: bool, choices: &Value) -> Value {
        let name = match (self.form, is_piece) {
            (Form::Chat, true) => "chat.completion.chunk",
            (Form::Chat, false) => "chat.completion",
            _ => "text_completion",
        };
        json!({ "id": self.id, "object": name, "created": self.created, "model": self.model, "choices": choices })
    }
}
