//! Reads a GGUF file: the model's metadata and its tensors. The format is that of llama.cpp, version 3.
//!
//! A GGUF file holds sizes, names and numbers but no code. Sizes are compared with the length of the file before they are used.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use tch::{Device, Tensor};

use crate::error::ModelError;
use crate::quantized::Format;

/// Most metadata entries, and most tensors.
const MAX_ENTRIES: u64 = 100_000;
/// Most elements of a list in the metadata.
const MAX_LIST: u64 = 4_000_000;
/// Most numbers in a tensor.
const MAX_NUMBERS: i64 = 1 << 34;
/// Longest text, in bytes.
const MAX_TEXT: u64 = 1 << 20;
/// Where the data of a tensor may start, unless the file says otherwise.
const DEFAULT_ALIGNMENT: u64 = 32;

/// A value of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Integer(i64),
    Float(f64),
    Text(String),
    List(Vec<Value>),
}

/// Where a tensor is, and how its numbers are stored.
#[derive(Clone, Debug)]
struct Stored {
    /// Sizes, the slowest dimension first, as in libtorch.
    shape: Vec<i64>,
    format: Format,
    /// From the start of the data.
    offset: u64,
}

/// An open model file.
#[derive(Debug)]
pub(crate) struct Gguf {
    path: PathBuf,
    file: BufReader<File>,
    metadata: HashMap<String, Value>,
    tensors: HashMap<String, Stored>,
    data_start: u64,
}

impl Gguf {
    /// Opens a file and reads everything but the tensors' data.
    pub(crate) fn open(path: &Path) -> Result<Self, ModelError> {
        let unreadable = |source| ModelError::unreadable(path, source);
        let file = File::open(path).map_err(unreadable)?;
        let length = file.metadata().map_err(unreadable)?.len();
        let mut header = Header { file: BufReader::new(file), left: length };
        let (metadata, tensors) = header.read().map_err(|error| ModelError::invalid(path, error.to_string()))?;
        let alignment = match metadata.get("general.alignment") {
            Some(Value::Integer(alignment @ 1..=65_536)) => alignment.unsigned_abs(),
            _ => DEFAULT_ALIGNMENT,
        };
        let data_start = (length - header.left).next_multiple_of(alignment);
        Ok(Self { path: path.to_owned(), file: header.file, metadata, tensors, data_start })
    }

    /// A whole number of the metadata.
    pub(crate) fn integer(&self, key: &str) -> Result<i64, ModelError> {
        match self.metadata.get(key) {
            Some(Value::Integer(number)) => Ok(*number),
            other => Err(self.wrong(key, "a whole number", other)),
        }
    }

    /// A number of the metadata.
    pub(crate) fn float(&self, key: &str) -> Result<f64, ModelError> {
        match self.metadata.get(key) {
            Some(Value::Float(number)) => Ok(*number),
            other => Err(self.wrong(key, "a number", other)),
        }
    }

    /// A text of the metadata.
    pub(crate) fn text(&self, key: &str) -> Result<&str, ModelError> {
        match self.metadata.get(key) {
            Some(Value::Text(text)) => Ok(text),
            other => Err(self.wrong(key, "a string", other)),
        }
    }

    /// A list of texts of the metadata.
    pub(crate) fn texts(&self, key: &str) -> Result<Vec<&str>, ModelError> {
        let Some(Value::List(list)) = self.metadata.get(key) else {
            return Err(self.wrong(key, "a list", self.metadata.get(key)));
        };
        let texts = list.iter().map(|value| match value {
            Value::Text(text) => Ok(text.as_str()),
            other => Err(self.wrong(key, "a list of texts", Some(other))),
        });
        texts.collect()
    }

    /// A list of whole numbers of the metadata.
    pub(crate) fn integers(&self, key: &str) -> Result<Vec<i64>, ModelError> {
        let Some(Value::List(list)) = self.metadata.get(key) else {
            return Err(self.wrong(key, "a list", self.metadata.get(key)));
        };
        let integers = list.iter().map(|value| match value {
            Value::Integer(number) => Ok(*number),
            other => Err(self.wrong(key, "a list of whole numbers", Some(other))),
        });
        integers.collect()
    }

