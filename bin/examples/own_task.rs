//! A task type of one's own, a worker that runs it, and a program that submits to it and waits for the typed result.
//! Everything in one process, on a SQLite file:
//!
//! ```text
//! cargo run --example own_task -- "some text to count"
//! ```

use std::time::Duration;

use anyhow::Result;
use application::registry::{Output, TaskTypeSpec};
use domain::{Failure, Tenant};
use serde::{Deserialize, Serialize};
use task_runner::{config::Layers, embedded::Embedded};

/// What the task gets. A submission that does not fit is refused before anything is stored.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    text: String,
}

/// What it hands back.
#[derive(Debug, Serialize, Deserialize)]
struct Count {
    words: usize,
    longest: String,
}

/// The name that clients submit to, and the handler behind it.
fn count_words() -> TaskTypeSpec {
    TaskTypeSpec::new("text.count_words", "Counts words.", |context, Text { text }| async move {
        let words: Vec<&str> = text.split_whitespace().collect();
        context.progress(0, words.len() as u64, Some("counting"));
        let longest = words.iter().max_by_key(|word| word.len());
        let longest = longest.ok_or_else(|| Failure::permanent("no_words", "the text has no words"))?;
        Output::of(&Count { words: words.len(), longest: (*longest).to_owned() })
    })
    .example(r#"{"text":"a few words"}"#)
}

#[tokio::main]
async fn main() -> Result<()> {
    let text = std::env::args().nth(1).unwrap_or_else(|| "slow work belongs into a queue".into());
    // As the binaries read it: defaults < task-runner.toml < environment.
    let config = Layers::read(None)?.config()?;
    let runner = Embedded::start(config, [count_words()]).await?;

    let task = runner.tasks().start(&Tenant::default(), "text.count_words", &Text { text }).await?;
    println!("task {} is stored", task.id());
    let Count { words, longest } = task.result(Duration::from_secs(10)).await?;
    println!("{words} words, the longest is {longest:?}");
    runner.stop().await
}
