//! Tests of the core: a table of named situations, and random sequences with invariants.

mod batch_reports;
mod batches;
mod crashes;
mod gpu_slowdown;
mod invariants;
mod properties;
mod shutdown;
mod situations;
mod status;
mod stops;
mod upkeep;
mod world;
