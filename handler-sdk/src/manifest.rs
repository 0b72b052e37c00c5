//! The manifest: the description of a handler that it sends in the handshake and prints for `--manifest`.

use std::any::TypeId;
use std::path::Path;

use runpod_handler_protocol::Manifest;
use schemars::JsonSchema;

use crate::handler::NoChunks;

/// The part of a manifest that does not follow from types.
#[derive(Clone, Copy, Debug)]
pub(crate) struct About {
    pub(crate) name: Option<&'static str>,
    pub(crate) version: &'static str,
    pub(crate) idempotent: bool,
    pub(crate) max_batch_items: Option<u32>,
    pub(crate) max_waiting_items: Option<u32>,
}

/// The manifest of a handler with these types of inputs, outputs and chunks.
pub(crate) fn manifest<I: JsonSchema, O: JsonSchema, C: JsonSchema + 'static>(about: About) -> Manifest {
    let streams = TypeId::of::<C>() != TypeId::of::<NoChunks>();
    Manifest {
        name: about.name.map_or_else(program_name, str::to_owned),
        version: about.version.to_owned(),
        idempotent: about.idempotent,
        streams,
        input_schema: schemars::schema_for!(I).to_value(),
        output_schema: schemars::schema_for!(O).to_value(),
        chunk_schema: streams.then(|| schemars::schema_for!(C).to_value()),
        max_batch_items: about.max_batch_items,
        max_waiting_items: about.max_waiting_items,
    }
}

/// File name of the running program, by default the name of its crate.
pub(crate) fn program_name() -> String {
    let program = std::env::args_os().next().unwrap_or_default();
    Path::new(&program).file_name().map_or_else(|| "handler".to_owned(), |name| name.to_string_lossy().into_owned())
}
