//! What the task runner does, over ports: the use cases, the worker loop and the built-in task types.
//!
//! **Architecture invariant:** nothing here knows SQL, Redis or HTTP, and nothing reads the environment or a wall clock.
//!
//! Data flows one way: [`tasks::Tasks`] submits to the store and announces; the [`worker::Worker`] claims, runs a
//! handler from the [`registry::Registry`], records and settles; readers come back through [`tasks::Tasks`].
//! [`upkeep::Upkeep`] runs in every process and picks up what a dead one left behind.

mod board;
pub mod combine;
pub mod fleet;
mod flows;
pub mod handler;
pub mod in_process;
pub mod inbox;
#[cfg(any(test, feature = "memory-store"))]
pub mod memory;
mod ordering;
pub mod ports;
pub mod providers;
pub mod queues;
pub mod registry;
pub mod schedules;
pub mod task_types;
pub mod tasks;
#[cfg(test)]
pub(crate) mod testing;
pub mod upkeep;
pub mod worker;
