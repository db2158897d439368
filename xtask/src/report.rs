//! One line per part with its duration and a verdict, and the sum at the end.

use std::{process::ExitCode, time::Instant};

use anyhow::Result;

/// How many tests a part ran.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Count {
    /// Tests that held.
    pub(crate) passed: u64,
    /// Tests that did not.
    pub(crate) failed: u64,
}

impl Count {
    /// A part that is one test by itself.
    pub(crate) const ONE: Self = Self { passed: 1, failed: 0 };

    /// Adds what one line of cargo's output says, if it is a `test result:` line.
    pub(crate) fn add_line(&mut self, line: &str) {
        let Some((_, counts)) = line.split_once("test result: ") else { return };
        let number = |word: &str| -> u64 {
            counts
                .split([';', '.'])
                .filter_map(|part| part.trim().strip_suffix(word))
                .find_map(|number| number.trim().parse().ok())
                .unwrap_or(0)
        };
        self.passed += number(" passed");
        self.failed += number(" failed");
    }
}

/// What the parts so far came to.
#[derive(Default)]
pub(crate) struct Report {
    lines: Vec<String>,
    total: Count,
}

impl Report {
    /// Runs a part; an error in it is a failure of the part, not the end of the run.
    pub(crate) fn part(&mut self, name: &str, part: impl FnOnce() -> Result<Count>) -> bool {
        println!("\n── {name}");
        let started = Instant::now();
        let count = part().unwrap_or_else(|error| {
            println!("{error:#}");
            Count { passed: 0, failed: 1 }
        });
        self.record(name, started.elapsed().as_secs_f64(), count)
    }

    fn record(&mut self, name: &str, seconds: f64, count: Count) -> bool {
        let verdict = if count.failed == 0 { "ok" } else { "FAILED" };
        let line = format!(
            "{name:<40} {seconds:>7.1} s   {:>5} passed {:>3} failed   {verdict}",
            count.passed, count.failed
        );
        println!("{line}");
        self.lines.push(line);
        self.total.passed += count.passed;
        self.total.failed += count.failed;
        count.failed == 0
    }

    /// Prints every part again and, alone on the last line, the sum.
    pub(crate) fn finish(self) -> ExitCode {
        println!("\n── summary");
        for line in &self.lines {
            println!("{line}");
        }
        println!("{} passed, {} failed", self.total.passed, self.total.failed);
        if self.total.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_added_and_others_are_not() {
        let mut count = Count::default();
        for line in [
            "running 3 tests",
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.01s",
            "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.20s",
            "5 passed; 5 failed",
        ] {
            count.add_line(line);
        }
        assert_eq!(count, Count { passed: 15, failed: 2 });
    }

    #[test]
    fn a_part_that_cannot_run_is_a_failure_and_the_next_one_still_runs() {
        let mut report = Report::default();
        assert!(!report.part("broken", || anyhow::bail!("no such tool")));
        assert!(report.part("sound", || Ok(Count::ONE)));
        assert_eq!(report.total, Count { passed: 1, failed: 1 });
        assert_eq!(report.lines.len(), 2);
    }
}
