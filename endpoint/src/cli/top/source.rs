//! Reads the figures: from the console's documents, or from `/health` if the endpoint has no console.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::de::DeserializeOwned;

use super::super::http::{ClientError, Endpoint};
use super::documents::{Details, Health, Overview, Requests};
use super::model::status_named;

/// Where `top` reads from.
#[derive(Debug)]
pub(super) struct Source {
    endpoint: Endpoint,
    /// The address of the console's documents; `None` once the endpoint turns out to have none.
    console: Option<String>,
}

impl Source {
    pub(super) fn new(endpoint: Endpoint) -> Self {
        let console = endpoint.url().rsplit_once("/v2/").map(|(root, id)| format!("{root}/console/{id}"));
        Self { endpoint, console }
    }

    /// Everything for the overview.
    pub(super) async fn overview(&mut self, filter: &str) -> Result<Overview, ClientError> {
        if let Some(console) = &self.console {
            let query = match status_named(filter) {
                Some(status) => format!("status={}", status.name()),
                None => form_urlencoded::Serializer::new(String::new()).append_pair("id", filter).finish(),
            };
            match self.endpoint.get_at(&format!("{console}/overview?{query}")).await.and_then(|reply| parse(&reply)) {
                Err(error) if has_no_console(&error) => self.console = None,
                answer => return answer,
            }
        }
        let health: Health = parse(&self.endpoint.get("health").await?)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let counters = health.counters(u64::try_from(now.as_millis()).unwrap_or_default());
        let jobs = match self.endpoint.get("requests").await {
            Ok(reply) => parse::<Requests>(&reply)?.requests,
            // Not every endpoint lists its unfinished jobs.
            Err(ClientError::Refused { status: 404 | 405, .. }) => Vec::new(),
            Err(error) => return Err(error),
        };
        Ok(Overview { counters, jobs, ..Overview::default() })
    }

    pub(super) async fn details(&self, id: &str) -> Result<Details, ClientError> {
        let reply = match &self.console {
            Some(console) => self.endpoint.get_at(&format!("{console}/{}", Endpoint::job_path("jobs", id)?)).await?,
            None => self.endpoint.get(&Endpoint::job_path("status", id)?).await?,
        };
        parse(&reply)
    }

    pub(super) async fn cancel(&self, id: &str) -> Result<(), ClientError> {
        self.endpoint.post(&Endpoint::job_path("cancel", id)?, String::new()).await.map(drop)
    }
}

/// Whether a server without a console answers like this: a path that it does not know (400, 404), a method that it does not allow
/// there (405), a key that it does not accept there (401, 403), or another document.
fn has_no_console(error: &ClientError) -> bool {
    match error {
        ClientError::Refused { status, .. } => matches!(status, 400 | 404 | 405),
        ClientError::Unauthorized | ClientError::Reply(_) => true,
        _ => false,
    }
}

fn parse<T: DeserializeOwned>(reply: &str) -> Result<T, ClientError> {
    Ok(serde_json::from_str(reply)?)
}
