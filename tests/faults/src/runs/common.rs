//! What several runs share: the load, the readers of live events, and how a verdict is told.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};
use futures_util::future::try_join_all;
use rand::{SeedableRng as _, rngs::StdRng};
use serde_json::Value;
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep_until},
};

use crate::{
    checker::{self, Drain, Evidence, Verdict, Violation},
    client::Client,
    rig::Rig,
    scale::Finding,
};

/// How many clients submit at the same time.
const CLIENTS: usize = 32;
/// How many tasks' events are read to their end.
const WATCHED: usize = 50;
/// How much longer than a task a reader of its events may take.
const GRACE: Duration = Duration::from_secs(5);

/// How many tasks, spread over how long. Where the time is zero, as fast as they are taken.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// In all.
    pub tasks: u32,
    /// From the first to the last.
    pub over: Duration,
}

/// A load that is being submitted.
#[derive(Debug)]
pub struct Load {
    acknowledged: watch::Receiver<u32>,
    clients: JoinHandle<Result<Vec<i64>>>,
}

impl Load {
    /// Waits until so many tasks are acknowledged, or the load has ended.
    pub async fn reaches(&mut self, tasks: u32) {
        // An error says that the clients have ended.
        let _ = self.acknowledged.wait_for(|count| *count >= tasks).await;
    }

    /// Waits until all are acknowledged; answers their numbers.
    pub async fn end(self) -> Result<Vec<i64>> {
        self.clients.await.context("the load")?
    }
}

/// Starts submitting tasks, each under a key of its own; `make` says which type and input.
pub fn submit(
    client: Client,
    seed: u64,
    pace: Pace,
    mut make: impl FnMut(&mut StdRng) -> (&'static str, Value) + Send + 'static,
) -> Load {
    let mut random = StdRng::seed_from_u64(seed ^ 0x10ad);
    let started = Instant::now();
    let jobs = (0..pace.tasks).map(move |number| {
        let (task_type, input) = make(&mut random);
        let at = started + pace.over.mul_f64(f64::from(number) / f64::from(pace.tasks.max(1)));
        (number, at, task_type, input)
    });
    let jobs = Arc::new(Mutex::new(jobs));
    let (count, acknowledged) = watch::channel(0);
    let clients = tokio::spawn(async move {
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let (client, jobs, count) = (client.clone(), Arc::clone(&jobs), count.clone());
            clients.spawn(async move {
                let mut tasks = Vec::new();
                loop {
                    let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some((number, at, task_type, input)) = job else { return anyhow::Ok(tasks) };
                    sleep_until(at).await;
                    tasks.push(client.submit(&format!("{seed}-{number}"), task_type, input).await?.task);
                    count.send_modify(|count| *count += 1);
                }
            });
        }
        let mut tasks = Vec::new();
        while let Some(some) = clients.join_next().await {
            tasks.extend(some??);
        }
        Ok(tasks)
    });
    Load { acknowledged, clients }
}

/// Reads the live events of some tasks to their end: of the last ones submitted, which have yet to run, and of some that
/// have run long since.
pub async fn watch_some(rig: &Rig, patience: Duration) -> Result<()> {
    let client = rig.client()?;
    // Not every number is a task's: a transaction that failed has used some up.
    let stored: Vec<i64> = rig.database.fates().await?.iter().map(|fate| fate.task).collect();
    let spread = (1..=WATCHED).filter_map(|part| stored.get((stored.len() * part / WATCHED).checked_sub(1)?));
    let last = &stored[stored.len().saturating_sub(WATCHED)..];
    let mut tasks: Vec<i64> = spread.chain(last).copied().collect();
    tasks.sort_unstable();
    tasks.dedup();
    try_join_all(tasks.into_iter().map(|task| client.watch(task, patience))).await?;
    Ok(())
}

/// The end of a run, once the faults have stopped.
#[derive(Debug)]
pub struct Finished {
    /// What was done.
    pub done: String,
    /// How the backlog drained.
    pub drain: Drain,
    /// All that is known.
    pub evidence: Evidence,
    /// What it comes to; a run adds what it alone promises.
    pub verdict: Verdict,
    /// What the run counted besides.
    pub notes: Vec<String>,
}

/// Waits until the backlog has drained, for so long at most, while readers read events; then checks everything.
pub async fn finish(rig: &Rig, done: &str, limit: Duration) -> Result<Finished> {
    let (drain, watched) = tokio::join!(rig.drain(limit), watch_some(rig, limit + GRACE));
    let drain = drain?;
    watched?;
    let evidence = rig.evidence(Some(drain)).await?;
    let verdict = checker::check(&evidence);
    Ok(Finished { done: done.to_owned(), drain, evidence, verdict, notes: Vec::new() })
}

impl Finished {
    /// A promise of this run alone.
    pub fn expect(&mut self, holds: bool, promise: &'static str, text: impl FnOnce() -> String) {
        if !holds {
            self.verdict.violations.push(Violation { promise, text: text() });
        }
    }

    /// Tells the verdict.
    pub fn finding(self) -> Finding {
        let Self { done, drain, verdict, notes, .. } = self;
        let mut found =
            vec![format!("{} acknowledged ({} answers lost)", verdict.acknowledged, verdict.unknown)];
        found.extend(verdict.ended.iter().map(|(status, count)| format!("{count} {status}")));
        found.push(format!("{} repeats of at most {}", verdict.repeats, verdict.repeats_bound));
        if !verdict.longest_unfound.is_zero() {
            let late = verdict.longest_unfound.as_secs_f64();
            found.push(format!("{} deaths, found {late:.1} s after the lease at the latest", verdict.deaths));
        }
        found.extend(notes);
        found.push(match drain.took {
            Some(took) => format!("drained in {:.1} s", took.as_secs_f64()),
            None => format!("{} tasks not drained", drain.left),
        });
        found.push(format!("{} violations", verdict.violations.len()));
        Finding { done, found: found.join(", "), violations: verdict.texts() }
    }
}
