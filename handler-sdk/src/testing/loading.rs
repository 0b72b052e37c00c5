//! Loads handlers of every kind for a test, and runs their fitness checks.

#[cfg(feature = "async")]
use std::future::Future;

use runpod_handler_protocol::{CheckOrder, CheckReport, ErrorKind, ErrorReport, ToHandler, ToSupervisor};
use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};

use super::error::TestError;
use super::harness::{Harness, patience, read};
use super::process::{Process, serve};
use super::setup::{Setup, WORKER};
#[cfg(feature = "async")]
use crate::async_function::AsyncFunction;
#[cfg(feature = "async")]
use crate::async_handler::AsyncHandler;
#[cfg(feature = "async")]
use crate::async_job::AsyncJob;
use crate::batch::BatchHandler;
use crate::error::HandlerError;
use crate::function::{Function, register};
use crate::handler::{Handler, NoChunks};
use crate::job::Job;
#[cfg(feature = "async")]
use crate::serve::Concurrent;
use crate::serve::{Batched, OneByOne, Program, Stepped};
use crate::step::StepHandler;

impl Setup {
    /// Loads a handler.
    ///
    /// # Errors
    /// [`TestError::Load`] with the error of `load` or `warm_up`.
    pub fn load<H: Handler>(&self) -> Result<Harness, TestError> {
        self.start::<OneByOne<H>>()
    }

    /// Loads a handler that runs jobs in batches.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_batch<B: BatchHandler>(&self) -> Result<Harness, TestError> {
        self.start::<Batched<B>>()
    }

    /// Loads a handler that advances several jobs step by step.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_step<H: StepHandler>(&self) -> Result<Harness, TestError> {
        self.start::<Stepped<H>>()
    }

    /// Loads an async handler.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    #[cfg(feature = "async")]
    pub fn load_async<H: AsyncHandler>(&self) -> Result<Harness, TestError> {
        self.start::<Concurrent<H>>()
    }

    /// Loads a function, as [`serve_fn`](crate::serve_fn) does.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_fn<I, O, E, F>(&self, function: F) -> Result<Harness, TestError>
    where
        I: DeserializeOwned + JsonSchema + 'static,
        O: Serialize + JsonSchema + 'static,
        E: Into<HandlerError> + 'static,
        F: Fn(I, &Job<NoChunks>) -> Result<O, E> + Send + Sync + 'static,
    {
        register(function);
        self.load::<Function<I, O, E, F>>()
    }

    /// Loads an async function, as [`serve_async_fn`](crate::serve_async_fn) does.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    #[cfg(feature = "async")]
    pub fn load_async_fn<I, O, E, F, R>(&self, function: F) -> Result<Harness, TestError>
    where
        I: DeserializeOwned + JsonSchema + Send + 'static,
        O: Serialize + JsonSchema + Send + 'static,
        E: Into<HandlerError> + 'static,
        F: Fn(I, AsyncJob<NoChunks>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<O, E>> + Send + 'static,
    {
        register(function);
        self.load_async::<AsyncFunction<I, O, E, F, R>>()
    }

    /// Runs the fitness checks of a handler and those of its device, as a worker does before its first job.
    ///
    /// # Errors
    /// When the handler cannot be reached. A check that fails is in the list.
    pub fn checks<H: Handler>(&self) -> Result<Vec<CheckReport>, TestError> {
        self.check::<OneByOne<H>>()
    }

    /// As [`checks`](Self::checks), for a handler that runs jobs in batches.
    ///
    /// # Errors
    /// As [`checks`](Self::checks).
    pub fn checks_of_batch<B: BatchHandler>(&self) -> Result<Vec<CheckReport>, TestError> {
        self.check::<Batched<B>>()
    }

    /// As [`checks`](Self::checks), for a handler that advances jobs step by step.
    ///
    /// # Errors
    /// As [`checks`](Self::checks).
    pub fn checks_of_step<H: StepHandler>(&self) -> Result<Vec<CheckReport>, TestError> {
        self.check::<Stepped<H>>()
    }

    /// As [`checks`](Self::checks), for an async handler.
    ///
    /// # Errors
    /// As [`checks`](Self::checks).
    #[cfg(feature = "async")]
    pub fn checks_of_async<H: AsyncHandler>(&self) -> Result<Vec<CheckReport>, TestError> {
        self.check::<Concurrent<H>>()
    }

    fn start<P: Program>(&self) -> Result<Harness, TestError> {
        #[cfg(feature = "torch")]
        if self.fake_device.is_some() {
            crate::torch::use_fake_devices();
        }
        let slots = P::manifest().slots(self.slots).map_err(|error| {
            let (kind, message) = (ErrorKind::Load, error.to_string());
            TestError::Load(ErrorReport { kind, message, traceback: String::new() })
        })?;
        Harness::start(self.clone(), serve::<P>(), slots)
    }

    fn check<P: Program>(&self) -> Result<Vec<CheckReport>, TestError> {
        let mut process = Process::start(serve::<P>(), None)?;
        let order = CheckOrder {
            worker_id: WORKER.into(),
            slots: self.slots,
            device: self.device.clone(),
            // A test runs on any machine.
            system: false,
            gpu_memory: false,
            min_cuda: (0, 0),
            min_gpu_memory: 0,
            benchmark_limit_ms: 0,
            gpu_limit_ms: 0,
        };
        process.send(&ToHandler::Check(order), b"")?;
        let until = patience();
        loop {
            match process.receive(until)? {
                Some((ToSupervisor::Checked, payload)) => {
                    process.shut_down();
                    return read(&payload);
                }
                Some(_) => {}
                None => return Err(TestError::Protocol("the fitness checks did not end".to_owned())),
            }
        }
    }
}

