//! The files of a model's weights: one safetensors file, or the several that an index names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

use safetensors::tensor::{Metadata, TensorInfo};
use serde::Deserialize;

use super::WeightsError;

/// Largest header that the format allows, in bytes. An index is not longer either.
const MAX_HEADER: u64 = 100_000_000;
/// How the name of an index ends, as Hugging Face names it.
const INDEX: &str = ".index.json";

/// The files, whose headers are read. The data is read tensor by tensor.
#[derive(Debug)]
pub(super) struct Checkpoint {
    /// The file that was asked for: the weights or their index.
    pub(super) path: PathBuf,
    shards: Vec<Shard>,
    tensors: BTreeMap<String, Stored>,
}

/// One file with weights.
#[derive(Debug)]
struct Shard {
    path: PathBuf,
    file: File,
    /// Where the data starts.
    data_start: u64,
}

/// Where a tensor is.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    shard: usize,
    pub(super) info: TensorInfo,
}

impl Stored {
    /// Size in bytes.
    pub(super) fn len(&self) -> usize {
        self.info.data_offsets.1 - self.info.data_offsets.0
    }

    /// Where it is, for reading in the order of the files.
    pub(super) fn place(&self) -> (usize, usize) {
        (self.shard, self.info.data_offsets.0)
    }
}

/// What an index says: in which file each tensor is.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Opens the files and reads their headers. A path that ends in `.index.json` names an index.
    pub(super) fn open(path: &Path) -> Result<Self, WeightsError> {
        if path.to_string_lossy().ends_with(INDEX) {
            return Self::of_index(path);
        }
        let (shard, metadata) = Shard::open(path)?;
        let tensors = metadata.offset_keys().into_iter().filter_map(|name| {
            let info = metadata.info(&name)?.clone();
            Some((name, Stored { shard: 0, info }))
        });
        Ok(Self { path: path.to_owned(), tensors: tensors.collect(), shards: vec![shard] })
    }

    fn of_index(path: &Path) -> Result<Self, WeightsError> {
        let bad = |reason: String| WeightsError::Format { path: path.to_owned(), reason };
        let mut text = Vec::new();
        let read = File::open(path).and_then(|file| file.take(MAX_HEADER).read_to_end(&mut text));
        read.map_err(|source| WeightsError::Io { path: path.to_owned(), source })?;
        let Index { weight_map } = serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
        let names: BTreeSet<&String> = weight_map.values().collect();
        let (mut shards, mut headers) = (Vec::new(), BTreeMap::new());
        for name in names {
            // An index comes from elsewhere, and must not open other files of this machine.
            if !matches!(Path::new(name).components().collect::<Vec<_>>()[..], [Component::Normal(_)]) {
                return Err(bad(format!("{name:?} is not the name of a file beside it")));
            }
            let (shard, metadata) = Shard::open(&path.with_file_name(name))?;
            headers.insert(name, (shards.len(), metadata));
            shards.push(shard);
        }
        let mut tensors = BTreeMap::new();
        for (tensor, file) in &weight_map {
            let found = headers.get(file).and_then(|(shard, metadata)| Some((*shard, metadata.info(tensor)?.clone())));
            let (shard, info) = found.ok_or_else(|| bad(format!("{tensor} is not in {file}")))?;
            tensors.insert(tensor.clone(), Stored { shard, info });
        }
        Ok(Self { path: path.to_owned(), shards, tensors })
    }

    /// The tensor of this name.
    pub(super) fn get(&self, name: &str) -> Option<&Stored> {
        self.tensors.get(name)
    }

    /// The names of all tensors, in order.
    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.tensors.keys()
    }

    /// Reads the data of a tensor into `bytes`. Several threads may read at the same time.
    pub(super) fn read(&self, tensor: &Stored, bytes: &mut Vec<u8>) -> Result<(), WeightsError> {
        let shard = &self.shards[tensor.shard];
        bytes.resize(tensor.len(), 0);
        let read = shard.file.read_exact_at(bytes, shard.data_start + tensor.info.data_offsets.0 as u64);
        read.map_err(|source| WeightsError::Io { path: shard.path.clone(), source })
    }
}

impl Shard {
    /// Opens a file and reads its header. The lengths in the header are compared with the size of the file before they are used.
    fn open(path: &Path) -> Result<(Self, Metadata), WeightsError> {
        let io = |source| WeightsError::Io { path: path.to_owned(), source };
        let bad = |reason: String| WeightsError::Format { path: path.to_owned(), reason };
        let mut file = File::open(path).map_err(io)?;
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
        let data_start = 8 + header_len;
        let expected_len = data_start + metadata.data_len() as u64;
        if expected_len != file_len {
            return Err(bad(format!("it is {file_len} bytes long instead of {expected_len}")));
        }
        Ok((Self { path: path.to_owned(), file, data_start }, metadata))
    }
}
