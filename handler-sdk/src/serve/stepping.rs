//! Runs jobs step by step, many at the same time.

mod failures;
mod meter;
mod model;

use std::marker::PhantomData;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use runpod_handler_protocol::Manifest;

use self::model::run_model;
use crate::check::Check;
use crate::error::HandlerError;
use crate::load_env::LoadEnv;
use crate::manifest::{About, manifest};
use crate::schema::InputSchema;
use crate::serve::exit::Exit;
use crate::serve::loading::SlotSetup;
use crate::serve::pooled;
use crate::serve::pooled::intake::Reader;
use crate::serve::pooled::waiting::Bounds;
use crate::serve::program::{Program, Started};
use crate::step::{StepHandler, StepLimits};

/// A handler that runs jobs step by step.
#[derive(Debug)]
pub(crate) struct Stepped<H>(PhantomData<fn() -> H>);

impl<H: StepHandler> Program for Stepped<H> {
    fn manifest() -> Manifest {
        let limits = limits::<H>();
        manifest::<H::Input, H::Output, H::Chunk>(About {
            name: H::NAME,
            version: H::VERSION,
            idempotent: H::IDEMPOTENT,
            max_batch_items: Some(limits.max_running()),
            max_waiting_items: Some(limits.max_waiting()),
            max_concurrency: None,
        })
    }

    fn checks(env: &LoadEnv) -> Vec<Check> {
        H::checks(env)
    }

    fn start(setup: &SlotSetup, exit: &SyncSender<Exit>) -> Result<Started, HandlerError> {
        let limits = limits::<H>();
        let bounds = Bounds { items: limits.max_running(), cost: limits.max_cost(), wait: Duration::ZERO };
        let reader = Reader {
            schema: InputSchema::compile(schemars::schema_for!(H::Input).as_value())?,
            key: |_| String::new(),
            cost: H::cost,
            max_cost: limits.max_cost(),
            limited: "all running jobs together",
            keeps_payload: true,
        };
        pooled::start(setup, exit, Self::manifest().slots(setup.models)?, bounds, reader, run_model::<H>)
    }
}

/// The limits of the program and of the environment.
fn limits<H: StepHandler>() -> StepLimits {
    H::limits().with_environment(|name| std::env::var(name).ok())
}
