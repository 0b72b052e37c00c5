//! A handler that is a single function.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::process::ExitCode;
use std::sync::{Arc, LazyLock};

use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};

use crate::error::HandlerError;
use crate::handler::{Handler, NoChunks};
use crate::job::Job;
use crate::load_env::LoadEnv;
use crate::serve::serve;

/// The functions that are served, by their types. A handler is built by its type alone, on the thread of its slot.
static FUNCTIONS: LazyLock<Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>> = LazyLock::new(Mutex::default);

/// Runs a function as a handler under a worker: the whole `main` of a program without a model.
///
/// The function can be called by several slots at the same time. A handler with a model, with streaming or with a version is an
/// implementation of [`Handler`]. The exit status is that of [`serve`].
///
/// ```no_run,standalone_crate
/// use std::process::ExitCode;
///
/// use runpod_handler_sdk::{HandlerError, serve_fn};
///
/// #[derive(serde::Deserialize, schemars::JsonSchema)]
/// struct Input {
///     text: String,
/// }
///
/// fn main() -> ExitCode {
///     serve_fn(|input: Input, job| {
///         job.stop_point()?;
///         Ok::<_, HandlerError>(input.text.to_uppercase())
///     })
/// }
/// ```
pub fn serve_fn<I, O, E, F>(function: F) -> ExitCode
where
    I: DeserializeOwned + JsonSchema + 'static,
    O: Serialize + JsonSchema + 'static,
    E: Into<HandlerError> + 'static,
    F: Fn(I, &Job<NoChunks>) -> Result<O, E> + Send + Sync + 'static,
{
    register(function);
    serve::<Function<I, O, E, F>>()
}

/// Makes a function available to [`Function`].
pub(crate) fn register<F: Send + Sync + 'static>(function: F) {
    FUNCTIONS.lock().insert(TypeId::of::<F>(), Arc::new(function));
}

/// The function of this type that was made available.
pub(crate) fn registered<F: Send + Sync + 'static>() -> Result<Arc<F>, HandlerError> {
    let function = FUNCTIONS.lock().get(&TypeId::of::<F>()).cloned();
    match function.map(Arc::downcast) {
        Some(Ok(function)) => Ok(function),
        _ => Err("the function of this handler was not registered: start it with serve_fn or serve_async_fn".into()),
    }
}

/// A function as a handler.
pub(crate) struct Function<I, O, E, F> {
    function: Arc<F>,
    _types: PhantomData<fn(I) -> Result<O, E>>,
}

impl<I, O, E, F> fmt::Debug for Function<I, O, E, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Function").finish_non_exhaustive()
    }
}

impl<I, O, E, F> Handler for Function<I, O, E, F>
where
    I: DeserializeOwned + JsonSchema + 'static,
    O: Serialize + JsonSchema + 'static,
    E: Into<HandlerError> + 'static,
    F: Fn(I, &Job<NoChunks>) -> Result<O, E> + Send + Sync + 'static,
{
    type Input = I;
    type Output = O;
    type Chunk = NoChunks;

    fn load(_: &LoadEnv) -> Result<Self, HandlerError> {
        Ok(Self { function: registered()?, _types: PhantomData })
    }

    fn run(&mut self, input: I, job: &Job<NoChunks>) -> Result<O, HandlerError> {
        (self.function)(input, job).map_err(Into::into)
    }
}
