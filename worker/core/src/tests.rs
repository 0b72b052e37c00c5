//! Tests of the core: a table of named situations, and random sequences with invariants.

mod batches;
mod crashes;
mod gpu_slowdown;
mod invariants;
mod properties;
mod situations;
mod status;
mod upkeep;
mod world;
