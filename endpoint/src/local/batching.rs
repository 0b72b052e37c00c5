//! The batches of a handler process, or its steps.

use serde::{Deserialize, Serialize};

/// What a handler process runs at once, with the field names of `runpod-worker`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Batching {
    /// Most jobs that a model runs at once.
    pub max_jobs: u32,
    /// Most cost of the jobs that run at once, as configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_cost: Option<u64>,
    /// The same now: less after running out of memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<u64>,
    /// Jobs in user code.
    pub running: u64,
    /// Jobs that wait in the process.
    pub waiting: u64,
    /// Jobs in a batch on average.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_batch: Option<f64>,
    /// The last batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_batch: Option<LastBatch>,
    /// Only of a handler that runs step by step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<Steps>,
}

/// A batch.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LastBatch {
    /// Jobs in it.
    pub jobs: u32,
    /// Why it had no more.
    pub closed_by: String,
}

/// Steps that advance all running jobs at once.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Steps {
    /// The latest rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_second: Option<f64>,
    /// Jobs that a step advanced on average.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_jobs: Option<f64>,
}

impl Batching {
    /// One line for people, such as `16 of 32 running, 8 waiting, batches of 12.4, last 16 (full), budget 2048 of 4096`.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut parts = vec![format!("{} of {} running", self.running, self.max_jobs)];
        if self.waiting > 0 {
            parts.push(format!("{} waiting", self.waiting));
        }
        if let Some(mean) = self.mean_batch {
            parts.push(format!("batches of {mean:.1}"));
        }
        if let Some(LastBatch { jobs, closed_by }) = &self.last_batch {
            parts.push(format!("last {jobs} ({})", closed_by.replace('_', " ")));
        }
        if let Some(Steps { per_second: Some(rate), .. }) = self.steps {
            parts.push(format!("{rate:.0} steps/s"));
        }
        match (self.budget, self.max_cost) {
            (Some(budget), Some(max)) if budget < max => parts.push(format!("budget {budget} of {max}")),
            (Some(budget), _) => parts.push(format!("budget {budget}")),
            _ => {}
        }
        parts.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn summary(document: serde_json::Value) -> String {
        serde_json::from_value::<Batching>(document).unwrap().summary()
    }

    #[test]
    fn the_summary_has_what_is_known() {
        assert_eq!(summary(json!({"maxJobs": 32, "running": 0, "waiting": 0})), "0 of 32 running");
        let batches = json!({
            "maxJobs": 32, "maxCost": 4096, "budget": 2048, "running": 16, "waiting": 8, "batches": 3,
            "meanBatch": 12.38, "lastBatch": {"jobs": 16, "cost": 1990, "closedBy": "wait_over"},
        });
        assert_eq!(
            summary(batches),
            "16 of 32 running, 8 waiting, batches of 12.4, last 16 (wait over), budget 2048 of 4096"
        );
        let steps = json!({
            "maxJobs": 8, "budget": 512, "maxCost": 512, "running": 3, "waiting": 0,
            "steps": {"total": 900, "perSecond": 41.7, "meanJobs": 3.2},
        });
        assert_eq!(summary(steps), "3 of 8 running, 42 steps/s, budget 512");
    }
}
