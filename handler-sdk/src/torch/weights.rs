//! Loads weights from safetensors files, which hold shapes and numbers but no code.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use tch::nn::VarStore;
use tch::{Kind, TchError, Tensor};

use crate::LoadEnv;
use crate::text::log;

/// Largest header that the format allows, in bytes.
const MAX_HEADER: u64 = 100_000_000;
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

/// Fills every variable of `vars` from a safetensors file, converting between floating-point types where they differ.
/// Host memory holds one tensor at a time. Progress is reported in bytes, as stage `weights`.
///
/// Tensors for which the model has no variable are logged but are not an error, because many checkpoints contain some.
///
/// # Errors
/// [`WeightsError`]. When variables are missing from the file or differ in shape or type, the error lists all of them, and
/// nothing has been copied.
pub fn load_safetensors(vars: &VarStore, path: impl AsRef<Path>, env: &LoadEnv) -> Result<(), WeightsError> {
    let path = path.as_ref();
    let io = |source| WeightsError::Io { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(io)?;
    let (metadata, data_start) = read_metadata(&mut file, path)?;
    let mut variables = vars.variables();
    let extra = compare(&variables, &metadata, path)?;
    if !extra.is_empty() {
        log(format_args!("weights {}: the model does not use {}", path.display(), listed(&extra)));
    }

    let total = metadata.data_len() as u64;
    let mut bytes = Vec::new();
    for name in metadata.offset_keys() {
        let (Some(info), Some(variable)) = (metadata.info(&name), variables.get_mut(&name)) else { continue };
        let Some(kind) = kind_of(info.dtype) else { continue };
        let (start, end) = info.data_offsets;
        file.seek(SeekFrom::Start(data_start + start as u64)).map_err(io)?;
        bytes.resize(end - start, 0);
        file.read_exact(&mut bytes).map_err(io)?;
        tch::no_grad(|| {
            Tensor::f_from_data_size(&bytes, &shape_of(info), kind).and_then(|tensor| variable.f_copy_(&tensor))
        })
        .map_err(|source| WeightsError::Copy { name, source })?;
        env.progress("weights", end as u64, total);
    }
    Ok(())
}

/// Reads the header; returns it and the position where the data starts. The lengths in the header are compared with the size
/// of the file before they are used.
fn read_metadata(file: &mut File, path: &Path) -> Result<(Metadata, u64), WeightsError> {
    let io = |source| WeightsError::Io { path: path.to_owned(), source };
    let bad = |reason: String| WeightsError::Format { path: path.to_owned(), reason };
    let file_len = file.metadata().map_err(io)?.len();
    let mut prefix = [0; 8];
    if file_len < prefix.len() as u64 {
        return Err(bad(format!("it is only {file_len} bytes long")));
    }
    file.read_exact(&mut prefix).map_err(io)?;
    let header_len = u64::from_le_bytes(prefix);
    if header_len > MAX_HEADER.min(file_len - 8) {
        return Err(bad(format!("the header length is {header_len} bytes, but the file has {file_len}")));
    }
    let mut header = vec![0; header_len as usize];
    file.read_exact(&mut header).map_err(io)?;
    let metadata: Metadata = serde_json::from_slice(&header).map_err(|error| bad(error.to_string()))?;
    let expected_len = 8 + header_len + metadata.data_len() as u64;
    if expected_len != file_len {
        return Err(bad(format!("it is {file_len} bytes long instead of {expected_len}")));
    }
    Ok((metadata, 8 + header_len))
}

/// Compares the whole model with the whole file. Returns the tensors that only the file contains.
fn compare(variables: &HashMap<String, Tensor>, metadata: &Metadata, path: &Path) -> Result<Vec<String>, WeightsError> {
    let mut problems: Vec<String> =
        variables.iter().filter_map(|(name, variable)| mismatch(name, variable, metadata.info(name))).collect();
    problems.sort_unstable();
    let known: HashSet<&String> = variables.keys().collect();
    let mut extra: Vec<String> = metadata.offset_keys().into_iter().filter(|name| !known.contains(name)).collect();
    extra.sort_unstable();
    if problems.is_empty() {
        return Ok(extra);
    }
    let mut text = listed(&problems);
    if !extra.is_empty() {
        text = format!("{text}; not used by the model: {}", listed(&extra));
    }
    Err(WeightsError::Mismatch { path: path.to_owned(), problems: text })
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
