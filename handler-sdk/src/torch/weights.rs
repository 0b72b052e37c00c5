//! Weights from safetensors files: only shapes and numbers are read, never code.

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

/// The format's own limit for its header, in bytes.
const MAX_HEADER: u64 = 100_000_000;
/// An error names this many problems and counts the others.
const MAX_PROBLEMS: usize = 20;

/// Weights that cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The file is missing or cannot be read.
    #[error("weights {}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is no safetensors file, or not a whole one.
    #[error("weights {} are not a valid safetensors file: {reason}; download them again", .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file holds another model than the program builds.
    #[error("weights {} do not fit the model: {problems}", .path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// Every tensor that is missing or has another shape or type, and those that the model has no use for.
        problems: String,
    },
    /// libtorch could not take a tensor.
    #[error("tensor {name} cannot be copied to the device: {source}")]
    Copy {
        /// Name of the tensor.
        name: String,
        /// What libtorch said.
        source: TchError,
    },
}

/// Fills every variable of `vars` from a safetensors file, converting between floating-point types where they differ.
/// Tensors are read one after another, so host memory holds one at a time; progress is reported in bytes as stage `weights`.
///
/// Tensors in the file that the model has no variable for are logged, not refused: checkpoints commonly carry some.
///
/// # Errors
/// [`WeightsError`]. A variable that is missing from the file, or differs in shape or type, fails the load before anything is
/// copied, and all of them are named at once.
pub fn load_safetensors(vars: &VarStore, path: impl AsRef<Path>, env: &LoadEnv) -> Result<(), WeightsError> {
    let path = path.as_ref();
    let io = |source| WeightsError::Io { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(io)?;
    let (metadata, data_start) = read_metadata(&mut file, path)?;
    let mut variables = vars.variables();
    let extra = check(&variables, &metadata, path)?;
    if !extra.is_empty() {
        log(format_args!("weights {}: the model has no use for {}", path.display(), listed(&extra)));
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

/// The header, and where the data starts. The lengths it announces are checked against the file before they are believed.
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
        return Err(bad(format!("its header claims {header_len} bytes of a file of {file_len} bytes")));
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

/// Compares the whole model with the whole file; returns the tensors that only the file has.
fn check(variables: &HashMap<String, Tensor>, metadata: &Metadata, path: &Path) -> Result<Vec<String>, WeightsError> {
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
mod tests {
    use safetensors::serialize_to_file;
    use safetensors::tensor::TensorView;
    use tch::Device;
    use tch::nn::Init;

    use super::*;

    type Entry = (&'static str, Dtype, Vec<usize>, Vec<u8>);

    fn floats(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    fn file(tensors: &[Entry]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let views = tensors
            .iter()
            .map(|(name, dtype, shape, data)| (*name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
        serialize_to_file(views, None, file.path()).unwrap();
        file
    }

    fn model() -> (VarStore, Tensor, Tensor) {
        let vars = VarStore::new(Device::Cpu);
        let weight = (vars.root() / "layer").var("weight", &[2, 2], Init::Const(0.0));
        let bias = (vars.root() / "layer").var("bias", &[2], Init::Const(0.0));
        (vars, weight, bias)
    }

    #[test]
    fn every_variable_is_filled_and_half_floats_are_converted() {
        let (vars, weight, bias) = model();
        // 1.0 and -2.0 as bfloat16.
        let halves = vec![0x80, 0x3f, 0x00, 0xc0];
        let file = file(&[
            ("layer.weight", Dtype::F32, vec![2, 2], floats(&[1.0, 2.0, 3.0, 4.0])),
            ("layer.bias", Dtype::BF16, vec![2], halves),
            ("position_ids", Dtype::I64, vec![1], vec![0; 8]),
        ]);
        load_safetensors(&vars, file.path(), &LoadEnv::for_tests("cpu")).unwrap();
        assert_eq!(Vec::<f32>::try_from(weight.flatten(0, 1)).unwrap(), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(Vec::<f32>::try_from(bias).unwrap(), [1.0, -2.0]);
    }

    #[test]
    fn all_that_does_not_fit_is_named_at_once_and_nothing_is_copied() {
        let (vars, weight, _) = model();
        let _ = vars.root().zeros_no_train("count", &[1]);
        let file = file(&[
            ("layer.weight", Dtype::F32, vec![4], floats(&[1.0, 2.0, 3.0, 4.0])),
            ("layer.biases", Dtype::F32, vec![2], floats(&[1.0, 2.0])),
            ("count", Dtype::I64, vec![1], vec![0; 8]),
        ]);
        let error = load_safetensors(&vars, file.path(), &LoadEnv::for_tests("cpu")).unwrap_err().to_string();
        assert!(
            error.ends_with(
                "do not fit the model: count has type I64, the model needs Float, layer.bias is missing, layer.weight has \
                 shape [4], the model needs [2, 2]; not used by the model: layer.biases"
            ),
            "{error}"
        );
        assert_eq!(weight.sum(Kind::Float).double_value(&[]), 0.0);
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = load_safetensors(&model().0, "/nowhere/model.safetensors", &LoadEnv::for_tests("cpu")).unwrap_err();
        assert_eq!(error.to_string(), "weights /nowhere/model.safetensors: No such file or directory (os error 2)");
    }

    #[test]
    fn a_torn_or_lying_file_is_refused() {
        let whole = file(&[("layer.bias", Dtype::F32, vec![2], floats(&[1.0, 2.0]))]);
        let bytes = std::fs::read(whole.path()).unwrap();
        let lying = [u64::MAX.to_le_bytes().as_slice(), b"{}"].concat();
        for (bytes, reason) in [
            (&bytes[..bytes.len() - 1], "bytes long instead of"),
            (&bytes[..5], "it is only 5 bytes long"),
            (&lying[..], "its header claims 18446744073709551615 bytes"),
            (b"\x02\0\0\0\0\0\0\0[]", "invalid"),
        ] {
            let torn = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(torn.path(), bytes).unwrap();
            let error = load_safetensors(&model().0, torn.path(), &LoadEnv::for_tests("cpu")).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
