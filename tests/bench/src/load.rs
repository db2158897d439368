//! A load generator over raw connections: it has to be far cheaper than what it measures.
//!
//! One thread, HTTP/1.1 with keep-alive, one request under way on each connection, requests built before the clock
//! starts. Of an answer it reads the status, the length and the task's number, and nothing else.

use std::{
    cell::{Cell, RefCell},
    net::{Ipv4Addr, SocketAddr},
    ops::Range,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use futures_util::future::try_join_all;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::Instant,
};

/// How much of an unexpected answer an error shows.
const SHOWN: usize = 300;

/// A connection that is kept open.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// Where a server listens on the loopback.
pub fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

impl Connection {
    /// Connects.
    pub async fn open(server: SocketAddr) -> Result<Self> {
        let stream =
            TcpStream::connect(server).await.with_context(|| format!("nobody listens on {server}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(4096) })
    }

    /// Sends a request and reads its answer: status and body.
    pub async fn ask(&mut self, request: &[u8]) -> Result<(u16, &[u8])> {
        self.stream.write_all(request).await.context("the server closed the connection")?;
        self.buffer.clear();
        loop {
            if let Some(head) = parse(&self.buffer)?
                && self.buffer.len() >= head.body.end
            {
                return Ok((head.status, &self.buffer[head.body]));
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                bail!("the server closed the connection in the middle of an answer");
            }
        }
    }
}

/// The head of an answer.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    /// Where the body lies, once all of it is there.
    body: Range<usize>,
}

/// Reads the head of an answer once it is complete.
fn parse(bytes: &[u8]) -> Result<Option<Head>> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let shown = || String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN)]).into_owned();
    let status = bytes
        .strip_prefix(b"HTTP/1.")
        .and_then(|rest| rest.get(2..5))
        .and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok())
        .with_context(|| format!("this is not an HTTP/1 answer: {}", shown()))?;
    let mut length = None;
    for line in bytes[..end].split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            length = std::str::from_utf8(value).ok().and_then(|value| value.parse::<usize>().ok());
        }
    }
    let length = length.with_context(|| format!("the answer does not tell its length: {}", shown()))?;
    let start = end + 4;
    Ok(Some(Head { status, body: start..start + length }))
}

/// The number of the task in an answer to a submission.
pub fn task_id(body: &[u8]) -> Option<i64> {
    const NAME: &[u8] = b"\"id\":";
    let at = body.windows(NAME.len()).position(|part| part == NAME)?;
    let value = body[at + NAME.len()..].trim_ascii_start();
    let digits = value.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&value[..digits]).ok()?.parse().ok()
}

/// A submission of this JSON.
pub fn submission(body: &str) -> Vec<u8> {
    format!(
        "POST /api/v1/tasks HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// A question.
pub fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").into_bytes()
}

/// What came of many submissions.
#[derive(Debug)]
pub struct Submitted {
    /// When the first request was sent.
    pub began: Instant,
    /// From the first request to the last answer.
    pub took: Duration,
    /// From each request to its answer.
    pub latencies: Vec<Duration>,
    /// The highest number of a task.
    pub last: i64,
}

/// Submits `count` tasks over so many connections, each of which sends its next request when it has its answer. Every
/// submission has to be accepted.
pub async fn submit(
    server: SocketAddr,
    request: &[u8],
    count: usize,
    connections: usize,
) -> Result<Submitted> {
    let mut open = try_join_all((0..connections).map(|_| Connection::open(server))).await?;
    let (left, last) = (Cell::new(count), Cell::new(0));
    let latencies = RefCell::new(Vec::with_capacity(count));
    let began = Instant::now();
    let all = open.iter_mut().map(async |connection| {
        while left.get() > 0 {
            left.set(left.get() - 1);
            let sent = Instant::now();
            let (status, body) = connection.ask(request).await?;
            latencies.borrow_mut().push(sent.elapsed());
            match (status, task_id(body)) {
                (200..300, Some(id)) => last.set(last.get().max(id)),
                _ => bail!(
                    "a submission was answered {status} {}",
                    String::from_utf8_lossy(&body[..body.len().min(SHOWN)])
                ),
            }
        }
        Ok(())
    });
    try_join_all(all).await?;
    Ok(Submitted { began, took: began.elapsed(), latencies: latencies.into_inner(), last: last.get() })
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    const ANSWER: &[u8] =
        b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\ncontent-LENGTH: 9\r\n\r\n{\"id\":42}";

    #[test]
    fn an_answer_is_read_once_its_head_is_complete() {
        let head = parse(ANSWER).unwrap().unwrap();
        assert_eq!((head.status, &ANSWER[head.body]), (201, &b"{\"id\":42}"[..]));
        let blank = ANSWER.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        for length in 0..blank + 4 {
            assert_eq!(parse(&ANSWER[..length]).unwrap(), None, "{length}");
        }
    }

    #[test]
    fn what_cannot_be_measured_is_refused() {
        let error = parse(b"SSH-2.0-x\r\n\r\n").unwrap_err().to_string();
        assert!(error.contains("SSH-2.0-x"), "{error}");
        let error = parse(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").unwrap_err().to_string();
        assert!(error.contains("length"), "{error}");
    }

    #[test]
    fn the_number_of_a_task_is_found() {
        for (body, id) in [
            (r#"{"id":42,"type":"demo.noop"}"#, Some(42)),
            (r#"{"status":"PENDING","id": 7}"#, Some(7)),
            (r#"{"parent_id":7}"#, None),
            (r#"{"id":"x"}"#, None),
            ("", None),
        ] {
            assert_eq!(task_id(body.as_bytes()), id, "{body}");
        }
    }

    /// A server that gives every request this answer, a few bytes at a time.
    async fn server(answer: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind(loopback(0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut bytes = [0; 1024];
                    while stream.read(&mut bytes).await.is_ok_and(|count| count > 0) {
                        for piece in answer.chunks(40) {
                            stream.write_all(piece).await.unwrap();
                            stream.flush().await.unwrap();
                        }
                    }
                });
            }
        });
        address
    }

    #[tokio::test]
    async fn every_submission_is_sent_once_and_timed() {
        let submitted = submit(server(ANSWER).await, &submission("{}"), 50, 8).await.unwrap();
        assert_eq!((submitted.latencies.len(), submitted.last), (50, 42));
        assert!(submitted.latencies.iter().all(|latency| *latency <= submitted.took));
    }

    #[tokio::test]
    async fn a_refusal_ends_the_measurement() {
        let address = server(b"HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy").await;
        let error = submit(address, &submission("{}"), 5, 1).await.unwrap_err().to_string();
        assert!(error.contains("503 busy"), "{error}");
    }
}
