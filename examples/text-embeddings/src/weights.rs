//! Named tensors from a safetensors file.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use tch::{Device, Tensor};

use crate::error::{ModelError, size};

/// The tensors of one file, on the device, handed out by name.
#[derive(Debug)]
pub struct Weights {
    path: PathBuf,
    tensors: HashMap<String, Tensor>,
}

impl Weights {
    /// Reads the file and moves every tensor to the device. `progress` is called with bytes done and bytes in all.
    ///
    /// # Errors
    /// When the file is missing, damaged, or does not fit on the device.
    pub fn read(path: &Path, device: Device, progress: &mut dyn FnMut(u64, u64)) -> Result<Self, ModelError> {
        // Opened first, because tch does not tell a missing file from a damaged one.
        let total = size(path)?;
        let read = Tensor::read_safetensors(path).map_err(|error| ModelError::invalid(path, &error))?;
        let mut done = 0;
        let mut tensors = HashMap::new();
        for (name, tensor) in read {
            done += tensor.numel() as u64 * tensor.kind().elt_size_in_bytes() as u64;
            tensors.insert(name, tensor.f_to_device(device)?);
            progress(done, total);
        }
        progress(total, total);
        Ok(Self { path: path.to_owned(), tensors })
    }

    /// Hands out a tensor, once, after checking its shape.
    ///
    /// # Errors
    /// When the file has no such tensor or its shape is another.
    pub fn take(&mut self, name: &str, shape: &[i64]) -> Result<Tensor, ModelError> {
        let tensor = self
            .tensors
            .remove(name)
            .ok_or_else(|| ModelError::invalid(&self.path, &format_args!("it lacks the tensor {name}")))?;
        if tensor.size() != shape {
            let reason = format!("{name} has shape {:?}, config.json says {shape:?}", tensor.size());
            return Err(ModelError::invalid(&self.path, &reason));
        }
        Ok(tensor)
    }
}
