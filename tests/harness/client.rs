//! The client API of an endpoint, as a user would call it with curl.

use serde_json::{Value, json};

use crate::eventually;

/// States that a job does not leave.
pub const TERMINAL: [&str; 4] = ["COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"];

/// Talks to one endpoint.
#[derive(Clone, Debug)]
pub struct Client {
    base: String,
    http: reqwest::Client,
}

impl Client {
    /// `base` is the part before `/run`, such as `http://127.0.0.1:8000/v2/local`.
    pub fn new(base: &str) -> Self {
        Self { base: base.to_owned(), http: reqwest::Client::new() }
    }

    /// The URL of a path below the base.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// Submits a job and returns its id.
    ///
    /// # Panics
    /// When the endpoint does not accept it.
    pub async fn submit(&self, input: Value) -> String {
        self.submit_request(json!({ "input": input })).await
    }

    /// Submits a whole request, policy and all.
    ///
    /// # Panics
    /// When the endpoint does not accept it.
    pub async fn submit_request(&self, request: Value) -> String {
        let reply = self.post("/run", request).await;
        match reply["id"].as_str() {
            Some(id) => id.to_owned(),
            None => panic!("no id in {reply}"),
        }
    }

    /// The job's document.
    ///
    /// # Panics
    /// When the endpoint does not answer with JSON.
    pub async fn status(&self, id: &str) -> Value {
        self.get(&format!("/status/{id}")).await
    }

    /// Waits until the job has ended and returns its document.
    pub async fn finished(&self, id: &str) -> Value {
        eventually(&format!("the end of job {id}"), || async {
            let status = self.status(id).await;
            TERMINAL.contains(&status["status"].as_str().unwrap_or_default()).then_some(status)
        })
        .await
    }

    /// Waits until the job is in this state.
    pub async fn reaches(&self, id: &str, state: &str) -> Value {
        eventually(&format!("job {id} to be {state}"), || async {
            let status = self.status(id).await;
            (status["status"] == state).then_some(status)
        })
        .await
    }

    /// Submits a job and waits for its end.
    pub async fn run(&self, input: Value) -> Value {
        let id = self.submit(input).await;
        self.finished(&id).await
    }

    /// Submits a job on `/runsync`; the answer.
    pub async fn runsync(&self, input: Value) -> Value {
        self.post("/runsync", json!({ "input": input })).await
    }

    /// Asks again and again until the document below the base is as wanted.
    pub async fn get_when(&self, path: &str, is_as_wanted: impl Fn(&Value) -> bool) -> Value {
        eventually(&format!("{path} to change"), || async { Some(self.get(path).await).filter(&is_as_wanted) }).await
    }

    /// Cancels a job.
    pub async fn cancel(&self, id: &str) -> Value {
        self.post(&format!("/cancel/{id}"), Value::Null).await
    }

    /// All stream items of a job, until it has ended and none are left.
    pub async fn stream(&self, id: &str) -> Vec<Value> {
        let mut items = Vec::new();
        loop {
            let reply = self.get(&format!("/stream/{id}")).await;
            let new = reply["stream"].as_array().cloned().unwrap_or_default();
            let over = new.is_empty() && TERMINAL.contains(&reply["status"].as_str().unwrap_or_default());
            items.extend(new.into_iter().map(|item| item["output"].clone()));
            if over {
                return items;
            }
        }
    }

    /// The endpoint's health document.
    pub async fn health(&self) -> Value {
        self.get("/health").await
    }

    /// A GET below the base.
    ///
    /// # Panics
    /// When there is no JSON in the answer.
    pub async fn get(&self, path: &str) -> Value {
        let url = self.url(path);
        match self.http.get(&url).send().await {
            Ok(reply) => reply.json().await.unwrap_or_else(|error| panic!("GET {url}: {error}")),
            Err(error) => panic!("GET {url}: {error}"),
        }
    }

    /// A POST below the base.
    ///
    /// # Panics
    /// When there is no JSON in the answer.
    pub async fn post(&self, path: &str, body: Value) -> Value {
        let url = self.url(path);
        match self.http.post(&url).json(&body).send().await {
            Ok(reply) => reply.json().await.unwrap_or_else(|error| panic!("POST {url}: {error}")),
            Err(error) => panic!("POST {url}: {error}"),
        }
    }
}
