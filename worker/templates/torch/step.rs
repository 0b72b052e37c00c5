//! What the worker calls. Put your model here.

use runpod_handler_sdk::{HandlerError, Job, LoadEnv, NoChunks, Running, StepHandler, StepLimits};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::nn::{self, Module};
use tch::{Kind, Tensor};

const FEATURES: i64 = 4;
const CLASSES: i64 = 3;

/// One model.
pub struct MyHandler {
    variables: nn::VarStore,
    layer: nn::Linear,
}

/// A job's `input`. What its schema forbids is refused with the JSON path of every problem.
#[derive(Deserialize, JsonSchema)]
pub struct Input {
    /// Rows of 4 numbers.
    #[schemars(length(min = 1, max = 1024))]
    rows: Vec<[f32; FEATURES as usize]>,
}

/// A job's `output`.
#[derive(Serialize, JsonSchema)]
pub struct Output {
    /// For each row the probability of each class.
    probabilities: Vec<Vec<f32>>,
}

/// What the model keeps of one running job. A decoder keeps its tokens and its KV cache.
pub struct Sequence {
    rows: Vec<[f32; FEATURES as usize]>,
    probabilities: Vec<Vec<f32>>,
}

impl MyHandler {
    fn predict(&self, rows: &[[f32; FEATURES as usize]]) -> Result<Vec<Vec<f32>>, HandlerError> {
        let batch = Tensor::from_slice(rows.as_flattened())
            .view([-1, FEATURES])
            .to_device(self.variables.device());
        let probabilities = self.layer.forward(&batch).softmax(-1, Kind::Float);
        Ok(Vec::<Vec<f32>>::try_from(probabilities)?)
    }
}

impl StepHandler for MyHandler {
    type Input = Input;
    type Output = Output;
    type Chunk = NoChunks;
    type Sequence = Sequence;

    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const IDEMPOTENT: bool = true;

    /// The most that runs at the same time. The worker takes that many jobs without a flag.
    fn limits() -> StepLimits {
        StepLimits::running(32).cost(32 * 1024)
    }

    /// What a job counts against the cost limit. A decoder counts the tokens that its cache will hold.
    fn cost(input: &Input) -> u64 {
        input.rows.len() as u64
    }

    /// Called once, before the first job, on the device that `--device auto|cpu|cuda` chose.
    fn load(env: &LoadEnv) -> Result<Self, HandlerError> {
        let variables = nn::VarStore::new(env.device()?);
        let layer = nn::linear(
            variables.root() / "layer",
            FEATURES,
            CLASSES,
            nn::LinearConfig::default(),
        );
        // Real weights: runpod_handler_sdk::torch::load_safetensors(&variables, "weights/model.safetensors", env)?;
        Ok(Self { variables, layer })
    }

    /// The first pass through a model allocates; no job should pay for it.
    fn warm_up(&mut self) -> Result<(), HandlerError> {
        self.predict(&[[0.0; FEATURES as usize]])?;
        Ok(())
    }

    /// Called when a job joins. What can fail for one job alone belongs here.
    fn admit(&mut self, input: Input, _job: &Job<NoChunks>) -> Result<Sequence, HandlerError> {
        Ok(Sequence {
            rows: input.rows,
            probabilities: Vec::new(),
        })
    }

    /// Advances all running jobs by one row, in one pass through the model. Jobs join and leave between two steps.
    fn step(&mut self, running: &mut [Running<Self>]) -> Result<(), HandlerError> {
        let row = |one: &Running<Self>| one.sequence.rows[one.sequence.probabilities.len()];
        let rows: Vec<_> = running.iter().map(row).collect();
        for (one, probabilities) in running.iter_mut().zip(self.predict(&rows)?) {
            one.sequence.probabilities.push(probabilities);
            if one.sequence.probabilities.len() == one.sequence.rows.len() {
                let probabilities = std::mem::take(&mut one.sequence.probabilities);
                one.finish(Output { probabilities });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use runpod_handler_sdk::ErrorKind;
    use runpod_handler_sdk::testing::Harness;
    use serde_json::json;

    use super::*;

    #[test]
    fn each_job_gets_a_result_for_each_of_its_rows() {
        let mut handler = Harness::load_step::<MyHandler>().unwrap();
        let (one, two) = (json!([[1, 2, 3, 4]]), json!([[0, 0, 0, 0], [1, 2, 3, 4]]));
        let inputs = [json!({ "rows": one }), json!({ "rows": two })];
        let results = handler.run_all(&inputs).unwrap();
        let lengths = results.iter().map(|result| {
            let output = &result.as_ref().unwrap().output;
            output["probabilities"].as_array().unwrap().len()
        });
        assert_eq!(lengths.collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn bad_input_is_refused() {
        let mut handler = Harness::load_step::<MyHandler>().unwrap();
        for input in [json!({ "rows": [] }), json!({ "rows": [[1, 2]] })] {
            let error = handler.run(&input).unwrap_err();
            assert_eq!(error.kind(), Some(ErrorKind::Validation), "{input}");
        }
    }
}
