//! A stand-in for an OpenAI-compatible server: it answers as it is told, and tells what it sees.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    task::JoinHandle,
};

use crate::PATIENCE;

/// How one request is answered.
#[derive(Debug, Clone)]
pub enum Reply {
    /// A word every 50 ms, without end.
    Endless,
    /// These words, in good order.
    Words(Vec<&'static str>),
    /// These words, and then the connection is closed in the middle of the answer.
    Cut(Vec<&'static str>),
    /// These words, and then these events as they are, in a stream that ends in good order.
    Ending(Vec<&'static str>, Vec<String>),
    /// This status, these headers and this body.
    Plain {
        /// Such as `200 OK`.
        status: &'static str,
        /// Further headers.
        headers: Vec<(&'static str, &'static str)>,
        /// Whatever it is.
        body: String,
    },
    /// No stream at all.
    Refusal {
        /// Such as `429 Too Many Requests`.
        status: &'static str,
        /// Further headers.
        headers: Vec<(&'static str, &'static str)>,
        /// The error's message; `{authorization}` in it is replaced by what the client sent.
        message: &'static str,
    },
}

/// What the server saw.
#[derive(Debug, Clone, PartialEq)]
pub enum Noticed {
    /// A request with this body and this Authorization header.
    Request {
        /// Its JSON.
        body: Value,
        /// Empty where there is none.
        authorization: String,
    },
    /// The client closed the connection of an answer without end.
    Closed,
}

/// A running stand-in.
#[derive(Debug)]
pub struct Provider {
    address: SocketAddr,
    noticed: mpsc::UnboundedReceiver<Noticed>,
    accepting: JoinHandle<()>,
}

/// How many requests are there, and how many were at most.
#[derive(Debug, Clone, Default)]
pub struct MostAtOnce(Arc<Mutex<(usize, usize)>>);

/// A request that is there.
struct Here(MostAtOnce);

impl MostAtOnce {
    /// The most since this was asked last.
    pub fn take(&self) -> usize {
        let mut counts = self.0.lock().expect("not poisoned");
        let now = counts.0;
        std::mem::replace(&mut counts.1, now)
    }

    fn enter(&self) -> Here {
        let mut counts = self.0.lock().expect("not poisoned");
        counts.0 += 1;
        counts.1 = counts.1.max(counts.0);
        Here(self.clone())
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        self.0.0.lock().expect("not poisoned").0 -= 1;
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Provider {
    /// Gives these answers in turn, the last one again and again.
    pub async fn start(replies: Vec<Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it has an address");
        let (notice, noticed) = mpsc::unbounded_channel();
        let mut replies = replies.into_iter().peekable();
        let accepting = tokio::spawn(async move {
            let mut last = None;
            while let Ok((socket, _)) = listener.accept().await {
                last = replies.next().or(last);
                let (reply, notice) = (last.clone().expect("at least one reply"), notice.clone());
                // An answer that fails has lost its client: the test sees what the client made of it.
                tokio::spawn(async move { serve(socket, reply, notice).await });
            }
        });
        Self { address, noticed, accepting }
    }

    /// Gives these answers to requests whose last message is the name beside them, each in turn and the last one again
    /// and again.
    ///
    /// # Panics
    ///
    /// When a request has another last message.
    pub async fn by_prompt(replies: Vec<(&'static str, Vec<Reply>)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it has an address");
        let (notice, noticed) = mpsc::unbounded_channel();
        let queues: HashMap<_, _> = replies
            .into_iter()
            .map(|(prompt, replies)| (prompt.to_owned(), Mutex::new(VecDeque::from(replies))))
            .collect();
        let queues = Arc::new(queues);
        let accepting = tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let (queues, notice) = (Arc::clone(&queues), notice.clone());
                tokio::spawn(async move {
                    let Ok((body, authorization)) = read_request(&mut socket).await else { return };
                    let prompt = last_message(&body);
                    let queue = queues.get(prompt).unwrap_or_else(|| panic!("nothing is said to {prompt:?}"));
                    let reply = {
                        let mut queue = queue.lock().expect("not poisoned");
                        let next = queue.pop_front().expect("at least one reply");
                        if queue.is_empty() {
                            queue.push_back(next.clone());
                        }
                        next
                    };
                    let _ = answer(socket, reply, body, authorization, notice).await;
                });
            }
        });
        Self { address, noticed, accepting }
    }

    /// The last messages of all requests that it has seen so far and nobody has looked at.
    pub fn prompts(&mut self) -> Vec<String> {
        let mut prompts = Vec::new();
        while let Ok(noticed) = self.noticed.try_recv() {
            if let Noticed::Request { body, .. } = noticed {
                prompts.push(last_message(&body).to_owned());
            }
        }
        prompts
    }

    /// Works like a model server of one's own: on so many requests at once, so long on each, while the others wait. The
    /// second value tells how many were there at once, at most, since it was asked last.
    pub async fn with_places(places: usize, takes: Duration) -> (Self, MostAtOnce) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it has an address");
        let (notice, noticed) = mpsc::unbounded_channel();
        let (places, most) = (Arc::new(Semaphore::new(places)), MostAtOnce::default());
        let counting = most.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let (places, counting, notice) = (Arc::clone(&places), counting.clone(), notice.clone());
                tokio::spawn(async move {
                    let Ok((body, authorization)) = read_request(&mut socket).await else { return };
                    let _here = counting.enter();
                    let Ok(_place) = places.acquire().await else { return };
                    tokio::time::sleep(takes).await;
                    let _ = answer(socket, Reply::Words(vec!["so"]), body, authorization, notice).await;
                });
            }
        });
        (Self { address, noticed, accepting }, most)
    }

    /// What `OPENAI_BASE_URL` has to be.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// What it sees next.
    ///
    /// # Panics
    ///
    /// When nothing happens.
    pub async fn notices(&mut self) -> Noticed {
        self.notices_within(PATIENCE).await
    }

    /// What it sees next.
    ///
    /// # Panics
    ///
    /// When nothing happens.
    pub async fn notices_within(&mut self, patience: Duration) -> Noticed {
        let noticed = tokio::time::timeout(patience, self.noticed.recv()).await;
        noticed.unwrap_or_else(|_| panic!("the provider saw nothing within {patience:?}")).expect("it runs")
    }
}

