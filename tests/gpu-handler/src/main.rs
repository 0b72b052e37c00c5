//! A test handler that exhausts or breaks its device: a GPU, or the CPU as far as that is possible.

use std::process::ExitCode;

use runpod_handler_sdk::torch::memory::stats;
use runpod_handler_sdk::{Handler, HandlerError, Job, LoadEnv, NoChunks, serve};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

/// Number of floats of a tensor that is too large for any device.
const TOO_MANY: i64 = 1 << 45;
/// Rows and columns of a matrix that is large enough to keep a device busy.
const SIDE: i64 = 2048;

/// What a job does.
#[derive(Deserialize, JsonSchema)]
#[serde(tag = "do", rename_all = "snake_case")]
enum Do {
    /// Fills this much device memory and frees it.
    Hold { bytes: i64 },
    /// Allocates more memory than the device has.
    Oom,
    /// Reads beyond the end of a tensor inside a kernel. On a GPU the context is lost after that.
    OutOfBounds,
    /// Computes for ever, and ignores a cancel.
    Endless,
}

/// The process and the device of the job, and the device's memory at its end.
#[derive(Serialize, JsonSchema)]
struct Done {
    pid: u32,
    device: String,
    /// Bytes; absent without a GPU.
    allocated: Option<u64>,
    free: Option<u64>,
}

struct Greedy {
    device: Device,
}

impl Handler for Greedy {
    type Input = Do;
    type Output = Done;
    type Chunk = NoChunks;

    fn load(env: &LoadEnv) -> Result<Self, HandlerError> {
        Ok(Self { device: env.device()? })
    }

    /// The first kernel creates the context, which takes memory of its own.
    fn warm_up(&mut self) -> Result<(), HandlerError> {
        Tensor::f_ones([1], (Kind::Float, self.device))?.f_double_value(&[0])?;
        Ok(())
    }

    fn run(&mut self, input: Do, _: &Job<NoChunks>) -> Result<Done, HandlerError> {
        match input {
            Do::Hold { bytes } => {
                let held = Tensor::f_ones([bytes], (Kind::Uint8, self.device))?;
                held.f_int64_value(&[bytes - 1])?;
            }
            Do::Oom => drop(Tensor::f_empty([TOO_MANY], (Kind::Float, self.device))?),
            Do::OutOfBounds => {
                let index = Tensor::f_full([1], 1_000_000, (Kind::Int64, self.device))?;
                let few = Tensor::f_ones([8], (Kind::Float, self.device))?;
                few.f_index_select(0, &index)?.f_double_value(&[0])?;
            }
            Do::Endless => {
                let matrix = Tensor::f_ones([SIDE, SIDE], (Kind::Float, self.device))?;
                loop {
                    drop(matrix.f_matmul(&matrix)?);
                }
            }
        }
        let figures = stats(self.device);
        Ok(Done {
            pid: std::process::id(),
            device: format!("{:?}", self.device),
            allocated: figures.map(|figures| figures.allocated),
            free: figures.map(|figures| figures.free),
        })
    }
}

fn main() -> ExitCode {
    serve::<Greedy>()
}
