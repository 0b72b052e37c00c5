//! The implementation of `StepHandler`: every step writes one token of each running job.

use std::path::PathBuf;

use runpod_handler_sdk::{HandlerError, Job, LoadEnv, Running, StepHandler, StepLimits};
use serde_json::{Value, json};

use crate::decoder::{Decoder, Text};
use crate::error::ModelError;
use crate::openai::{Answer, Asked, Form, error_object, models};
use crate::request::{Input, Request};
use crate::sampler::{Sampler, choose};
use crate::written::Written;

/// Environment variable with the model's file.
const MODEL_VARIABLE: &str = "TEXT_GENERATION_MODEL";
/// Default file of the model, where `make models` puts it.
const DEFAULT_MODEL: &str = ".models/SmolLM2-135M-Instruct/SmolLM2-135M-Instruct.Q4_1.gguf";

/// Most running jobs.
const MAX_RUNNING: u32 = 16;
/// Most tokens of all running jobs, estimated. A token takes about 46 KB of the cache.
const MAX_TOKENS: u64 = 16 * 1024;

/// The model of one slot.
#[derive(Debug)]
pub struct TextGeneration {
    name: String,
    decoder: Decoder,
}

/// A running job.
#[derive(Debug)]
pub enum Sequence {
    /// It writes a text.
    Writing(Box<Writing>),
    /// Its answer is known.
    Known(Value),
}

/// A text that is being written.
#[derive(Debug)]
pub struct Writing {
    text: Text,
    /// The next token. The network has not read it yet.
    token: i64,
    sampler: Sampler,
    written: Written,
    answer: Answer,
    prompt_tokens: u32,
    tokens: u32,
    max_tokens: u32,
    streams: bool,
    streams_usage: bool,
    /// Why the text has ended.
    ended: Option<&'static str>,
}

impl TextGeneration {
    fn check_model(&self, wanted: Option<&str>) -> Result<(), HandlerError> {
        let short = |name: &str| name.rsplit('/').next().unwrap_or_default().to_owned();
        match wanted {
            Some(wanted) if short(wanted) != self.name => Err(HandlerError::model_not_found(format!(
                "there is no model {wanted:?} here; available: {:?}",
                self.name
            ))),
            _ => Ok(()),
        }
    }

    fn begin(&mut self, input: Input, job: &Job<Value>) -> Result<Sequence, HandlerError> {
        let (form, request) = match Asked::read(input)? {
            Asked::Models => return Ok(Sequence::Known(models(&self.name))),
            Asked::Text(form, request) => (form, request),
        };
        self.check_model(request.model.as_deref())?;
        let prompt = self.prompt(&request)?;
        let (text, scores) = self.decoder.read(&prompt, || Ok::<_, HandlerError>(job.stop_point()?))?;
        let mut sampler = Sampler::new(request.temperature.unwrap_or(1.0), request.top_p.unwrap_or(1.0), request.seed);
        Ok(Sequence::Writing(Box::new(Writing {
            text,
            token: choose(&scores, &mut [&mut sampler])?[0],
            sampler,
            answer: Answer::new(form, job.id(), &self.name),
            prompt_tokens: u32::try_from(prompt.len()).unwrap_or(u32::MAX),
            tokens: 0,
            max_tokens: request.max_tokens(),
            streams: request.streams(),
            streams_usage: form != Form::Plain && request.stream_options.is_some_and(|options| options.include_usage),
            written: Written::new(request.stop.map_or_else(Vec::new, |stop| stop.into_words())),
            ended: None,
        })))
    }

    /// The tokens of the prompt. There is room for the text that follows.
    fn prompt(&self, request: &Request) -> Result<Vec<i64>, HandlerError> {
        let prompt = match (&request.messages, &request.prompt) {
            (Some(messages), _) => {
                let messages = messages.iter().map(|message| (message.role.name(), message.content.as_str()));
                self.decoder.encode_chat(messages)?
            }
            (None, prompt) => self.decoder.encode(prompt.as_deref().unwrap_or_default())?,
        };
        if prompt.is_empty() {
            return Err(HandlerError::validation("the prompt must not be empty"));
        }
        let room = self.decoder.context();
        if prompt.len() as i64 + i64::from(request.max_tokens()) > room {
            return Err(HandlerError::validation(format!(
                "the prompt has {} tokens and max_tokens is {}: together at most {room} are possible",
                prompt.len(),
                request.max_tokens()
            )));
        }
        Ok(prompt)
    }
}

impl Sequence {
    fn writing(&mut self) -> Option<&mut Writing> {
        match self {
            Self::Writing(writing) => Some(writing),
            Self::Known(_) => None,
        }
    }

