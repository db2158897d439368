//! Task types that write down what they do, for the handlers' history.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use application::{
    handler::TaskContext,
    registry::{Output, TaskTypeSpec},
};
use domain::{Backoff, ErrorClass, Failure, RetryPolicy};
use serde::Deserialize;
use serde_json::json;

use crate::history::{self, HandlerEvent, Journal};

/// Starts, takes its time, ends.
pub const WORK: &str = "faults.work";
/// Starts and takes its process with it.
pub const CRASH: &str = "faults.crash";
/// Tells live, piece by piece, when it made each piece.
pub const TALK: &str = "faults.talk";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Work {
    /// How long it takes.
    #[serde(default)]
    sleep_ms: u64,
    /// Fail with a transient error in attempts up to this one.
    #[serde(default)]
    fail_until: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Crash {
    /// How long it works before.
    #[serde(default)]
    after_ms: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Talk {
    /// How many pieces.
    pieces: u32,
    /// Between two of them.
    every_ms: u64,
    /// Of each piece, at least.
    bytes: usize,
}

/// Every type of the rig; what they do goes to the history in the folder that [`history::FOLDER_VARIABLE`] names.
pub fn types() -> Result<Vec<TaskTypeSpec>> {
    let folder = std::env::var(history::FOLDER_VARIABLE)
        .with_context(|| format!("{} has to name a folder for the history", history::FOLDER_VARIABLE))?;
    let journal = Arc::new(Journal::create(folder.as_ref(), history::HANDLERS)?);
    let (work, crash, talk) = (Arc::clone(&journal), Arc::clone(&journal), journal);
    let backoff = Backoff::Exponential { base: Duration::from_millis(20), cap: Duration::from_millis(200) };
    let retry = RetryPolicy { backoff, jitter: true, ..RetryPolicy::default() };
    let work = TaskTypeSpec::new(WORK, "Tells when it starts and ends.", move |context, input: Work| {
        let journal = Arc::clone(&work);
        async move {
            note(&journal, start(&context)).await?;
            tokio::time::sleep(Duration::from_millis(input.sleep_ms)).await;
            let (task, attempt) = (context.task().id.0, context.task().attempt);
            if attempt <= input.fail_until {
                return Err(Failure::new(ErrorClass::Transient, "asked_to", "it was asked to fail"));
            }
            note(&journal, HandlerEvent::End { task, attempt, pid: std::process::id(), at: history::now() })
                .await?;
            Output::of(&json!({ "task": task, "attempt": attempt }))
        }
    });
    let crash = TaskTypeSpec::new(CRASH, "Kills its process.", move |context, input: Crash| {
        let journal = Arc::clone(&crash);
        async move {
            note(&journal, start(&context)).await?;
            tokio::time::sleep(Duration::from_millis(input.after_ms)).await;
            std::process::abort()
        }
    });
    let talk = TaskTypeSpec::new(TALK, "Talks, and says when.", move |context, input: Talk| {
        let journal = Arc::clone(&talk);
        async move {
            note(&journal, start(&context)).await?;
            let mut ticks = tokio::time::interval(Duration::from_millis(input.every_ms.max(1)));
            let padding = "x".repeat(input.bytes);
            for _ in 0..input.pieces {
                ticks.tick().await;
                context.chunk(&format!("{} {padding}\n", history::now()));
            }
            let (task, attempt) = (context.task().id.0, context.task().attempt);
            note(&journal, HandlerEvent::End { task, attempt, pid: std::process::id(), at: history::now() })
                .await?;
            Output::of(&json!({ "task": task, "attempt": attempt }))
        }
    });
    Ok(vec![work.retry(retry), crash, talk])
}

fn start(context: &TaskContext) -> HandlerEvent {
    let task = context.task();
    HandlerEvent::Start {
        task: task.id.0,
        attempt: task.attempt,
        pid: std::process::id(),
        at: history::now(),
    }
}

async fn note(journal: &Journal, event: HandlerEvent) -> Result<(), Failure> {
    let written = journal.append(&event).await;
    written.map_err(|error| Failure::permanent("history", format!("the rig's history: {error:#}")))
}
