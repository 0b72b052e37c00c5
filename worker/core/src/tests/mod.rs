//! Tests of the state machines: a table of named situations and random sequences with invariants.

mod crashes;
mod invariants;
mod observed;
mod properties;
mod situations;
mod throttle;
mod upkeep;
mod world;
