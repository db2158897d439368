//! The benchmarks: each row of the table in `docs/performance.md` is one file under [`rows`].
//!
//! A row starts the product's release binaries on private servers ([`rig`]), drives them with a generator that costs a
//! small part of what it measures ([`load`]), and answers [`report::Line`]s. Where a limit of the hardware or of
//! PostgreSQL stands beside a figure, it is measured in the same repetition by plain SQL ([`plain`]). [`peers`] runs other
//! people's queues on the same machine.
#![allow(clippy::disallowed_methods)] // measures with the machine's clocks and waits for other processes

pub mod load;
pub mod machine;
pub mod peers;
pub mod plain;
pub mod process;
pub mod report;
pub mod rig;
pub mod rows;
pub mod stats;
pub mod types;

use std::time::Duration;

/// How much is done.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// Repetitions of each measurement.
    pub reps: usize,
    /// Small counts: shows that everything works, not how fast it is.
    pub quick: bool,
    /// Also what takes long: 5 million waiting, 10 million ended, ten minutes of an old snapshot.
    pub full: bool,
}

impl Scale {
    /// A count: the first for quick runs, else the second.
    pub fn of<T>(&self, quick: T, normal: T) -> T {
        if self.quick { quick } else { normal }
    }
}

/// How long anything may take before it counts as stuck.
pub const PATIENCE: Duration = Duration::from_secs(600);
