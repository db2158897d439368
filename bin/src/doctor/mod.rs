//! `task-runner doctor`: looks for what keeps tasks from running, from the configuration and through the API, and says what
//! to do about it.

mod direct;
mod through_api;

use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

use crate::{client::Server, config::Config, say};

/// Which server.
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    server: Server,
    /// The findings as JSON, for scripts.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Good,
    /// Worth a look; tasks run all the same.
    Doubtful,
    /// It keeps tasks from running, or the product from working.
    Wrong,
}

impl Verdict {
    fn as_str(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Doubtful => "look",
            Self::Wrong => "WRONG",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    verdict: Verdict,
    /// What was looked at, in a word.
    part: &'static str,
    /// What was found.
    found: String,
    /// What to do; empty where all is well.
    remedy: String,
}

fn good(part: &'static str, found: impl Into<String>) -> Finding {
    Finding { verdict: Verdict::Good, part, found: found.into(), remedy: String::new() }
}

fn doubtful(part: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { verdict: Verdict::Doubtful, part, found: found.into(), remedy: remedy.into() }
}

fn wrong(part: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { verdict: Verdict::Wrong, part, found: found.into(), remedy: remedy.into() }
}

/// Looks at everything and prints what it found. Fails when something is wrong.
pub async fn doctor(args: DoctorArgs, config: Result<Config>) -> Result<ExitCode> {
    let mut findings = Vec::new();
    match config {
        Ok(config) => findings.extend(direct::look(&config).await),
        Err(error) => findings.push(wrong(
            "configuration",
            format!("{error:#}"),
            "correct it; `task-runner config` shows every key with its source",
        )),
    }
    findings.extend(through_api::look(&args.server.api()?).await);
    let wrong = findings.iter().filter(|finding| finding.verdict == Verdict::Wrong).count();
    if args.json {
        let all: Vec<_> = findings
            .iter()
            .map(|finding| {
                json!({ "verdict": finding.verdict.as_str().to_lowercase(), "part": finding.part,
                    "found": finding.found, "remedy": finding.remedy })
            })
            .collect();
        say!("{:#}", json!({ "healthy": wrong == 0, "findings": all }));
    } else {
        for Finding { verdict, part, found, remedy } in &findings {
            say!("{:<6} {part:<14} {found}", verdict.as_str());
            if !remedy.is_empty() {
                say!("{:<21} → {remedy}", "");
            }
        }
        match wrong {
            0 => say!("nothing is wrong"),
            1 => say!("one thing is wrong"),
            n => say!("{n} things are wrong"),
        }
    }
    Ok(if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// How far somebody else's clock is ahead of this machine's, in seconds. Nothing is decided by it.
#[allow(clippy::disallowed_methods)]
fn ahead_of_here(theirs: domain::Timestamp) -> f64 {
    let here: domain::Timestamp = std::time::SystemTime::now().into();
    (theirs - here).num_milliseconds() as f64 / 1000.0
}

/// What is to be said of such a difference, if anything.
fn judge_clock(part: &'static str, whose: &str, ahead: f64) -> Option<Finding> {
    let side = if ahead > 0.0 { "ahead of" } else { "behind" };
    (ahead.abs() > 5.0).then(|| {
        doubtful(
            part,
            format!("{whose} clock is {:.0} s {side} this machine's", ahead.abs()),
            "synchronise the clocks (NTP): leases and due times go by the store's",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_far_off_is_named_with_its_side() {
        assert_eq!(judge_clock("store", "the store's", 2.0), None);
        for (ahead, side) in [(60.0, "60 s ahead of"), (-60.0, "60 s behind")] {
            let finding = judge_clock("store", "the store's", ahead).expect("far off");
            assert!(finding.found.contains(side), "{finding:?}");
        }
    }
}