impl Harness {
    /// Loads the handler on the device that it chooses itself, as with `--device auto`.
    ///
    /// # Errors
    /// [`TestError::Load`] with the error of `load` or `warm_up`.
    pub fn load<H: Handler>() -> Result<Self, TestError> {
        Setup::new().load::<H>()
    }

    /// Loads the handler as with `--device`: `auto`, `cpu` or `cuda`.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_on<H: Handler>(device: &str) -> Result<Self, TestError> {
        Setup::new().device(device).load::<H>()
    }

    /// Loads a handler that runs jobs in batches, on the device that it chooses itself.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_batch<B: BatchHandler>() -> Result<Self, TestError> {
        Setup::new().load_batch::<B>()
    }

    /// Loads a handler that advances several jobs step by step, on the device that it chooses itself.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_step<H: StepHandler>() -> Result<Self, TestError> {
        Setup::new().load_step::<H>()
    }

    /// Loads an async handler.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    #[cfg(feature = "async")]
    pub fn load_async<H: AsyncHandler>() -> Result<Self, TestError> {
        Setup::new().load_async::<H>()
    }

    /// Loads a function, as [`serve_fn`](crate::serve_fn) does. A function of the same type that is loaded later takes its place when
    /// the model is loaded again; every closure has a type of its own.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_fn<I, O, E, F>(function: F) -> Result<Self, TestError>
    where
        I: DeserializeOwned + JsonSchema + 'static,
        O: Serialize + JsonSchema + 'static,
        E: Into<HandlerError> + 'static,
        F: Fn(I, &Job<NoChunks>) -> Result<O, E> + Send + Sync + 'static,
    {
        Setup::new().load_fn(function)
    }

    /// Loads an async function, as [`serve_async_fn`](crate::serve_async_fn) does; otherwise as [`load_fn`](Self::load_fn).
    ///
    /// # Errors
    /// As [`load`](Self::load).
    #[cfg(feature = "async")]
    pub fn load_async_fn<I, O, E, F, R>(function: F) -> Result<Self, TestError>
    where
        I: DeserializeOwned + JsonSchema + Send + 'static,
        O: Serialize + JsonSchema + Send + 'static,
        E: Into<HandlerError> + 'static,
        F: Fn(I, AsyncJob<NoChunks>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<O, E>> + Send + 'static,
    {
        Setup::new().load_async_fn(function)
    }
}
