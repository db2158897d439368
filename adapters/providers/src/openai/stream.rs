//! The answer as it arrives: bytes to events to chunks, under the three time-outs that run once the server is reached.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use application::ports::{Chunk, GenerationEvent, GeneratorError};
use tokio::time::{Instant, timeout_at};

use super::{
    Shared,
    answer::{Answer, Seen, after_acceptance, too_large},
    error_text,
    sse::{SseEvent, SseParser},
    timed_out,
};

/// Longer lines and events are no tokens.
const LINE_LIMIT: usize = 1 << 20;
const EVENT_LIMIT: usize = 1 << 20;
/// The longest answer that is not streamed, in bytes.
const BODY_LIMIT: usize = 32 << 20;
/// How long the usage is awaited once every choice has ended: the answer is there, and waits for nothing else.
const USAGE_GRACE: Duration = Duration::from_secs(2);

/// When the caller's patience ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadlines {
    pub(super) first_token: Instant,
    pub(super) total: Instant,
}

/// An answer being read. Dropping it closes the connection.
pub(super) struct Reading {
    response: reqwest::Response,
    format: Format,
    events: VecDeque<SseEvent>,
    answer: Answer,
    deadlines: Deadlines,
    /// The server sends nothing more.
    ended: Option<&'static str>,
    /// The end, behind what is told before it.
    last: Option<GenerationEvent>,
    /// A limit was passed, after the events that are still to be read.
    broken: Option<GeneratorError>,
    pub(super) shared: Arc<Shared>,
}

/// Some servers ignore `stream: true`, and some mislabel what they send: the first byte decides.
enum Format {
    Unknown(Vec<u8>),
    Events(Box<SseParser>),
    Whole(Vec<u8>),
}

/// What the wait for the next piece ended with.
enum Arrival {
    Piece,
    End,
}

