//! The command line's client side: it talks HTTP to a running server, as any other client would.

mod queues;
mod schedules;
mod smoke;
mod sse;
mod stats;
mod submit;
mod table;
mod tasks;
mod watch;
mod workers;

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

pub use queues::{QueuesArgs, queues};
pub use schedules::{SchedulesArgs, schedules};
pub use smoke::{SmokeArgs, smoke};
pub use stats::{StatsArgs, stats};
pub use submit::{SubmitArgs, submit};
pub use tasks::{TasksArgs, tasks};
pub use watch::{WatchArgs, watch};
pub use workers::{ControlArgs, InspectArgs, WorkersArgs, control, inspect, workers};

use crate::{config::parse_duration, say};

/// The server that commands talk to.
#[derive(Debug, clap::Args)]
pub struct Server {
    /// The server, with the API's prefix if it is not /api/v1.
    #[arg(
        long,
        visible_alias = "server",
        env = "TASK_RUNNER_URL",
        default_value = "http://127.0.0.1:8000",
        value_name = "URL",
        global = true
    )]
    url: String,
}

/// A connection to a server's API.
pub(crate) struct Api {
    http: reqwest::Client,
    base: String,
}

impl Server {
    pub(crate) fn api(&self) -> Result<Api> {
        // Plain HTTP needs no cryptography, HTTPS takes the process-wide provider; a second call changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(5))
            .build()
            .context("the HTTP client cannot start")?;
        let url = self.url.trim_end_matches('/');
        let has_path = url.split_once("://").is_some_and(|(_, rest)| rest.contains('/'));
        let base = if has_path { url.to_owned() } else { format!("{url}/api/v1") };
        Ok(Api { http, base })
    }
}

impl Api {
    pub(crate) async fn get(&self, path: &str) -> Result<Value> {
        let url = format!("{}{path}", self.base);
        let answer = self.http.get(&url).timeout(Duration::from_secs(90)).send().await;
        read(answer.with_context(|| unreachable(&url))?).await
    }

    /// As [`Self::get`], also where the status says that something is wrong.
    pub(crate) async fn get_any_status(&self, path: &str) -> Result<Value> {
        let url = format!("{}{path}", self.base);
        let answer = self.http.get(&url).timeout(Duration::from_secs(30)).send().await;
        answer.with_context(|| unreachable(&url))?.json().await.context("the server's answer is not JSON")
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let url = format!("{}{path}", self.base);
        let answer = self.http.post(&url).json(body).timeout(Duration::from_secs(90)).send().await;
        read(answer.with_context(|| unreachable(&url))?).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<()> {
        let url = format!("{}{path}", self.base);
        let answer = self.http.delete(&url).timeout(Duration::from_secs(30)).send().await;
        let answer = answer.with_context(|| unreachable(&url))?;
        if answer.status().is_success() { Ok(()) } else { Err(problem(answer).await) }
    }

    /// Opens a task's live events.
    pub(crate) async fn events(&self, id: i64, after: Option<&str>) -> Result<reqwest::Response> {
        let url = format!("{}/tasks/{id}/events", self.base);
        let mut request = self.http.get(&url).header("accept", "text/event-stream");
        if let Some(after) = after {
            request = request.header("last-event-id", after);
        }
        let answer = request.send().await.with_context(|| unreachable(&url))?;
        if answer.status().is_success() { Ok(answer) } else { Err(problem(answer).await) }
    }
}

fn unreachable(url: &str) -> String {
    format!(
        "{url} cannot be reached; start a server (`task-runner`, or `task-runner-api` beside workers), or name another \
         with --url"
    )
}

async fn read(answer: reqwest::Response) -> Result<Value> {
    if !answer.status().is_success() {
        return Err(problem(answer).await);
    }
    answer.json().await.context("the server's answer is not JSON")
}

/// The server's own words, with each field at fault.
async fn problem(answer: reqwest::Response) -> anyhow::Error {
    let status = answer.status();
    let body: Value = answer.json().await.unwrap_or(Value::Null);
    let mut text = body["detail"].as_str().or(body["title"].as_str()).unwrap_or("no details").to_owned();
    for error in body["errors"].as_array().into_iter().flatten() {
        let (field, message) =
            (error["field"].as_str().unwrap_or("?"), error["message"].as_str().unwrap_or("?"));
        text.push_str(&format!("\n  {field}: {message}"));
    }
    anyhow!("{status}: {text}")
}

/// Waits for a task's end, at most `patience`; the task as it stands then.
pub(crate) async fn wait_for_end(api: &Api, id: i64, patience: Duration) -> Result<Value> {
    let deadline = tokio::time::Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        let wait = left.min(Duration::from_secs(30)).as_millis();
        let task = api.get(&format!("/tasks/{id}?wait={wait}ms")).await?;
        let ended = matches!(task["status"].as_str(), Some("COMPLETED" | "FAILED" | "CANCELLED" | "EXPIRED"));
        if ended || left.is_zero() {
            return Ok(task);
        }
    }
}

/// Whether a task has completed; otherwise what it says of itself.
pub(crate) fn completed(task: &Value) -> Result<()> {
    let status = task["status"].as_str().unwrap_or("without a status");
    if status == "COMPLETED" {
        return Ok(());
    }
    match task["error"]["message"].as_str() {
        Some(message) => bail!("the task is {status}: {message}"),
        None => bail!("the task is {status}"),
    }
}

/// The items of a list.
pub(crate) fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list["items"].as_array().into_iter().flatten()
}

/// A list as the server answered it, or as a table.
pub(crate) fn show(json: bool, answer: &Value, table: &table::Table) {
    if json {
        say!("{answer:#}");
    } else if table.is_empty() {
        say!("none");
    } else {
        say!("{table}");
    }
}

/// A text as one part of a path, or as a value in a query (RFC 3986).
pub(crate) fn segment(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(encode).collect()
}

/// A path with those parameters that are given.
pub(crate) fn query(path: &str, parameters: &[(&str, Option<String>)]) -> String {
    let given = parameters
        .iter()
        .filter_map(|(name, value)| value.as_ref().map(|value| format!("{name}={}", segment(value))));
    let given: Vec<_> = given.collect();
    if given.is_empty() { path.to_owned() } else { format!("{path}?{}", given.join("&")) }
}

fn duration_argument(text: &str) -> Result<Duration, String> {
    parse_duration(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_parts_of_a_path() {
        assert_eq!(segment("urgent-worker@h/1 ä"), "urgent-worker%40h%2F1%20%C3%A4");
        let parameters = [("status", Some("pending,running".to_owned())), ("type", None)];
        assert_eq!(query("/tasks", &parameters), "/tasks?status=pending%2Crunning");
        assert_eq!(query("/tasks", &[]), "/tasks");
    }
}