    /// Writes one token. Returns the output if the job has ended.
    fn advance(&mut self, decoder: &Decoder, job: &Job<Value>) -> Result<Option<Value>, HandlerError> {
        let writing = match self {
            Self::Known(answer) => return Ok(Some(std::mem::take(answer))),
            Self::Writing(writing) => writing,
        };
        let piece = writing.write(decoder);
        writing.stream(job, &piece)?;
        let Some(finish_reason) = writing.ended else { return Ok(None) };
        job.record("tokens", f64::from(writing.tokens));
        if writing.streams && writing.answer.is_openai() {
            // The pieces are the answer. RunPod's own workers end a stream with an empty list too.
            return Ok(Some(json!([])));
        }
        Ok(Some(writing.answer.whole(writing.written.text(), finish_reason, writing.usage())))
    }
}

impl Writing {
    /// Writes the next token. Returns the text that can be shown.
    fn write(&mut self, decoder: &Decoder) -> String {
        if decoder.is_end(self.token) {
            self.ended = Some("stop");
            return self.written.finish();
        }
        self.tokens += 1;
        let mut piece = self.written.push(decoder.bytes(self.token));
        if self.written.is_stopped() {
            self.ended = Some("stop");
        } else if self.tokens >= self.max_tokens {
            self.ended = Some("length");
            piece.push_str(&self.written.finish());
        }
        piece
    }

    fn usage(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.tokens,
            "total_tokens": self.prompt_tokens + self.tokens,
        })
    }

    /// Streams a piece of the text, and what follows the last one.
    fn stream(&mut self, job: &Job<Value>, piece: &str) -> Result<(), HandlerError> {
        if !self.streams || (piece.is_empty() && self.ended.is_none()) {
            return Ok(());
        }
        job.emit(self.answer.piece(piece, self.ended))?;
        if self.ended.is_some() && self.streams_usage {
            job.emit(self.answer.usage(&self.usage()))?;
        }
        Ok(())
    }
}

impl StepHandler for TextGeneration {
    type Input = Input;
    type Output = Value;
    type Chunk = Value;
    type Sequence = Sequence;

    const NAME: Option<&'static str> = Some("text-generation");
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const IDEMPOTENT: bool = true;

    fn limits() -> StepLimits {
        StepLimits::running(MAX_RUNNING).cost(MAX_TOKENS)
    }

    fn cost(input: &Input) -> u64 {
        // The body of an OpenAI request is not checked yet; its length bounds its prompt.
        let tokens = match &input.openai_input {
            Some(body) => serde_json::from_value(body.clone()).map_or(1, |request: Request| request.estimated_tokens()),
            None => input.request.estimated_tokens(),
        };
        // A text that is too long is refused with a reason when it is admitted.
        tokens.min(MAX_TOKENS)
    }

    fn load(env: &LoadEnv) -> Result<Self, HandlerError> {
        let path = std::env::var_os(MODEL_VARIABLE).map_or_else(|| DEFAULT_MODEL.into(), PathBuf::from);
        let decoder = Decoder::load(&path, env.device()?, |done, all| {
            env.progress("weights", done.unsigned_abs(), all.unsigned_abs());
        })?;
        // `SmolLM2-135M-Instruct.Q4_1.gguf`: the quantization is no part of the name.
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        Ok(Self { name: file.split('.').next().unwrap_or_default().to_owned(), decoder })
    }

    /// The first pass through the network allocates memory.
    fn warm_up(&mut self) -> Result<(), HandlerError> {
        let (mut text, _) = self.decoder.read(&[1, 2, 3], || Ok::<_, ModelError>(()))?;
        let scores = self.decoder.step(&mut [(&mut text, 4)])?;
        choose(&scores, &mut [&mut Sampler::new(1.0, 1.0, None)])?;
        Ok(())
    }

    fn admit(&mut self, input: Input, job: &Job<Value>) -> Result<Sequence, HandlerError> {
        let is_openai = input.openai_route.is_some();
        match self.begin(input, job) {
            // OpenAI clients want the reason in an answer of their own form.
            Err(error) if is_openai => error_object(&error).map(Sequence::Known).ok_or(error),
            other => other,
        }
    }

    fn step(&mut self, running: &mut [Running<Self>]) -> Result<(), HandlerError> {
        for one in running.iter_mut() {
            match one.sequence.advance(&self.decoder, &one.job) {
                Ok(None) => {}
                Ok(Some(output)) => one.finish(output),
                Err(error) => one.fail(error),
            }
        }
        let going_on = running.iter_mut().filter(|one| !one.is_finished());
        let mut going_on: Vec<&mut Writing> = going_on.filter_map(|one| one.sequence.writing()).collect();
        if going_on.is_empty() {
            return Ok(());
        }
        let mut texts: Vec<_> = going_on.iter_mut().map(|writing| (&mut writing.text, writing.token)).collect();
        let scores = self.decoder.step(&mut texts)?;
        let mut samplers: Vec<_> = going_on.iter_mut().map(|writing| &mut writing.sampler).collect();
        let tokens = choose(&scores, &mut samplers)?;
        going_on.into_iter().zip(tokens).for_each(|(writing, token)| writing.token = token);
        Ok(())
    }
}
