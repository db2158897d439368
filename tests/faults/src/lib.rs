//! The fault rig: what `docs/reliability.md` promises, tried with kills, freezes, restarts and outages.
//!
//! A run (`runs/tNN.rs`, one file per test of the table) starts real processes through [`rig::Rig`]: PostgreSQL, Redis
//! and `faults-node`, which is the product's own process with task types that tell what they do ([`types`]). Three
//! sources say what happened: the clients' and the handlers' fsynced histories ([`history`]) and a table that triggers
//! write with every change of a task ([`transitions`]). One pure function, [`checker::check`], reads all three and
//! names each broken promise. [`proxy`] stands on the links that a run breaks. The checker is itself held by [`mutants`]: products that break one rule each, which it must catch.
//!
//! Every number of a run comes from its seed; [`scale::Scale`] says how much is done.
#![allow(clippy::disallowed_methods)] // tests may read the environment and wait for other processes

pub mod checker;
pub mod client;
pub mod history;
pub mod mutants;
pub mod proxy;
pub mod rig;
pub mod runs;
pub mod scale;
pub mod transitions;
pub mod types;

pub use rig::{Base, Node, Rig};
pub use scale::{Finding, Scale};
