//! A receiver of messages: it answers as it is told, and tells what it got.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
};

use crate::PATIENCE;

/// How one message is answered.
#[derive(Debug, Clone, Copy)]
pub enum Taken {
    /// With this status line, such as `503 Service Unavailable`.
    Status(&'static str),
    /// The connection is closed without an answer.
    Lost,
    /// Nothing comes until the sender has gone.
    Never,
}

/// One message as it came.
#[derive(Debug, Clone)]
pub struct Message {
    /// Such as `/hook`.
    pub path: String,
    /// By their names in lower case.
    pub headers: BTreeMap<String, String>,
    /// Byte for byte.
    pub body: String,
}

impl Message {
    /// A header; empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The body's JSON; null where it has none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or(Value::Null)
    }
}

/// A running receiver.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    messages: mpsc::UnboundedReceiver<Message>,
    accepting: JoinHandle<()>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Receiver {
    /// Answers in turn like this, then with `200 OK`.
    pub async fn start(answers: Vec<Taken>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it has an address");
        let (tell, messages) = mpsc::unbounded_channel();
        let answers = Arc::new(Mutex::new(answers.into_iter()));
        let accepting = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (answers, tell) = (Arc::clone(&answers), tell.clone());
                let next =
                    move || answers.lock().expect("not poisoned").next().unwrap_or(Taken::Status("200 OK"));
                // What goes wrong is the sender's to notice.
                tokio::spawn(async move { take(socket, next, tell).await });
            }
        });
        Self { address, messages, accepting }
    }

    /// Its URL with this path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The next message.
    ///
    /// # Panics
    ///
    /// When none comes.
    pub async fn next(&mut self) -> Message {
        let message = tokio::time::timeout(PATIENCE, self.messages.recv()).await;
        message.unwrap_or_else(|_| panic!("no message came within {PATIENCE:?}")).expect("it runs")
    }

    /// What has come and was not looked at.
    pub fn rest(&mut self) -> Vec<Message> {
        std::iter::from_fn(|| self.messages.try_recv().ok()).collect()
    }
}

async fn take(
    mut socket: TcpStream,
    answer: impl FnOnce() -> Taken,
    tell: mpsc::UnboundedSender<Message>,
) -> std::io::Result<()> {
    let message = read(&mut socket).await?;
    // Before the test hears of the message, so that it can rely on the order of answers.
    let answer = answer();
    let _ = tell.send(message);
    match answer {
        Taken::Lost => Ok(()),
        Taken::Never => {
            let mut rest = [0; 64];
            while socket.read(&mut rest).await? > 0 {}
            Ok(())
        }
        Taken::Status(status) => {
            let head = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 5\r\n\r\nheard");
            socket.write_all(head.as_bytes()).await?;
            socket.shutdown().await
        }
    }
}

async fn read(socket: &mut TcpStream) -> std::io::Result<Message> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let mut lines = head.lines();
            let path = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or_default().to_owned();
            let headers: BTreeMap<String, String> = lines
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
                .collect();
            let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
            if bytes.len() >= end + 4 + length {
                let body = String::from_utf8_lossy(&bytes[end + 4..]).into_owned();
                return Ok(Message { path, headers, body });
            }
        }
        if socket.read_buf(&mut bytes).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}
