//! The endpoint and the unmodified official clients and worker. [`checklist`] says where each statement about endpoints is tested.

mod checklist;
mod clients;
mod workers;
