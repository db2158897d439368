//! The task store on SQLite, for one process.
//!
//! [`SqliteStore::open`] takes the database for itself: another process that opens it is refused, and workers of an
//! earlier one count as dead. All changes go through one writer ([`writer`]), which commits what has queued up in one
//! transaction; reads go to a few connections of their own. Each verb has its file, with its SQL beside it.

mod attempts;
mod cancel;
mod claim;
mod clock;
mod delete;
mod ending;
mod error;
mod failed;
mod fair;
mod fire;
mod fleet;
mod flow;
mod follow;
mod lane;
mod list;
mod once;
mod open;
#[cfg(test)]
mod plans;
mod ports;
mod queue;
mod quotas;
mod read;
mod record;
mod reprioritise;
mod retention;
mod retry;
mod rows;
mod runs;
mod schedule;
mod settle;
mod store;
mod submit;
mod tally;
mod upkeep;
mod usage;
mod workers;
mod writer;

pub use open::{OpenError, SqliteOptions};
pub use store::SqliteStore;
