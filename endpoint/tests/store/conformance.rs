//! What every store must do.

mod delivery;
mod endpoints;
mod results;