impl Reading {
    pub(super) fn new(
        response: reqwest::Response,
        prompt_chars: u64,
        deadlines: Deadlines,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            response,
            format: Format::Unknown(Vec::new()),
            events: VecDeque::new(),
            answer: Answer::new(prompt_chars),
            deadlines,
            ended: None,
            last: None,
            broken: None,
            shared,
        }
    }

    /// The next chunk, or the end. Must not be called again after the end or an error.
    pub(super) async fn next(&mut self) -> Result<GenerationEvent, GeneratorError> {
        if let Some(end) = self.last.take() {
            return Ok(end);
        }
        let event = self.read_on().await?;
        if matches!(event, GenerationEvent::Finished { .. }) {
            let calls = self.answer.take_tool_calls();
            if !calls.is_empty() {
                self.last = Some(event);
                return Ok(GenerationEvent::ToolCalls(calls));
            }
        }
        Ok(event)
    }

    async fn read_on(&mut self) -> Result<GenerationEvent, GeneratorError> {
        // Counted from here and not from the last token: a slow reader is not the server's fault.
        let mut last_token = Instant::now();
        loop {
            while let Some(event) = self.events.pop_front() {
                match self.answer.read(&event) {
                    Ok(Seen::Nothing) => {}
                    Ok(Seen::Progress) => last_token = Instant::now(),
                    Ok(Seen::Text(text)) => return Ok(chunk(text)),
                    Ok(Seen::Done) => return self.answer.end("[DONE] came"),
                    // What is complete stays so, whatever goes wrong behind it.
                    Err(_) if self.answer.complete() => return self.answer.end(""),
                    // The last event, cut in its middle.
                    Err(error) if self.ended.is_some() && error.code == "invalid_response" => {
                        return Err(self.answer.truncated("the connection ended inside an event"));
                    }
                    Err(error) => return Err(error),
                }
            }
            if let Some(error) = self.broken.take() {
                return if self.answer.complete() { self.answer.end("") } else { Err(error) };
            }
            if let Some(how) = self.ended {
                return self.answer.end(how);
            }
            match self.arrive(last_token).await? {
                Arrival::Piece => {
                    if let Format::Whole(_) = self.format {
                        last_token = Instant::now();
                    }
                }
                Arrival::End => {
                    if let Some(text) = self.end()? {
                        return Ok(chunk(text));
                    }
                }
            }
        }
    }

    async fn arrive(&mut self, last_token: Instant) -> Result<Arrival, GeneratorError> {
        let Deadlines { first_token, total } = self.deadlines;
        let idle = self.shared.timeouts.idle;
        let reading_whole = matches!(self.format, Format::Whole(_));
        let (phase, code) = if self.answer.complete() {
            (last_token + USAGE_GRACE.min(idle), "idle_timeout")
        } else if self.answer.started() || reading_whole {
            (last_token + idle, "idle_timeout")
        } else {
            (first_token, "first_token_timeout")
        };
        let arrived = timeout_at(phase.min(total), self.response.chunk()).await;
        match arrived {
            Ok(Ok(Some(bytes))) => {
                self.feed(&bytes)?;
                Ok(Arrival::Piece)
            }
            Ok(Ok(None)) => Ok(Arrival::End),
            // The end of the usage's time, or a cut behind the last token.
            Err(_) | Ok(Err(_)) if self.answer.complete() => Ok(Arrival::End),
            Ok(Err(error)) => {
                Err(self.answer.truncated(&format!("the connection was cut ({})", error_text(error))))
            }
            Err(_) if total <= phase => Err(timed_out(&self.shared.timeouts, "total_timeout")),
            Err(_) => Err(timed_out(&self.shared.timeouts, code)),
        }
    }

    fn feed(&mut self, bytes: &[u8]) -> Result<(), GeneratorError> {
        if let Format::Unknown(start) = &mut self.format {
            start.extend_from_slice(bytes);
            if start.len() > LINE_LIMIT {
                return Err(too_large(format!(
                    "the answer begins with more than {LINE_LIMIT} bytes of nothing"
                )));
            }
            let Some(first) = first_byte(start) else { return Ok(()) };
            let start = std::mem::take(start);
            match first {
                b'{' | b'[' => self.format = Format::Whole(Vec::new()),
                b'<' => {
                    let page = String::from_utf8_lossy(&start).chars().take(200).collect::<String>();
                    let message = format!(
                        "the provider answered with a page and not with a completion: {page:?}; check the base URL"
                    );
                    return Err(after_acceptance("invalid_response", message));
                }
                _ => self.format = Format::Events(Box::new(SseParser::new(LINE_LIMIT, EVENT_LIMIT))),
            }
            return self.feed(&start);
        }
        match &mut self.format {
            Format::Events(parser) => {
                if let Err(too_long) = parser.push(bytes, &mut self.events) {
                    self.broken = Some(too_large(too_long.to_string()));
                }
            }
            Format::Whole(body) => {
                body.extend_from_slice(bytes);
                if body.len() > BODY_LIMIT {
                    return Err(too_large(format!("the answer is longer than {BODY_LIMIT} bytes")));
                }
            }
            Format::Unknown(_) => {}
        }
        Ok(())
    }

    /// The body is over: an event may stand in the parser, or the whole answer in the buffer.
    fn end(&mut self) -> Result<Option<String>, GeneratorError> {
        match &mut self.format {
            Format::Unknown(_) => self.ended = Some("the body was empty"),
            Format::Events(parser) => {
                self.ended = Some("the stream ended");
                match parser.finish() {
                    Ok(event) => self.events.extend(event),
                    Err(too_long) => self.broken = Some(too_large(too_long.to_string())),
                }
            }
            Format::Whole(body) => {
                self.ended = Some("the JSON answer ended");
                let body = std::mem::take(body);
                let body = body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&body);
                if let Seen::Text(text) = self.answer.read_whole(body)? {
                    return Ok(Some(text));
                }
            }
        }
        Ok(None)
    }
}

fn chunk(text: String) -> GenerationEvent {
    GenerationEvent::Chunk(Chunk { text, fraction: None })
}

/// The first byte that is neither white space nor (the beginning of) a byte order mark.
fn first_byte(start: &[u8]) -> Option<u8> {
    let rest = start.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(start);
    let undecided = b"\xEF\xBB\xBF".starts_with(rest);
    rest.iter().copied().find(|byte| !byte.is_ascii_whitespace()).filter(|_| !undecided)
}