async fn serve(
    mut socket: TcpStream,
    reply: Reply,
    notice: mpsc::UnboundedSender<Noticed>,
) -> std::io::Result<()> {
    let (body, authorization) = read_request(&mut socket).await?;
    answer(socket, reply, body, authorization, notice).await
}

fn last_message(body: &Value) -> &str {
    let messages = body["messages"].as_array();
    messages.and_then(|all| all.last()).and_then(|last| last["content"].as_str()).unwrap_or_default()
}

async fn answer(
    mut socket: TcpStream,
    reply: Reply,
    body: Value,
    authorization: String,
    notice: mpsc::UnboundedSender<Noticed>,
) -> std::io::Result<()> {
    let _ = notice.send(Noticed::Request { body, authorization: authorization.clone() });
    match reply {
        Reply::Refusal { status, headers, message } => {
            let message = message.replace("{authorization}", &authorization);
            let body = json!({ "error": { "message": message, "type": "error", "code": null } }).to_string();
            let mut head = format!("HTTP/1.1 {status}\r\nconnection: close\r\n");
            for (name, value) in headers {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
            let length = body.len();
            head.push_str(&format!("content-type: application/json\r\ncontent-length: {length}\r\n\r\n"));
            socket.write_all(format!("{head}{body}").as_bytes()).await?;
        }
        Reply::Plain { status, headers, body } => {
            let mut head = format!("HTTP/1.1 {status}\r\nconnection: close\r\n");
            for (name, value) in headers {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
            let length = body.len();
            head.push_str(&format!("content-type: application/json\r\ncontent-length: {length}\r\n\r\n"));
            socket.write_all(format!("{head}{body}").as_bytes()).await?;
        }
        Reply::Ending(words, events) => {
            start_stream(&mut socket).await?;
            send_words(&mut socket, &words).await?;
            for event in events {
                send_chunk(&mut socket, &format!("data: {event}\n\n")).await?;
            }
            send_chunk(&mut socket, "").await?;
        }
        Reply::Words(words) => {
            start_stream(&mut socket).await?;
            send_words(&mut socket, &words).await?;
            for end in [r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#, "[DONE]"] {
                send_chunk(&mut socket, &format!("data: {end}\n\n")).await?;
            }
            send_chunk(&mut socket, "").await?;
        }
        Reply::Cut(words) => {
            start_stream(&mut socket).await?;
            send_words(&mut socket, &words).await?;
        }
        Reply::Endless => {
            start_stream(&mut socket).await?;
            let (mut reader, mut writer) = socket.into_split();
            let writing = async {
                let mut pause = tokio::time::interval(Duration::from_millis(50));
                loop {
                    pause.tick().await;
                    let text = word("word ");
                    if writer.write_all(http_chunk(&text).as_bytes()).await.is_err() {
                        return;
                    }
                }
            };
            let mut rest = [0; 256];
            tokio::select! {
                () = writing => {}
                // The client has nothing more to say: whatever ends the wait is the end of the connection.
                _ = reader.read(&mut rest) => {}
            }
            let _ = notice.send(Noticed::Closed);
            return Ok(());
        }
    }
    socket.shutdown().await
}

/// The JSON body and the Authorization header.
async fn read_request(socket: &mut TcpStream) -> std::io::Result<(Value, String)> {
    let mut bytes = Vec::new();
    loop {
        if let Some(head_end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..head_end]).into_owned();
            let header = |wanted: &str| {
                let mut headers = head.lines().filter_map(|line| line.split_once(": "));
                let found = headers.find(|(name, _)| name.eq_ignore_ascii_case(wanted));
                found.map_or(String::new(), |(_, value)| value.to_owned())
            };
            let length: usize = header("content-length").parse().unwrap_or(0);
            if bytes.len() >= head_end + 4 + length {
                let body = serde_json::from_slice(&bytes[head_end + 4..]).unwrap_or(Value::Null);
                return Ok((body, header("authorization")));
            }
        }
        if socket.read_buf(&mut bytes).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}

async fn start_stream(socket: &mut TcpStream) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    socket.write_all(head.as_bytes()).await
}

async fn send_words(socket: &mut TcpStream, words: &[&str]) -> std::io::Result<()> {
    for text in words {
        send_chunk(socket, &word(text)).await?;
    }
    Ok(())
}

async fn send_chunk(socket: &mut TcpStream, data: &str) -> std::io::Result<()> {
    socket.write_all(http_chunk(data).as_bytes()).await
}

fn http_chunk(data: &str) -> String {
    format!("{:x}\r\n{data}\r\n", data.len())
}

fn word(text: &str) -> String {
    let chunk = json!({
        "id": "chat-1", "object": "chat.completion.chunk", "model": "stub-model",
        "choices": [{ "index": 0, "delta": { "content": text }, "finish_reason": null }],
    });
    format!("data: {chunk}\n\n")
}
