//! Who this worker is.

/// Names that go into URLs, heartbeats, error payloads and logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// `RUNPOD_POD_ID`, or a random id.
    pub worker_id: String,
    /// `RUNPOD_POD_HOSTNAME`, or `unknown` as in RunPod's SDK.
    pub hostname: String,
    /// `RUNPOD_ENDPOINT_ID`; set on the platform.
    pub endpoint_id: Option<String>,
}
