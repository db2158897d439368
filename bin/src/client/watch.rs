//! `task-runner watch`.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use futures_util::StreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use super::{
    Api, Server, completed,
    sse::{Event, Events},
};

use crate::say;

/// The pause before a lost connection is taken up again.
const RECONNECT: Duration = Duration::from_millis(500);
/// Connections that fail one after another before the watch gives up.
const MOST_FAILURES: u32 = 20;

/// What to watch.
#[derive(Debug, clap::Args)]
pub struct WatchArgs {
    #[command(flatten)]
    server: Server,
    /// The task's id.
    #[arg(value_parser = clap::value_parser!(i64).range(1..))]
    id: i64,
}

/// Follows a task to its end: progress on standard error, text or result on standard output.
pub async fn watch(args: WatchArgs) -> Result<ExitCode> {
    let api = args.server.api()?;
    let bar = ProgressBar::new(100);
    bar.set_style(ProgressStyle::with_template("{prefix} [{wide_bar}] {pos:>3}% {msg}")?);
    bar.set_prefix(format!("task {}", args.id));
    let mut view = View { bar, after: None, printed_text: false };
    let mut failures = 0;
    loop {
        match follow(&api, args.id, &mut view).await {
            Ok(Some(task)) => {
                view.bar.finish_and_clear();
                return finish(&task, view.printed_text);
            }
            Ok(None) => failures = 0,
            Err(error) if failures >= MOST_FAILURES || (failures == 0 && view.after.is_none()) => {
                return Err(error);
            }
            Err(_) => failures += 1,
        }
        tokio::time::sleep(RECONNECT).await;
    }
}

struct View {
    bar: ProgressBar,
    /// The last event seen, for taking up the stream again.
    after: Option<String>,
    printed_text: bool,
}

/// One connection: the task once it has ended, `None` when the stream ended before.
async fn follow(api: &Api, id: i64, view: &mut View) -> Result<Option<Value>> {
    let answer = api.events(id, view.after.as_deref()).await?;
    let mut events = Events::default();
    let mut body = answer.bytes_stream();
    while let Some(bytes) = body.next().await {
        for event in events.feed(&bytes.context("the stream broke")?) {
            let ended = take(event, view)?;
            if ended {
                return api.get(&format!("/tasks/{id}")).await.map(Some);
            }
        }
    }
    Ok(None)
}

/// Shows one event; `true` when it says that the task has ended.
fn take(event: Event, view: &mut View) -> Result<bool> {
    let data: Value = serde_json::from_str(&event.data).context("an event is not JSON")?;
    if let Some(id) = event.id {
        view.after = Some(id);
    }
    match event.name.as_str() {
        "state" => {
            let status = data["status"].as_str().unwrap_or_default().to_owned();
            let ended = matches!(status.as_str(), "COMPLETED" | "FAILED" | "CANCELLED" | "EXPIRED");
            view.bar.set_message(status);
            return Ok(ended);
        }
        "progress" => {
            view.bar.set_position(data["progress"].as_u64().unwrap_or(0));
            if let Some(message) = data["message"].as_str() {
                view.bar.set_message(message.to_owned());
            }
        }
        "chunk" => {
            let text = data["text"].as_str().unwrap_or_default();
            view.printed_text = true;
            view.bar.suspend(|| say::piece(format_args!("{text}")));
        }
        "attempt_reset" => {
            let attempt = &data["attempt"];
            view.bar.suspend(|| say!("\n--- attempt {attempt} begins the text anew ---"));
        }
        _ => {}
    }
    Ok(false)
}

fn finish(task: &Value, printed_text: bool) -> Result<ExitCode> {
    if printed_text {
        say!("");
    }
    completed(task)?;
    if !printed_text {
        say!("{}", task["result"]);
    }
    Ok(ExitCode::SUCCESS)
}
