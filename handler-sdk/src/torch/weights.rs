//! Loads weights from safetensors files, which hold shapes and numbers but no code.

mod checkpoint;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::thread;

use parking_lot::Mutex;
use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use tch::nn::VarStore;
use tch::{Kind, TchError, Tensor};

use self::checkpoint::{Checkpoint, Stored};
use crate::LoadEnv;
use crate::text::log;

/// Threads that read and copy tensors at the same time. A disk or a network gives several readers more than one, and each of them
/// needs memory for a tensor.
const READERS: usize = 4;
/// Most problems that an error lists; it only counts the others.
const MAX_PROBLEMS: usize = 20;

/// Why weights cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The file is missing or cannot be read.
    #[error("weights {}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The file is not a safetensors file, or is incomplete.
    #[error("weights {} are not a valid safetensors file: {reason}; download them again", .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file contains another model than the one that the program builds.
    #[error("weights {} do not fit the model: {problems}", .path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// The tensors that are missing or have another shape or type, and those that the model does not use.
        problems: String,
    },
    /// libtorch could not copy a tensor.
    #[error("tensor {name} cannot be copied to the device: {source}")]
    Copy {
        /// Name of the tensor.
        name: String,
        /// The error of libtorch.
        source: TchError,
    },
}

/// Fills every variable of `vars` from a safetensors file, converting between floating-point types where they differ. A model in several
/// files has an index, such as `model.safetensors.index.json`: with its path, all files that it names are read.
///
/// Several tensors are read at the same time; host memory holds up to four of them. Progress is reported in bytes, as stage `weights`.
///
/// Tensors for which the model has no variable are logged but are not an error, because many checkpoints contain some.
///
/// # Errors
/// [`WeightsError`]. When variables are missing from the files or differ in shape or type, the error lists all of them, and
/// nothing has been copied.
pub fn load_safetensors(vars: &VarStore, path: impl AsRef<Path>, env: &LoadEnv) -> Result<(), WeightsError> {
    let checkpoint = Checkpoint::open(path.as_ref())?;
    let variables = vars.variables();
    let extra = compare(&variables, &checkpoint)?;
    if !extra.is_empty() {
        log(format_args!("weights {}: the model does not use {}", checkpoint.path.display(), listed(&extra)));
    }
    let parts = variables.into_iter().filter_map(|(name, variable)| {
        let stored = checkpoint.get(&name)?.clone();
        Some(Part { kind: kind_of(stored.info.dtype)?, name, variable, stored })
    });
    let mut parts: Vec<Part> = parts.collect();
    parts.sort_unstable_by_key(|part| part.stored.place());
    fill(parts, &checkpoint, |done, total| env.progress("weights", done, total))
}

/// A variable, and what it is filled from.
struct Part {
    name: String,
    variable: Tensor,
    stored: Stored,
    kind: Kind,
}

impl Part {
    /// Reads the tensor and copies it; returns its size. `bytes` is memory that is used again.
    fn fill(mut self, checkpoint: &Checkpoint, bytes: &mut Vec<u8>) -> Result<usize, WeightsError> {
        checkpoint.read(&self.stored, bytes)?;
        let shape = shape_of(&self.stored.info);
        // Gradients are switched off for each thread of its own.
        let copied = tch::no_grad(|| {
            Tensor::f_from_data_size(bytes, &shape, self.kind).and_then(|tensor| self.variable.f_copy_(&tensor))
        });
        copied.map_err(|source| WeightsError::Copy { name: self.name, source })?;
        Ok(bytes.len())
    }
}

/// Fills all variables, several at the same time, and reports the bytes of those that are filled. The first error ends it.
fn fill(parts: Vec<Part>, checkpoint: &Checkpoint, progress: impl Fn(u64, u64)) -> Result<(), WeightsError> {
    let total = parts.iter().map(|part| part.stored.len() as u64).sum();
    let threads = READERS.min(parts.len());
    let parts = Mutex::new(parts.into_iter());
    let (sender, filled) = sync_channel(threads);
    thread::scope(|scope| {
        for _ in 0..threads {
            let (parts, sender) = (&parts, sender.clone());
            let reader = move || {
                let mut bytes = Vec::new();
                let next = || parts.lock().next();
                while let Some(part) = next() {
                    // Nobody listens any more after an error.
                    if sender.send(part.fill(checkpoint, &mut bytes)).is_err() {
                        return;
                    }
                }
            };
            let spawned = thread::Builder::new().name("weights".to_owned()).spawn_scoped(scope, reader);
            spawned.map_err(|source| WeightsError::Io { path: checkpoint.path.clone(), source })?;
        }
        drop(sender);
        let mut done = 0;
        for len in filled {
            done += len? as u64;
            progress(done, total);
        }
        Ok(())
    })
}

/// Compares the whole model with all files. Returns the tensors that only the files contain.
fn compare(variables: &HashMap<String, Tensor>, checkpoint: &Checkpoint) -> Result<Vec<String>, WeightsError> {
    let info = |name: &str| checkpoint.get(name).map(|stored| &stored.info);
    let mut problems: Vec<String> =
        variables.iter().filter_map(|(name, variable)| mismatch(name, variable, info(name))).collect();
    problems.sort_unstable();
    let extra: Vec<String> = checkpoint.names().filter(|name| !variables.contains_key(*name)).cloned().collect();
    if problems.is_empty() {
        return Ok(extra);
    }
    let mut text = listed(&problems);
    if !extra.is_empty() {
        text = format!("{text}; not used by the model: {}", listed(&extra));
    }
    Err(WeightsError::Mismatch { path: checkpoint.path.clone(), problems: text })
}

fn mismatch(name: &str, variable: &Tensor, info: Option<&TensorInfo>) -> Option<String> {
    let Some(info) = info else { return Some(format!("{name} is missing")) };
    let (model, file) = (variable.size(), shape_of(info));
    if model != file {
        return Some(format!("{name} has shape {file:?}, the model needs {model:?}"));
    }
    let model = variable.kind();
    match kind_of(info.dtype) {
        Some(file) if file == model || is_float(file) && is_float(model) => None,
        _ => Some(format!("{name} has type {:?}, the model needs {model:?}", info.dtype)),
    }
}

fn listed(names: &[String]) -> String {
    let shown = names[..names.len().min(MAX_PROBLEMS)].join(", ");
    match names.len().saturating_sub(MAX_PROBLEMS) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn shape_of(info: &TensorInfo) -> Vec<i64> {
    info.shape.iter().map(|&length| i64::try_from(length).unwrap_or(i64::MAX)).collect()
}

fn kind_of(dtype: Dtype) -> Option<Kind> {
    Some(match dtype {
        Dtype::F64 => Kind::Double,
        Dtype::F32 => Kind::Float,
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        Dtype::I64 => Kind::Int64,
        Dtype::I32 => Kind::Int,
        Dtype::I16 => Kind::Int16,
        Dtype::I8 => Kind::Int8,
        Dtype::U8 => Kind::Uint8,
        Dtype::BOOL => Kind::Bool,
        _ => return None,
    })
}

fn is_float(kind: Kind) -> bool {
    matches!(kind, Kind::Double | Kind::Float | Kind::Half | Kind::BFloat16)
}

#[cfg(test)]
mod tests;