    /// A tensor, with its numbers converted to 32-bit floats, on the device.
    pub(crate) fn tensor(&mut self, name: &str, shape: &[i64], device: Device) -> Result<Tensor, ModelError> {
        let invalid = |reason: String| ModelError::invalid(&self.path, reason);
        let stored = self.tensors.get(name).ok_or_else(|| invalid(format!("it has no tensor {name:?}")))?;
        if stored.shape != shape {
            return Err(invalid(format!("tensor {name:?} has the shape {:?} instead of {shape:?}", stored.shape)));
        }
        let bytes = stored
            .format
            .bytes(shape.iter().product())
            .ok_or_else(|| invalid(format!("tensor {name:?} does not consist of whole blocks")))?;
        let position = SeekFrom::Start(self.data_start.saturating_add(stored.offset));
        let mut data = Vec::new();
        let read = self.file.seek(position).and_then(|_| self.file.by_ref().take(bytes).read_to_end(&mut data));
        let read = read.map_err(|source| ModelError::unreadable(&self.path, source))? as u64;
        if read < bytes {
            return Err(ModelError::invalid(&self.path, format!("it ends inside tensor {name:?}")));
        }
        Ok(stored.format.to_floats(&data, shape)?.f_to_device(device)?)
    }

    /// An error about this file.
    pub(crate) fn invalid(&self, reason: impl Into<String>) -> ModelError {
        ModelError::invalid(&self.path, reason)
    }

    fn wrong(&self, key: &str, wanted: &str, found: Option<&Value>) -> ModelError {
        self.invalid(match found {
            Some(_) => format!("{key} is not {wanted}"),
            None => format!("it has no {key}"),
        })
    }
}

/// The part of the file before the tensors' data.
struct Header {
    file: BufReader<File>,
    /// Bytes of the file that have not been read.
    left: u64,
}

type Contents = (HashMap<String, Value>, HashMap<String, Stored>);

impl Header {
    fn read(&mut self) -> io::Result<Contents> {
        if &self.array::<4>()? != b"GGUF" {
            return Err(bad("it is not a GGUF file"));
        }
        let version = u32::from_le_bytes(self.array()?);
        if version != 3 {
            return Err(bad(format!("it has version {version} of the format, only 3 is supported")));
        }
        let (tensors, entries) = (self.count(MAX_ENTRIES)?, self.count(MAX_ENTRIES)?);
        let mut metadata = HashMap::new();
        for _ in 0..entries {
            let (key, kind) = (self.text()?, u32::from_le_bytes(self.array()?));
            metadata.insert(key, self.value(kind, true)?);
        }
        let tensors = (0..tensors).map(|_| self.stored()).collect::<io::Result<_>>()?;
        Ok((metadata, tensors))
    }

    fn stored(&mut self) -> io::Result<(String, Stored)> {
        let name = self.text()?;
        let dimensions = u32::from_le_bytes(self.array()?);
        if !(1..=4).contains(&dimensions) {
            return Err(bad(format!("tensor {name:?} has {dimensions} dimensions")));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            shape.push(i64::from_le_bytes(self.array()?));
        }
        shape.reverse();
        let numbers = shape.iter().try_fold(1_i64, |product, &size| (size > 0).then(|| product.checked_mul(size))?);
        if numbers.is_none_or(|numbers| numbers > MAX_NUMBERS) {
            return Err(bad(format!("tensor {name:?} has the impossible shape {shape:?}")));
        }
        let format = u32::from_le_bytes(self.array()?);
        let format = Format::from_code(format)
            .ok_or_else(|| bad(format!("tensor {name:?} is stored in format {format}, which is not supported")))?;
        Ok((name, Stored { shape, format, offset: u64::from_le_bytes(self.array()?) }))
    }

