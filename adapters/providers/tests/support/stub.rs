//! A server of our own for what real ones lack: raw HTTP, so that a test can stop, cut or lie at any byte.

use std::future::Future;

use application::ports::GenerationRequest;
use providers_adapter::{OpenAiGenerator, ProviderTimeouts};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};

use crate::support::{self, PATIENCE};
pub(crate) use crate::support::{KEY, Outcome, generator, patient, read};

/// What the server noticed.
#[derive(Debug, PartialEq)]
pub(crate) enum Noticed {
    Request {
        head: String,
        body: serde_json::Value,
    },
    /// The client closed the connection.
    Closed,
    /// What a script reports.
    Said(&'static str),
}

pub(crate) struct Stub {
    pub(crate) address: std::net::SocketAddr,
    noticed: mpsc::UnboundedReceiver<Noticed>,
    accepting: JoinHandle<()>,
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Stub {
    /// Runs `script` for every connection.
    pub(crate) async fn start<F, Script>(script: Script) -> Self
    where
        F: Future<Output = std::io::Result<()>> + Send + 'static,
        Script: Fn(Connection) -> F + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (notice, noticed) = mpsc::unbounded_channel();
        let accepting = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                socket.set_nodelay(true).unwrap();
                // A script that fails has lost its client: the test sees what the client made of it.
                tokio::spawn(script(Connection { socket, notice: notice.clone() }));
            }
        });
        Self { address, noticed, accepting }
    }

    /// Reads the request and answers with these bytes, whatever they are, then closes.
    pub(crate) async fn answering(response: impl Into<Vec<u8>>) -> Self {
        let response = response.into();
        Self::start(move |mut connection| {
            let response = response.clone();
            async move {
                connection.request().await?;
                connection.send(&response).await?;
                connection.finish().await
            }
        })
        .await
    }

    pub(crate) async fn noticed(&mut self) -> Noticed {
        timeout(PATIENCE, self.noticed.recv()).await.expect("the stub should notice something").unwrap()
    }

    /// Passes over what comes before.
    pub(crate) async fn until(&mut self, wanted: Noticed) {
        while self.noticed().await != wanted {}
    }

    pub(crate) fn generator(&self) -> OpenAiGenerator {
        self.generator_with(patient())
    }

    pub(crate) fn generator_with(&self, timeouts: ProviderTimeouts) -> OpenAiGenerator {
        generator(&format!("http://{}/v1", self.address), timeouts)
    }

    /// One call, to its end.
    pub(crate) async fn ask(&self) -> Outcome {
        ask(&self.generator()).await
    }
}

pub(crate) struct Connection {
    socket: TcpStream,
    notice: mpsc::UnboundedSender<Noticed>,
}

impl Connection {
    pub(crate) async fn request(&mut self) -> std::io::Result<()> {
        let mut bytes = Vec::new();
        let head_end = loop {
            if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            self.more(&mut bytes).await?;
        };
        let head = String::from_utf8(bytes[..head_end].to_vec()).unwrap().to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        let length: usize = length.parse().unwrap();
        while bytes.len() < head_end + length {
            self.more(&mut bytes).await?;
        }
        let body = serde_json::from_slice(&bytes[head_end..]).unwrap();
        let _ = self.notice.send(Noticed::Request { head, body });
        Ok(())
    }

    async fn more(&mut self, bytes: &mut Vec<u8>) -> std::io::Result<()> {
        match self.socket.read_buf(bytes).await? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.socket.write_all(bytes.as_ref()).await?;
        self.socket.flush().await
    }

    /// Waits until the client closes, and says so.
    pub(crate) async fn closed(&mut self) -> std::io::Result<()> {
        let mut rest = [0; 1024];
        // A reset is a close, too.
        while matches!(self.socket.read(&mut rest).await, Ok(1..)) {}
        let _ = self.notice.send(Noticed::Closed);
        Ok(())
    }

    pub(crate) fn say(&self, what: &'static str) {
        let _ = self.notice.send(Noticed::Said(what));
    }

    /// Closes in order.
    pub(crate) async fn finish(mut self) -> std::io::Result<()> {
        self.socket.shutdown().await?;
        self.closed().await
    }
}

/// Longer than any test waits.
pub(crate) fn endless() -> ProviderTimeouts {
    let long = 10 * PATIENCE;
    ProviderTimeouts { connect: long, first_token: long, idle: long, total: long }
}

/// The head of a stream that ends when the connection is closed.
pub(crate) const SSE: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
/// The head of a stream whose cut can be told from its end.
pub(crate) const CHUNKED: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
pub(crate) const ROLE: &str =
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n";
pub(crate) const STOP: &str =
    "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
pub(crate) const USAGE: &str =
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":3}}\n\n";
pub(crate) const DONE: &str = "data: [DONE]\n\n";

pub(crate) fn token(text: &str) -> String {
    let chunk = serde_json::json!({
        "id": "c-1", "object": "chat.completion.chunk", "model": "gpt-test",
        "choices": [{ "index": 0, "delta": { "content": text }, "finish_reason": null }],
    });
    format!("data: {chunk}\n\n")
}

pub(crate) fn http_chunk(data: &str) -> String {
    format!("{:x}\r\n{data}\r\n", data.len())
}

/// An answer with a status, headers (each with its line end) and a body.
pub(crate) fn answer(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}")
}

pub(crate) fn request() -> GenerationRequest {
    support::request("Say hello")
}

pub(crate) async fn ask(generator: &OpenAiGenerator) -> Outcome {
    support::ask(generator, "Say hello").await
}
