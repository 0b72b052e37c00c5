//! What the worker calls. Put your model here.

use runpod_handler_sdk::{Handler, HandlerError, Job, LoadEnv, NoChunks};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::nn::{self, Module};
use tch::{Kind, Tensor};

const FEATURES: i64 = 4;
const CLASSES: i64 = 3;

/// One slot's model.
pub struct MyHandler {
    variables: nn::VarStore,
    layer: nn::Linear,
}

/// A job's `input`. What its schema forbids is refused with the JSON path of every problem.
#[derive(Deserialize, JsonSchema)]
pub struct Input {
    /// Rows of 4 numbers.
    #[schemars(length(min = 1))]
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

impl Handler for MyHandler {
    type Input = Input;
    type Output = Output;
    type Chunk = NoChunks;

    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const IDEMPOTENT: bool = true;

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

    /// Called for every job. Errors and panics fail this job only.
    fn run(&mut self, input: Input, job: &Job<NoChunks>) -> Result<Output, HandlerError> {
        let mut probabilities = Vec::with_capacity(input.rows.len());
        for rows in input.rows.chunks(64) {
            job.stop_point()?; // the job ends here if it was cancelled or its deadline has passed
            probabilities.extend(self.predict(rows)?);
        }
        Ok(Output { probabilities })
    }
}

#[cfg(test)]
mod tests {
    use runpod_handler_sdk::ErrorKind;
    use runpod_handler_sdk::testing::Harness;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn probabilities_of_each_row_add_up_to_one() {
        let mut handler = Harness::load::<MyHandler>().unwrap();
        let done = handler
            .run(&json!({ "rows": [[0.1, 0.2, 0.3, 0.4], [1, 2, 3, 4]] }))
            .unwrap();
        let rows = done.output["probabilities"].as_array().unwrap();
        assert_eq!(rows.len(), 2);
        for row in rows {
            let sum: f64 = row
                .as_array()
                .unwrap()
                .iter()
                .filter_map(Value::as_f64)
                .sum();
            assert!((sum - 1.0).abs() < 1e-5, "{row}");
        }
    }

    #[test]
    fn bad_input_is_refused() {
        let mut handler = Harness::load::<MyHandler>().unwrap();
        for input in [
            json!({ "rows": [] }),
            json!({ "rows": [[1, 2]] }),
            json!({}),
        ] {
            assert_eq!(
                handler.run(&input).unwrap_err().kind(),
                Some(ErrorKind::Validation),
                "{input}"
            );
        }
    }
}
