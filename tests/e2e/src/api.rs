//! A client of the API.

use std::time::Duration;

use reqwest::{Method, StatusCode, header::HeaderMap};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{Events, LOOK, PATIENCE};

/// A server's API. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Api {
    http: reqwest::Client,
    /// Such as `http://127.0.0.1:8000`.
    pub server: String,
    /// The same with the API's prefix.
    pub url: String,
}

/// An answer, whatever its status.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its JSON; null where it has none.
    pub body: Value,
}

impl Answer {
    /// A header as text; empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// Whether a task has ended.
pub fn has_ended(task: &Value) -> bool {
    matches!(task["status"].as_str(), Some("COMPLETED" | "FAILED" | "CANCELLED" | "EXPIRED"))
}

/// A task's number.
pub fn id(task: &Value) -> i64 {
    task["id"].as_i64().unwrap_or_else(|| panic!("no id in {task}"))
}

impl Api {
    /// A client of the server on this port of the loopback.
    pub fn new(port: u16) -> Self {
        // A second call changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE * 2).build();
        let server = format!("http://127.0.0.1:{port}");
        Self { http: http.expect("an HTTP client"), url: format!("{server}/api/v1"), server }
    }

    /// The same server, without the API's prefix.
    pub fn root(&self) -> Self {
        Self { url: self.server.clone(), ..self.clone() }
    }

    /// Sends a request below the API's prefix; `None` where nobody answers.
    pub async fn try_send(&self, method: Method, path: &str, body: Option<&Value>) -> Option<Answer> {
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        if let Some(body) = body {
            request = request.json(body);
        }
        read(request).await.ok()
    }

    /// Sends a request below the API's prefix.
    ///
    /// # Panics
    ///
    /// When nobody answers.
    pub async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Answer {
        let what = format!("{method} {path}");
        self.try_send(method, path, body).await.unwrap_or_else(|| panic!("no answer to {what}"))
    }

    /// Sends a body of these bytes, whatever they are, with these headers and no others.
    ///
    /// # Panics
    ///
    /// When nobody answers.
    pub async fn send_raw(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let mut request = self.http.request(method, format!("{}{path}", self.url)).body(body.to_vec());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        read(request).await.unwrap_or_else(|error| panic!("no answer to {path}: {error}"))
    }

    /// Reads below the API's prefix.
    ///
    /// # Panics
    ///
    /// When the answer is not 200.
    pub async fn get(&self, path: &str) -> Value {
        let answer = self.send(Method::GET, path, None).await;
        assert_eq!(answer.status, 200, "GET {path}: {}", answer.body);
        answer.body
    }

    /// Submits a task; answers it as submitted.
    ///
    /// # Panics
    ///
    /// When the answer is not 201.
    pub async fn submit(&self, body: Value) -> Value {
        let answer = self.send(Method::POST, "/tasks", Some(&body)).await;
        assert_eq!(answer.status, 201, "{body}: {}", answer.body);
        answer.body
    }

    /// Submits a task of this type; answers its number.
    pub async fn submit_type(&self, task_type: &str, input: Value) -> i64 {
        id(&self.submit(json!({ "type": task_type, "input": input })).await)
    }

    /// A task as it stands.
    pub async fn task(&self, id: i64) -> Value {
        self.get(&format!("/tasks/{id}")).await
    }

    /// A task once it has ended.
    ///
    /// # Panics
    ///
    /// When it does not end in time.
    pub async fn ended(&self, id: i64) -> Value {
        self.ended_within(id, PATIENCE).await
    }

    /// A task once it has ended.
    ///
    /// # Panics
    ///
    /// When it does not end in time.
    pub async fn ended_within(&self, id: i64, patience: Duration) -> Value {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let wait = left.min(Duration::from_secs(20)).as_millis();
            let task = self.get(&format!("/tasks/{id}?wait={wait}ms")).await;
            if has_ended(&task) {
                return task;
            }
            assert!(!left.is_zero(), "task {id} has not ended after {patience:?}: {task}");
        }
    }

    /// A task once it has completed.
    ///
    /// # Panics
    ///
    /// When it ends in another way, or not in time.
    pub async fn completed(&self, id: i64) -> Value {
        let task = self.ended(id).await;
        assert_eq!(task["status"], "COMPLETED", "{task}");
        task
    }

    /// Waits until a task stands like this.
    ///
    /// # Panics
    ///
    /// When it ends in another way, or does not get there in time.
    pub async fn reaches(&self, id: i64, status: &str) -> Value {
        self.becomes(id, status, |task| task["status"] == status).await
    }

    /// Waits until a task is as wanted.
    ///
    /// # Panics
    ///
    /// When it ends without, or does not get there in time.
    pub async fn becomes(&self, id: i64, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let task = self.task(id).await;
            if wanted(&task) {
                return task;
            }
            assert!(!has_ended(&task), "task {id} ended without having been {what}: {task}");
            assert!(Instant::now() < deadline, "task {id} is not {what} in time: {task}");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until a task is not there any more.
    ///
    /// # Panics
    ///
    /// When it still is after a while.
    pub async fn is_gone(&self, id: i64) {
        let deadline = Instant::now() + PATIENCE;
        while self.send(Method::GET, &format!("/tasks/{id}"), None).await.status != 404 {
            assert!(Instant::now() < deadline, "task {id} is still there");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The outcomes of a task's attempts, oldest first; null for a running one.
    pub async fn outcomes(&self, id: i64) -> Vec<Value> {
        let attempts = self.get(&format!("/tasks/{id}/attempts")).await;
        let items = attempts["items"].as_array().unwrap_or_else(|| panic!("no items in {attempts}"));
        items.iter().map(|attempt| attempt["outcome"].clone()).collect()
    }

    /// Asks to stop a task.
    pub async fn cancel(&self, id: i64) -> Answer {
        self.send(Method::POST, &format!("/tasks/{id}/cancel"), None).await
    }

    /// Waits until `/health` says this.
    ///
    /// # Panics
    ///
    /// When it does not in time.
    pub async fn health_becomes(&self, status: &str) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.send(Method::GET, "/health", None).await;
            if answer.body["status"] == status {
                return answer.body;
            }
            assert!(Instant::now() < deadline, "health is not {status}: {}", answer.body);
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Watches a task, after this event if one is named.
    ///
    /// # Panics
    ///
    /// When the answer is not an event stream.
    pub async fn events(&self, id: i64, after: Option<&str>) -> Events {
        let mut request = self.http.get(format!("{}/tasks/{id}/events", self.url));
        if let Some(after) = after {
            request = request.header("last-event-id", after);
        }
        let answer = request.send().await.unwrap_or_else(|error| panic!("no events of {id}: {error}"));
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Events::new(answer)
    }
}

async fn read(request: reqwest::RequestBuilder) -> reqwest::Result<Answer> {
    let answer = request.send().await?;
    let (status, headers) = (answer.status(), answer.headers().clone());
    let text = answer.bytes().await?;
    Ok(Answer { status, headers, body: serde_json::from_slice(&text).unwrap_or(Value::Null) })
}
