//! Configuration and wiring: which adapter stands behind which port, and how a process starts, serves and drains.
//!
//! The three binaries are thin: `task-runner` (everything in one process, and the command line), `task-runner-api`
//! and `task-runner-worker`. A Rust program with task types of its own starts the same way, see [`process::Process`], or
//! has the runner inside itself, see [`embedded::Embedded`]; `bin/examples` shows both.

pub mod client;
pub mod config;
pub mod doctor;
pub mod embedded;
pub mod logs;
mod memory;
pub mod process;
pub mod say;
pub mod wiring;
