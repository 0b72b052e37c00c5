//! What a transfer needs to know: its job, the settings and the clients.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use runpod_address_guard::{Lookup, system_lookup};

use super::http::Clients;
use super::settings::Settings;
use crate::file_error::FileError;
use crate::running_job::RunningJob;
use crate::stopped::Stopped;

/// How often a transfer asks whether its job must end.
const STOP_INTERVAL: Duration = Duration::from_millis(50);
/// Pauses before the second and the third try at a request that failed for a reason that may pass.
const PAUSES: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(1)];

/// What all transfers of the process share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) clients: Clients,
}

impl Shared {
    pub(crate) fn new(settings: Settings, lookup: Lookup) -> Result<Self, FileError> {
        let clients = Clients::new(&settings.reach, lookup)?;
        Ok(Self { settings, clients })
    }

    /// Of this process, by its environment.
    pub(crate) fn of_process() -> Result<Arc<Self>, FileError> {
        static SHARED: LazyLock<Result<Arc<Shared>, String>> = LazyLock::new(|| {
            let settings = Settings::from_environment(|name| std::env::var(name).ok());
            Shared::new(settings, system_lookup()).map(Arc::new).map_err(|error| error.to_string())
        });
        SHARED.clone().map_err(FileError::Machine)
    }
}

/// One job's transfers.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub(crate) running: Arc<RunningJob>,
    pub(crate) shared: Arc<Shared>,
}

impl Context {
    /// Runs `transfer` until it ends or its job must end. A transfer that is given up removes what it has begun.
    pub(crate) async fn until_stopped<T>(
        &self,
        transfer: impl Future<Output = Result<T, FileError>>,
    ) -> Result<T, FileError> {
        tokio::select! {
            biased;
            outcome = transfer => outcome,
            stopped = self.stopped() => Err(stopped.into()),
        }
    }

    async fn stopped(&self) -> Stopped {
        loop {
            if let Some(stopped) = self.running.stopped() {
                return stopped;
            }
            tokio::time::sleep(STOP_INTERVAL).await;
        }
    }
}

/// Makes up to three tries, as long as the error is one that may pass.
pub(crate) async fn tries<T, E, F: Future<Output = Result<T, E>>>(
    attempt: impl Fn() -> F,
    may_pass: impl Fn(&E) -> bool,
) -> Result<T, E> {
    for pause in PAUSES {
        match attempt().await {
            Err(error) if may_pass(&error) => tokio::time::sleep(pause).await,
            outcome => return outcome,
        }
    }
    attempt().await
}

/// Whether a status says that another try may succeed.
pub(crate) fn may_pass(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502..=504)
}
