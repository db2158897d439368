//! How much a run does, and what it found.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::mutants::Mutant;

/// How much a run does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scale {
    /// The counts of the table in `docs/reliability.md`, on servers that wait for the disk; else counts that run with
    /// the normal tests.
    pub full: bool,
    /// Where every random number of the run comes from.
    pub seed: u64,
    /// The product breaks this rule.
    pub mutant: Option<Mutant>,
}

impl Scale {
    /// The scale of the normal tests.
    pub fn small(seed: u64) -> Self {
        Self { full: false, seed, mutant: None }
    }

    /// The stated time for draining what the faults have left. A mutant that never drains is not waited for so long.
    pub fn patience(&self) -> Duration {
        Duration::from_secs(if self.mutant.is_some() { 10 } else { 30 })
    }

    /// One of the two counts.
    pub fn of<T>(&self, small: T, full: T) -> T {
        if self.full { full } else { small }
    }
}

/// What a run did and found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What was done, with the numbers as they came out.
    pub done: String,
    /// What was found.
    pub found: String,
    /// Each broken promise; empty when all held.
    pub violations: Vec<String>,
}

impl Finding {
    /// Two findings of one run as one.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.done = format!("{}; {}", self.done, other.done);
        self.found = format!("{}; {}", self.found, other.found);
        self.violations.extend(other.violations);
        self
    }

    /// For tests: fails with every violation.
    ///
    /// # Panics
    ///
    /// When a promise was broken.
    pub fn expect_none(&self) {
        assert!(self.violations.is_empty(), "{}: {}\n{}", self.done, self.found, self.violations.join("\n"));
    }
}
