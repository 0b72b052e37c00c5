//! The endpoint and the unmodified official clients and worker. [`checklist`] lists the tests of each
//! statement about endpoints.

mod checklist;
mod clients;
mod hooks;
mod workers;
