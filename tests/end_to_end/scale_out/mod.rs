//! Endpoints that share one queue, on hosts of their own: three databases, two replicas, workers and clients in network namespaces,
//! of which everything can be killed and every link be cut.

mod clients;
mod cuts;
mod failures;
mod history;
mod patroni;
mod site;
mod soak;
