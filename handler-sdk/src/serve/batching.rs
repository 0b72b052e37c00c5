//! Runs jobs in batches. A batch forms while the last one runs.

mod model;

use std::marker::PhantomData;
use std::sync::mpsc::SyncSender;

use runpod_handler_protocol::Manifest;

use self::model::run_model;
use crate::batch::{BatchHandler, BatchLimits};
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

/// A handler that runs jobs in batches.
#[derive(Debug)]
pub(crate) struct Batched<B>(PhantomData<fn() -> B>);

impl<B: BatchHandler> Program for Batched<B> {
    fn manifest() -> Manifest {
        manifest::<B::Input, B::Output, B::Chunk>(About {
            name: B::NAME,
            version: B::VERSION,
            idempotent: B::IDEMPOTENT,
            max_batch_items: Some(limits::<B>().max_items()),
            max_concurrency: None,
            max_waiting_items: None,
        })
    }

    fn checks(env: &LoadEnv) -> Vec<Check> {
        B::checks(env)
    }

    fn start(setup: &SlotSetup, exit: &SyncSender<Exit>) -> Result<Started, HandlerError> {
        let limits = limits::<B>();
        let bounds = Bounds { items: limits.max_items(), cost: limits.max_cost(), wait: limits.max_wait() };
        let reader = Reader {
            schema: InputSchema::compile(schemars::schema_for!(B::Input).as_value())?,
            key: B::key,
            cost: B::cost,
            max_cost: limits.max_cost(),
            limited: "a batch",
            keeps_payload: false,
        };
        pooled::start(setup, exit, Self::manifest().slots(setup.models)?, bounds, reader, run_model::<B>)
    }
}

/// The limits of the program and of the environment.
fn limits<B: BatchHandler>() -> BatchLimits {
    B::limits().with_environment(|name| std::env::var(name).ok())
}
