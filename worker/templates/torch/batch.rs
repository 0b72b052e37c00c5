//! What the worker calls. Put your model here.

use runpod_handler_sdk::{BatchHandler, BatchItem, BatchLimits, HandlerError, LoadEnv, NoChunks};
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

impl MyHandler {
    fn predict(&self, rows: &[[f32; FEATURES as usize]]) -> Result<Vec<Vec<f32>>, HandlerError> {
        let batch = Tensor::from_slice(rows.as_flattened())
            .view([-1, FEATURES])
            .to_device(self.variables.device());
        let probabilities = self.layer.forward(&batch).softmax(-1, Kind::Float);
        Ok(Vec::<Vec<f32>>::try_from(probabilities)?)
    }
}

impl BatchHandler for MyHandler {
    type Input = Input;
    type Output = Output;
    type Chunk = NoChunks;

    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const IDEMPOTENT: bool = true;

    /// The most that one batch may hold. The worker takes that many jobs without a flag.
    fn limits() -> BatchLimits {
        BatchLimits::items(32).cost(1024)
    }

    /// What a job counts against the cost of a batch.
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

    /// Called with the jobs that wait. One pass through the model for all; one result for each, in the same order.
    fn run_batch(
        &mut self,
        items: &[BatchItem<Input, NoChunks>],
    ) -> Result<Vec<Result<Output, HandlerError>>, HandlerError> {
        let rows: Vec<_> = items
            .iter()
            .flat_map(|item| &item.input.rows)
            .copied()
            .collect();
        let mut predicted = self.predict(&rows)?.into_iter();
        let outputs = items.iter().map(|item| {
            let probabilities = predicted.by_ref().take(item.input.rows.len()).collect();
            Ok(Output { probabilities })
        });
        Ok(outputs.collect())
    }
}

#[cfg(test)]
mod tests {
    use runpod_handler_sdk::ErrorKind;
    use runpod_handler_sdk::testing::Harness;
    use serde_json::json;

    use super::*;

    #[test]
    fn each_job_gets_its_own_rows() {
        let mut handler = Harness::load_batch::<MyHandler>().unwrap();
        let (one, two) = (json!([[1, 2, 3, 4]]), json!([[0, 0, 0, 0], [1, 2, 3, 4]]));
        let inputs = [json!({ "rows": one }), json!({ "rows": two })];
        let results = handler.run_all(&inputs).unwrap();
        let outputs: Vec<_> = results
            .into_iter()
            .map(|result| result.unwrap().output["probabilities"].clone())
            .collect();
        let lengths = outputs.iter().map(|rows| rows.as_array().unwrap().len());
        assert_eq!(lengths.collect::<Vec<_>>(), [1, 2]);
        let difference = outputs[0][0][0].as_f64().unwrap() - outputs[1][1][0].as_f64().unwrap();
        assert!(difference.abs() < 1e-5, "{outputs:?}");
    }

    #[test]
    fn bad_input_is_refused() {
        let mut handler = Harness::load_batch::<MyHandler>().unwrap();
        for input in [json!({ "rows": [] }), json!({ "rows": [[1, 2]] })] {
            let results = handler.run_all(std::slice::from_ref(&input)).unwrap();
            let error = results[0].as_ref().unwrap_err();
            assert_eq!(error.kind(), Some(ErrorKind::Validation), "{input}");
        }
    }
}
