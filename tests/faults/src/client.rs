//! Clients that keep a history, and ask again where they got no answer.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use futures_util::StreamExt as _;
use reqwest::{RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::history::{self, Call, ClientEvent, Journal};

/// How long one request may take before its answer counts as lost.
const REQUEST: Duration = Duration::from_secs(10);
/// How long a client goes on asking.
const PATIENCE: Duration = Duration::from_secs(120);
/// The pause before it asks again.
const PAUSE: Duration = Duration::from_millis(20);

/// Numbers of calls, over all clients of a process.
static OPS: AtomicU64 = AtomicU64::new(0);

/// A client of one or more API processes. Clones share the history and the connections.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    servers: Arc<[String]>,
    next: Arc<AtomicUsize>,
    journal: Journal,
}

/// A good answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its HTTP status.
    pub code: u16,
    /// Which task.
    pub task: i64,
    /// Where it says that the task stands.
    pub status: String,
}

/// What one request came to.
enum Outcome {
    Good(Answer, bool),
    Refused(u16, String),
    Unknown(String),
}

impl Client {
    /// A client of the APIs on these ports of the loopback, which it asks in turn.
    pub fn new(ports: &[u16], histories: &Path) -> Result<Self> {
        // A second call changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().build().context("an HTTP client")?;
        Ok(Self {
            http,
            servers: ports.iter().map(|port| format!("http://127.0.0.1:{port}/api/v1")).collect(),
            next: Arc::default(),
            journal: Journal::create(histories, history::CLIENTS)?,
        })
    }

