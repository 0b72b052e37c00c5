//! Formats in which a GGUF file stores numbers, and their conversion to 32-bit floats.
//!
//! A quantized format divides a tensor into blocks of 32 numbers. Each block has a scale as 16-bit float, and small integers.

use tch::{Kind, TchError, Tensor};

/// Numbers in a block.
const BLOCK: i64 = 32;

/// A format of numbers. llama.cpp calls it a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// Four bits a number: scale, minimum, then 16 bytes. The low halves are the first 16 numbers, the high halves the others.
    Q4_1,
    /// Eight bits a number: scale, then 32 signed bytes.
    Q8_0,
}

impl Format {
    pub(crate) fn from_code(code: u32) -> Option<Self> {
        match code {
            0 => Some(Self::F32),
            1 => Some(Self::F16),
            3 => Some(Self::Q4_1),
            8 => Some(Self::Q8_0),
            _ => None,
        }
    }

    /// Bytes that this many numbers take; `None` if they are no whole blocks.
    pub(crate) fn bytes(self, numbers: i64) -> Option<u64> {
        let (block, bytes) = match self {
            Self::F32 => (1, 4),
            Self::F16 => (1, 2),
            Self::Q4_1 => (BLOCK, 20),
            Self::Q8_0 => (BLOCK, 34),
        };
        (numbers % block == 0).then(|| (numbers / block * bytes).unsigned_abs())
    }

    /// The numbers of a tensor. `data` has the length that [`bytes`](Self::bytes) says.
    pub(crate) fn to_floats(self, data: &[u8], shape: &[i64]) -> Result<Tensor, TchError> {
        match self {
            Self::F32 => Tensor::f_from_data_size(data, shape, Kind::Float),
            Self::F16 => Tensor::f_from_data_size(data, shape, Kind::Half)?.f_to_kind(Kind::Float),
            Self::Q4_1 => {
                let blocks = Blocks::new(data, 20)?;
                let halves = blocks.bytes(4, 16)?;
                let (low, high) = (halves.f_bitwise_and(15)?, halves.f_bitwise_right_shift_tensor_scalar(4)?);
                let numbers = Tensor::f_cat(&[low, high], 1)?.f_to_kind(Kind::Float)?;
                numbers.f_mul(&blocks.half(0)?)?.f_add(&blocks.half(2)?)?.f_reshape(shape)
            }
            Self::Q8_0 => {
                let blocks = Blocks::new(data, 34)?;
                let numbers = blocks.bytes(2, BLOCK)?.f_view_dtype(Kind::Int8)?.f_to_kind(Kind::Float)?;
                numbers.f_mul(&blocks.half(0)?)?.f_reshape(shape)
            }
        }
    }
}

/// The blocks of a tensor, one a row.
struct Blocks(Tensor);

impl Blocks {
    fn new(data: &[u8], bytes: i64) -> Result<Self, TchError> {
        Ok(Self(Tensor::f_from_data_size(data, &[data.len() as i64 / bytes, bytes], Kind::Uint8)?))
    }

    fn bytes(&self, start: i64, length: i64) -> Result<Tensor, TchError> {
        self.0.f_narrow(1, start, length)?.f_contiguous()
    }

    /// The 16-bit float at this byte of each block.
    fn half(&self, start: i64) -> Result<Tensor, TchError> {
        self.bytes(start, 2)?.f_view_dtype(Kind::Half)?.f_to_kind(Kind::Float)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 0.5 and -1 as 16-bit floats.
    const HALF: [u8; 2] = [0x00, 0x38];
    const MINUS_ONE: [u8; 2] = [0x00, 0xbc];

    fn floats(format: Format, data: &[u8]) -> Vec<f32> {
        Vec::try_from(format.to_floats(data, &[BLOCK]).unwrap()).unwrap()
    }

    #[test]
    fn four_bit_blocks_have_a_scale_and_a_minimum() {
        let nibbles: Vec<u8> = (0..16_u8).map(|i| i | ((15 - i) << 4)).collect();
        let numbers = floats(Format::Q4_1, &[&HALF[..], &MINUS_ONE, &nibbles].concat());
        assert_eq!(numbers[..3], [-1.0, -0.5, 0.0]);
        assert_eq!(numbers[16..19], [6.5, 6.0, 5.5]);
    }

    #[test]
    fn eight_bit_blocks_are_signed() {
        let bytes: Vec<u8> = (0..32_i8).map(|i| (i - 16).cast_unsigned()).collect();
        let numbers = floats(Format::Q8_0, &[&HALF[..], &bytes].concat());
        assert_eq!(numbers[..2], [-8.0, -7.5]);
        assert_eq!(numbers[31], 7.5);
    }

    #[test]
    fn a_tensor_consists_of_whole_blocks() {
        assert_eq!(Format::Q4_1.bytes(64), Some(40));
        assert_eq!(Format::Q8_0.bytes(33), None);
        assert_eq!(Format::F32.bytes(3), Some(12));
        assert_eq!(Format::F16.bytes(3), Some(6));
        assert_eq!(Format::from_code(2), None);
    }
}