    fn value(&mut self, kind: u32, lists: bool) -> io::Result<Value> {
        Ok(match kind {
            0 => Value::Integer(u8::from_le_bytes(self.array()?).into()),
            1 => Value::Integer(i8::from_le_bytes(self.array()?).into()),
            2 => Value::Integer(u16::from_le_bytes(self.array()?).into()),
            3 => Value::Integer(i16::from_le_bytes(self.array()?).into()),
            4 => Value::Integer(u32::from_le_bytes(self.array()?).into()),
            5 => Value::Integer(i32::from_le_bytes(self.array()?).into()),
            6 => Value::Float(f32::from_le_bytes(self.array()?).into()),
            7 => Value::Integer((self.array::<1>()? != [0]).into()),
            8 => Value::Text(self.text()?),
            9 if lists => {
                let kind = u32::from_le_bytes(self.array()?);
                let count = self.count(MAX_LIST)?;
                Value::List((0..count).map(|_| self.value(kind, false)).collect::<io::Result<_>>()?)
            }
            10 => Value::Integer(i64::try_from(u64::from_le_bytes(self.array()?)).unwrap_or(i64::MAX)),
            11 => Value::Integer(i64::from_le_bytes(self.array()?)),
            12 => Value::Float(f64::from_le_bytes(self.array()?)),
            _ => return Err(bad(format!("its metadata contain a value of the unknown type {kind}"))),
        })
    }

    fn text(&mut self) -> io::Result<String> {
        let length = self.count(MAX_TEXT)?;
        let mut text = vec![0; usize::try_from(length).unwrap_or_default()];
        self.fill(&mut text)?;
        // Tokens need not be whole characters in every file; those of a byte-level vocabulary are.
        String::from_utf8(text).map_err(|_| bad("its metadata contain a string that is not UTF-8"))
    }

    fn count(&mut self, most: u64) -> io::Result<u64> {
        let count = u64::from_le_bytes(self.array()?);
        // Every element takes at least a byte.
        if count > most.min(self.left) { Err(bad(format!("a length of {count} is too large"))) } else { Ok(count) }
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.left = self.left.checked_sub(bytes.len() as u64).ok_or_else(|| bad("it ends too early"))?;
        self.file.read_exact(bytes)
    }
}

fn bad(reason: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(bytes: &[u8]) -> Result<Gguf, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        Gguf::open(file.path()).map_err(|error| error.to_string())
    }

    fn header(tensors: u64, entries: u64) -> Vec<u8> {
        [b"GGUF".as_slice(), &3_u32.to_le_bytes(), &tensors.to_le_bytes(), &entries.to_le_bytes()].concat()
    }

    fn text(text: &str) -> Vec<u8> {
        [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
    }

    #[test]
    fn metadata_and_tensors_are_read() {
        let mut bytes = header(1, 1);
        bytes.extend([text("width"), 4_u32.to_le_bytes().into(), 2_u32.to_le_bytes().into()].concat());
        bytes.extend([text("t"), 1_u32.to_le_bytes().into(), 2_u64.to_le_bytes().into()].concat());
        bytes.extend([&0_u32.to_le_bytes()[..], &0_u64.to_le_bytes()].concat());
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend([1.5_f32.to_le_bytes(), (-2.0_f32).to_le_bytes()].concat());
        let mut file = open(&bytes).unwrap();
        assert_eq!(file.integer("width").unwrap(), 2);
        let tensor = file.tensor("t", &[2], Device::Cpu).unwrap();
        assert_eq!(Vec::<f32>::try_from(tensor).unwrap(), [1.5, -2.0]);
        for (error, expected) in [
            (file.text("width").unwrap_err(), "width is not a string"),
            (file.float("height").unwrap_err(), "it has no height"),
            (file.tensor("u", &[2], Device::Cpu).unwrap_err(), "no tensor \"u\""),
            (file.tensor("t", &[3], Device::Cpu).unwrap_err(), "has the shape [2] instead of [3]"),
        ] {
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn a_damaged_file_is_an_error_and_allocates_nothing_large() {
        let mut endless = header(0, 1);
        endless.extend(u64::MAX.to_le_bytes());
        for (bytes, expected) in [
            (b"GG".to_vec(), "it ends too early"),
            (b"PK\x03\x04....".to_vec(), "it is not a GGUF file"),
            (header(0, 7)[..20].to_vec(), "it ends too early"),
            (header(0, 7), "too large"),
            (endless, "too large"),
        ] {
            let error = open(&bytes).unwrap_err();
            assert!(error.contains(expected) && error.contains("make models"), "{error}");
        }
    }
}
