//! A stand-in for a provider with a Batch API: files of requests come, batches are worked on when the test says so, files
//! of answers go.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// A running stand-in.
#[derive(Debug)]
pub struct BatchProvider {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    accepting: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<String, String>,
    batches: BTreeMap<String, Value>,
    /// Whether a batch that is begun is answered for.
    silent: bool,
    live_calls: usize,
    fetched: usize,
}

impl Drop for BatchProvider {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl BatchProvider {
    /// Starts one that has no batches.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it has an address");
        let state = Arc::new(Mutex::new(State::default()));
        let serving = Arc::clone(&state);
        let accepting = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let state = Arc::clone(&serving);
                tokio::spawn(async move { serve(socket, &state).await });
            }
        });
        Self { address, state, accepting }
    }

    /// What a provider's `base_url` has to be.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// The requests of each batch so far.
    pub fn batches(&self) -> Vec<usize> {
        let state = self.state();
        let input = |batch: &Value| batch["input_file_id"].as_str().and_then(|file| state.files.get(file));
        state.batches.values().map(|batch| input(batch).map_or(0, |file| file.lines().count())).collect()
    }

    /// How many requests were asked live.
    pub fn live_calls(&self) -> usize {
        self.state().live_calls
    }

    /// How many files of answers were read.
    pub fn fetched(&self) -> usize {
        self.state().fetched
    }

    /// From now on, whoever begins a batch hears nothing of it.
    pub fn be_silent(&self, silent: bool) {
        self.state().silent = silent;
    }

    /// Works on all batches: a prompt is answered with itself, but for `too long`, which is refused.
    pub fn complete(&self) {
        let mut state = self.state();
        let open: Vec<String> = state.batches.keys().cloned().collect();
        for id in open {
            let batch = state.batches[&id].clone();
            let input = batch["input_file_id"].as_str().and_then(|file| state.files.get(file)).cloned();
            let (mut said, mut refused) = (String::new(), String::new());
            for line in input.unwrap_or_default().lines() {
                let request: Value = serde_json::from_str(line).expect("a request");
                let (answer, into) = answer(&request, &mut said, &mut refused);
                into.push_str(&format!("{answer}\n"));
            }
            let (output, errors) = (format!("{id}-output"), format!("{id}-errors"));
            state.files.extend([(output.clone(), said), (errors.clone(), refused)]);
            let over = json!({ "status": "completed", "output_file_id": output, "error_file_id": errors });
            let batch = state.batches.get_mut(&id).and_then(Value::as_object_mut).expect("a batch");
            batch.extend(over.as_object().cloned().unwrap_or_default());
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("not poisoned")
    }
}

fn answer<'f>(request: &Value, said: &'f mut String, refused: &'f mut String) -> (Value, &'f mut String) {
    let (name, prompt) = (&request["custom_id"], &request["body"]["messages"][0]["content"]);
    assert_eq!(request["body"].get("stream"), None, "a batch is not streamed: {request}");
    if prompt == "too long" {
        let error = json!({ "code": "context_length_exceeded", "message": "that is too long" });
        let response = json!({ "status_code": 400, "body": { "error": error } });
        return (json!({ "custom_id": name, "response": response, "error": null }), refused);
    }
    let choice = json!({ "index": 0, "finish_reason": "stop", "message": { "content": prompt } });
    let usage = json!({ "prompt_tokens": 1000, "completion_tokens": 1000 });
    let body = json!({ "model": "m-1", "choices": [choice], "usage": usage });
    (json!({ "custom_id": name, "response": { "status_code": 200, "body": body }, "error": null }), said)
}

async fn serve(mut socket: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let (method, path, body) = read_request(&mut socket).await?;
    let Some(answer) = respond(&method, &path, &body, state) else {
        // It hears nothing until it leaves.
        let _ = socket.read(&mut [0; 1]).await;
        return Ok(());
    };
    let length = answer.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).await?;
    socket.write_all(answer.as_bytes()).await?;
    socket.shutdown().await
}

fn respond(method: &str, path: &str, body: &str, state: &Mutex<State>) -> Option<String> {
    let mut state = state.lock().expect("not poisoned");
    let route: Vec<&str> = path.split('?').next().unwrap_or_default().split('/').skip(2).collect();
    Some(match (method, route.as_slice()) {
        ("POST", ["files"]) => {
            let id = format!("file-{}", state.files.len() + 1);
            // The one part of the form whose lines are JSON.
            let lines = body.lines().filter(|line| line.starts_with('{'));
            state.files.insert(id.clone(), lines.map(|line| format!("{line}\n")).collect());
            json!({ "id": id }).to_string()
        }
        ("GET", ["files", id, "content"]) => {
            state.fetched += 1;
            state.files.get(*id).cloned().unwrap_or_default()
        }
        ("POST", ["batches"]) => {
            let id = format!("batch-{}", state.batches.len() + 1);
            let mut batch: Value = serde_json::from_str(body).expect("JSON");
            (batch["id"], batch["status"]) = (json!(id), json!("in_progress"));
            state.batches.insert(id, batch.clone());
            if state.silent {
                return None;
            }
            batch.to_string()
        }
        ("GET", ["batches"]) => json!({ "data": state.batches.values().collect::<Vec<_>>() }).to_string(),
        ("GET", ["batches", id]) => state.batches[*id].to_string(),
        ("POST", ["chat", "completions"]) => {
            state.live_calls += 1;
            let choice = json!({ "index": 0, "finish_reason": "stop", "message": { "content": "live" } });
            json!({ "choices": [choice], "usage": { "prompt_tokens": 1, "completion_tokens": 1 } })
                .to_string()
        }
        other => panic!("{other:?} is no part of the Batch API"),
    })
}

async fn read_request(socket: &mut TcpStream) -> std::io::Result<(String, String, String)> {
    let mut bytes = Vec::new();
    loop {
        if let Some(head_end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..head_end]).into_owned();
            let length = head.lines().filter_map(|line| line.split_once(": "));
            let mut length = length.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
            let length: usize = length.next().and_then(|(_, value)| value.parse().ok()).unwrap_or(0);
            if bytes.len() >= head_end + 4 + length {
                let mut words = head.lines().next().unwrap_or_default().split(' ').map(str::to_owned);
                let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
                return Ok((method, path, String::from_utf8_lossy(&bytes[head_end + 4..]).into_owned()));
            }
        }
        if socket.read_buf(&mut bytes).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}
