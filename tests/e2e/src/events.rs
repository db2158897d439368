//! A reader of server-sent events (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).

use std::{collections::VecDeque, pin::Pin};

use futures_util::{Stream, StreamExt};
use serde_json::Value;

use crate::PATIENCE;

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// What kind.
    pub name: String,
    /// The point to resume after, where it has one.
    pub id: Option<String>,
    /// Its JSON.
    pub data: Value,
}

impl Event {
    /// The piece of text of a chunk; empty for others.
    pub fn text(&self) -> &str {
        self.data["text"].as_str().filter(|_| self.name == "chunk").unwrap_or_default()
    }
}

/// A connection to a task's live events. Dropping it closes the connection.
pub struct Events {
    body: Pin<Box<dyn Stream<Item = Vec<u8>>>>,
    unread: Vec<u8>,
    ready: VecDeque<Event>,
}

impl Events {
    pub(crate) fn new(answer: reqwest::Response) -> Self {
        // A server that is killed breaks its streams.
        let body = answer.bytes_stream().take_while(|bytes| std::future::ready(bytes.is_ok()));
        let body = body.filter_map(async |bytes| Some(bytes.ok()?.to_vec()));
        Self { body: Box::pin(body), unread: Vec::new(), ready: VecDeque::new() }
    }

    /// The next event; `None` once the stream has ended or is broken.
    ///
    /// # Panics
    ///
    /// When nothing comes in time.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let bytes = tokio::time::timeout(PATIENCE, self.body.next()).await;
            match bytes.unwrap_or_else(|_| panic!("no event within {PATIENCE:?}")) {
                Some(bytes) => self.unread.extend(bytes),
                None => return None,
            }
            while let Some(end) = self.unread.windows(2).position(|two| two == b"\n\n") {
                let block: Vec<u8> = self.unread.drain(..end + 2).collect();
                self.ready.extend(parse(&String::from_utf8_lossy(&block)));
            }
        }
    }

    /// The next event of this kind.
    ///
    /// # Panics
    ///
    /// When the stream ends before.
    pub async fn next_of(&mut self, name: &str) -> Event {
        loop {
            match self.next().await {
                Some(event) if event.name == name => return event,
                Some(_) => {}
                None => panic!("the stream ended before a {name} event"),
            }
        }
    }

    /// All events to the end of the stream.
    pub async fn rest(mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

/// What a reader has of a text, through any number of streams.
#[derive(Debug, Default)]
pub struct Joined {
    /// The text.
    pub text: String,
    /// The point to resume after.
    pub after: Option<String>,
    /// Attempts that began the text anew.
    pub resets: Vec<i64>,
}

impl Joined {
    /// Takes one event in, as every reader should.
    pub fn take(&mut self, event: &Event) {
        if event.name == "attempt_reset" {
            self.text.clear();
            self.resets.extend(event.data["attempt"].as_i64());
        }
        self.text.push_str(event.text());
        if event.id.is_some() {
            self.after.clone_from(&event.id);
        }
    }
}

/// One block of lines; `None` for one that is all comments.
fn parse(block: &str) -> Option<Event> {
    let mut event = Event { name: "message".to_owned(), id: None, data: Value::Null };
    let mut data = Vec::new();
    for line in block.lines() {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => event.name = value.to_owned(),
            "id" => event.id = Some(value.to_owned()),
            "data" => data.push(value),
            _ => {}
        }
    }
    let data = data.join("\n");
    event.data = serde_json::from_str(&data).ok()?;
    Some(event)
}