    /// Whose turn it is.
    fn turn(&self) -> usize {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn server(&self, turn: usize) -> &str {
        &self.servers[turn % self.servers.len()]
    }

    async fn invoke(&self, call: Call) -> Result<u64> {
        let op = OPS.fetch_add(1, Ordering::Relaxed);
        self.journal.append(&ClientEvent::Invoke { op, at: history::now(), call }).await?;
        Ok(op)
    }

    /// Submits a task under this key, which goes into its metadata as well, and asks again until it is answered.
    pub async fn submit(&self, key: &str, task_type: &str, input: Value) -> Result<Answer> {
        let body = json!({ "type": task_type, "input": input, "metadata": { "key": key } });
        self.submit_body(key, body).await
    }

    /// The same with any body; the key is added to its metadata.
    pub async fn submit_body(&self, key: &str, mut body: Value) -> Result<Answer> {
        body["metadata"]["key"] = json!(key);
        let op = self.invoke(Call::Submit { key: key.to_owned() }).await?;
        self.until_answered(op, |client, server| {
            client.http.post(format!("{server}/tasks")).header("Idempotency-Key", key).json(&body)
        })
        .await
    }

    /// Asks to stop a task, once; `None` where nobody answered.
    pub async fn cancel(&self, task: i64) -> Result<Option<Answer>> {
        let op = self.invoke(Call::Cancel { task }).await?;
        let request = self.http.post(format!("{}/tasks/{task}/cancel", self.server(self.turn())));
        let mut outcome = send(request, task).await;
        if let Outcome::Refused(409, _) = outcome {
            // It had ended: as what, the task itself says.
            let request = self.http.get(format!("{}/tasks/{task}", self.server(self.turn())));
            if let Outcome::Good(answer, replayed) = send(request, task).await {
                outcome = Outcome::Good(Answer { code: 409, ..answer }, replayed);
            }
        }
        self.note(op, &outcome).await?;
        Ok(match outcome {
            Outcome::Good(answer, _) => Some(answer),
            Outcome::Refused(..) | Outcome::Unknown(_) => None,
        })
    }

    /// Reads the live events of a task until they end, from whichever API serves, for so long at most; answers the last
    /// state told.
    pub async fn watch(&self, task: i64, patience: Duration) -> Result<String> {
        let op = self.invoke(Call::Watch { task }).await?;
        let deadline = Instant::now() + patience;
        loop {
            let request = self.http.get(format!("{}/tasks/{task}/events", self.server(self.turn())));
            let left = deadline.saturating_duration_since(Instant::now());
            let read = tokio::time::timeout(left, last_state(request)).await;
            match read {
                Ok(Ok(status)) => {
                    let answer = Answer { code: 200, task, status };
                    self.note(op, &Outcome::Good(answer.clone(), false)).await?;
                    return Ok(answer.status);
                }
                Ok(Err(error)) => self.note(op, &Outcome::Unknown(format!("{error:#}"))).await?,
                Err(_) => {
                    let status = "no end".to_owned();
                    self.note(op, &Outcome::Good(Answer { code: 200, task, status }, false)).await?;
                    return Ok("no end".to_owned());
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn until_answered(
        &self,
        op: u64,
        request: impl Fn(&Self, &str) -> RequestBuilder,
    ) -> Result<Answer> {
        let deadline = Instant::now() + PATIENCE;
        // Each further try asks the next server.
        for turn in self.turn().. {
            let outcome = send(request(self, self.server(turn)), 0).await;
            self.note(op, &outcome).await?;
            let why = match outcome {
                Outcome::Good(answer, _) => return Ok(answer),
                Outcome::Refused(code, why) => bail!("a submission was refused: {code} {why}"),
                Outcome::Unknown(why) => why,
            };
            if Instant::now() > deadline {
                bail!("a client got no answer within {PATIENCE:?}; last: {why}");
            }
            tokio::time::sleep(PAUSE).await;
        }
        bail!("a client has no server to ask")
    }

    async fn note(&self, op: u64, outcome: &Outcome) -> Result<()> {
        let at = history::now();
        let event = match outcome {
            Outcome::Good(Answer { code, task, status }, replayed) => ClientEvent::Ok {
                op,
                at,
                code: *code,
                task: *task,
                status: status.clone(),
                replayed: *replayed,
            },
            Outcome::Refused(code, why) => ClientEvent::Refused { op, at, code: *code, why: why.clone() },
            Outcome::Unknown(why) => ClientEvent::Unknown { op, at, why: why.clone() },
        };
        self.journal.append(&event).await
    }
}

/// One request. `task` is meant where the answer names none.
async fn send(request: RequestBuilder, task: i64) -> Outcome {
    let answer = match request.timeout(REQUEST).send().await {
        Ok(answer) => answer,
        Err(error) => return Outcome::Unknown(causes(&error)),
    };
    let status = answer.status();
    let replayed = answer.headers().contains_key("Idempotency-Replayed");
    let text = match answer.text().await {
        Ok(text) => text,
        Err(error) => return Outcome::Unknown(causes(&error)),
    };
    let code = status.as_u16();
    if status.is_success() {
        let body: Value = serde_json::from_str(&text).unwrap_or_default();
        let task = body["id"].as_i64().unwrap_or(task);
        let status = body["status"].as_str().unwrap_or_default().to_owned();
        return Outcome::Good(Answer { code, task, status }, replayed);
    }
    let again = status.is_server_error()
        || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT);
    if again { Outcome::Unknown(format!("{code}: {text}")) } else { Outcome::Refused(code, text) }
}

/// The last state that an event stream tells before it ends.
async fn last_state(request: RequestBuilder) -> Result<String> {
    let answer = request.send().await?.error_for_status()?;
    let (mut body, mut unread, mut state) = (answer.bytes_stream(), String::new(), None);
    while let Some(bytes) = body.next().await {
        unread.push_str(&String::from_utf8_lossy(&bytes?));
        while let Some((block, rest)) = unread.split_once("\n\n") {
            if block.lines().any(|line| line.trim() == "event: state") {
                let data = block.lines().find_map(|line| line.strip_prefix("data:")).unwrap_or_default();
                let data: Value = serde_json::from_str(data).context("the data of an event")?;
                state = data["status"].as_str().map(str::to_owned);
            }
            unread = rest.to_owned();
        }
    }
    let ended = state.filter(|state| !matches!(&**state, "SCHEDULED" | "PENDING" | "PROCESSING"));
    ended.context("the events stopped before the task's end")
}

fn causes(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
