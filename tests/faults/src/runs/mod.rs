//! The runs, one file per test of the table in `docs/reliability.md`. Each can be run alone.

pub mod common;
pub mod histories;
pub mod probes;
pub mod t01;
pub mod t02;
pub mod t03;
pub mod t04;
pub mod t06;
pub mod t07;
pub mod t08;
pub mod t09;
pub mod t10;
pub mod t12;
pub mod t13;
pub mod t14;
pub mod t15;
pub mod t17;
pub mod t18;

use std::{future::Future, panic::AssertUnwindSafe, pin::Pin};

use anyhow::{Context as _, Result};
use futures_util::FutureExt as _;

use crate::{
    mutants::Mutant,
    scale::{Finding, Scale},
};

/// What a run answers.
pub type Running = Pin<Box<dyn Future<Output = Result<Finding>>>>;

/// A test of the table.
#[derive(Clone, Copy)]
pub struct Run {
    /// Such as `T1`.
    pub name: &'static str,
    /// What is done, in few words.
    pub what: &'static str,
    /// Does it.
    pub start: fn(Scale) -> Running,
}

macro_rules! runs {
    ($($name:literal $what:literal $module:ident),+ $(,)?) => {
        &[$(Run { name: $name, what: $what, start: |scale| Box::pin(async move { $module::run(&scale).await }) }),+]
    };
}

/// Every run, in the order of the table.
pub const ALL: &[Run] = runs![
    "histories" "random histories on PostgreSQL and in memory at once" histories,
    "T1" "kill -9 of workers, and of the one process on SQLite" t01,
    "T2" "SIGSTOP for three leases, then CONT, on 8 workers at once" t02,
    "T3" "kill -9 of the API during submissions, and of the one process on SQLite" t03,
    "T4" "kill -9 of PostgreSQL, and cuts between a COMMIT and its answer" t04,
    "T6" "Redis flushed, killed, stale, out of memory, and away" t06,
    "T7" "black holes on every link" t07,
    "T8" "requests dropped at random moments" t08,
    "T9" "clocks that jump" t09,
    "T10" "PostgreSQL's disk full, then freed" t10,
    "T12" "schedules on processes that are killed, and through daylight saving" t12,
    "T13" "cancel against complete against take-over" t13,
    "T14" "a task that kills its process, among innocents" t14,
    "T15" "rolling restarts under load" t15,
    "T17" "many readers of live events, some of them stalled" t17,
    "T18" "20,000 tasks in flight on one worker" t18,
];

impl Run {
    /// Does it; an error or a panic of the run is a violation like any other.
    pub async fn finding(&self, scale: Scale) -> Finding {
        let failure = |why: String| Finding {
            done: self.what.to_owned(),
            found: "the run did not end".to_owned(),
            violations: vec![why],
        };
        match AssertUnwindSafe((self.start)(scale)).catch_unwind().await {
            Ok(Ok(finding)) => finding,
            Ok(Err(error)) => failure(format!("error: {error:#}")),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
                failure(format!("panic: {}", text.unwrap_or("(without a message)")))
            }
        }
    }
}

/// What came of a hunt for a mutant.
#[derive(Debug, Clone)]
pub struct Hunt {
    /// Whom.
    pub mutant: Mutant,
    /// Whether the promise that it breaks was found broken.
    pub caught: bool,
    /// The violation that shows it; else what was found instead.
    pub proof: String,
}

/// Lets the small count of the run that has to find it meet a mutant.
pub async fn hunt(mutant: Mutant, seed: u64) -> Result<Hunt> {
    let name = mutant.caught_by();
    let run = find(name).with_context(|| format!("{} is to be caught by {name}", mutant.name()))?;
    let finding = run.finding(Scale { full: false, seed, mutant: Some(mutant) }).await;
    let proof = finding.violations.iter().find(|violation| violation.starts_with(mutant.shows_as()));
    let (caught, shown) = (proof.is_some(), proof.or(finding.violations.first()));
    let proof = shown.map_or("no violation", |text| text.lines().next().unwrap_or_default());
    Ok(Hunt { mutant, caught, proof: proof.to_owned() })
}

/// The run of this name.
pub fn find(name: &str) -> Option<&'static Run> {
    ALL.iter().find(|run| run.name.eq_ignore_ascii_case(name))
}
