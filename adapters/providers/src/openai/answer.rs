//! From events to an outcome. Pure, and tolerant: what is unknown, missing or null is passed over; what would lose or
//! cut text is an error.

use std::collections::BTreeMap;

use application::ports::{FinishReason, GenerationEvent, GeneratorError, Usage};
use domain::{
    ErrorClass,
    ai::{Trouble, estimate_tokens},
};
use serde_json::{Value, json};

use super::{refusal::Complaint, sse::SseEvent};

/// What is known of an answer so far.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// Every choice seen, with its finish reason. One is asked for; a server that sends more must finish them all.
    choices: BTreeMap<u64, Option<String>>,
    model: Option<String>,
    usage: Counts,
    refusal: String,
    /// Of the first choice, by their index.
    tool_calls: BTreeMap<u64, ToolCall>,
    tool_bytes: usize,
    /// The text's length, in bytes for the limit and in characters for the estimate.
    text_bytes: usize,
    text_chars: u64,
    prompt_chars: u64,
    started: bool,
}

/// A call of a tool, which comes in pieces.
#[derive(Debug, Default)]
struct ToolCall {
    id: String,
    name: String,
    arguments: String,
}

impl ToolCall {
    fn add(&mut self, piece: &Value) {
        let text = |path: &str| piece.pointer(path).and_then(Value::as_str).unwrap_or_default();
        // Id and name come once; some servers repeat them.
        if self.id.is_empty() {
            self.id = text("/id").to_owned();
        }
        if self.name.is_empty() {
            self.name = text("/function/name").to_owned();
        }
        self.arguments.push_str(text("/function/arguments"));
    }

    fn whole(self) -> Value {
        let function = json!({ "name": self.name, "arguments": self.arguments });
        json!({ "id": self.id, "type": "function", "function": function })
    }
}

#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    input: Option<u64>,
    output: Option<u64>,
}

/// What an event was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    /// A ping, an annotation, a role: the model has produced nothing.
    Nothing,
    /// Something was produced that is not part of the text: reasoning, a tool call, the end of a choice.
    Progress,
    /// Text of the first choice.
    Text(String),
    /// The server says that nothing follows.
    Done,
}

/// More text than any model writes.
const TEXT_LIMIT: usize = 16 * 1024 * 1024;
/// More tools than any model calls at once.
const MOST_TOOL_CALLS: usize = 128;
/// Fields of a delta that show the model at work.
const WORK: [&str; 6] =
    ["content", "refusal", "reasoning_content", "reasoning", "tool_calls", "function_call"];

impl Answer {
    /// An answer to a request of so many characters.
    pub(super) fn new(prompt_chars: u64) -> Self {
        Self { prompt_chars, ..Self::default() }
    }

    /// The tools that the model calls, once the answer has ended.
    pub(super) fn take_tool_calls(&mut self) -> Vec<Value> {
        std::mem::take(&mut self.tool_calls).into_values().map(ToolCall::whole).collect()
    }

    /// Takes the next event of a stream.
    pub(super) fn read(&mut self, event: &SseEvent) -> Result<Seen, GeneratorError> {
        let data = event.data.trim();
        if event.name == "error" {
            return Err(Complaint::from_error_event(data).judge(None, self.started));
        }
        match data {
            "" => Ok(Seen::Nothing),
            "[DONE]" => Ok(Seen::Done),
            _ => {
                let chunk = serde_json::from_str(data).map_err(|error| invalid("an event", data, &error))?;
                self.take(&chunk, "delta")
            }
        }
    }

    /// Takes a whole completion, as servers send it that do not stream.
    pub(super) fn read_whole(&mut self, body: &[u8]) -> Result<Seen, GeneratorError> {
        let completion = match serde_json::from_slice(body) {
            Ok(completion) => completion,
            Err(error) if error.is_eof() => return Err(self.truncated("the JSON answer broke off")),
            Err(error) => return Err(invalid("the answer", &String::from_utf8_lossy(body), &error)),
        };
        self.take(&completion, "message")
    }

    fn take(&mut self, chunk: &Value, part: &str) -> Result<Seen, GeneratorError> {
        if let Some(complaint) = Complaint::in_stream(chunk) {
            return Err(complaint.judge(None, self.started));
        }
        if let Some(model) = chunk.get("model").and_then(Value::as_str).filter(|model| !model.is_empty()) {
            self.model = Some(model.to_owned());
        }
        self.usage.take(chunk.get("usage"));
        let mut seen = Seen::Nothing;
        for choice in chunk.get("choices").and_then(Value::as_array).into_iter().flatten() {
            let index = choice.get("index").and_then(Value::as_u64).unwrap_or(0);
            // Asked for a stream, some servers send `message` all the same.
            let delta = choice.get(part).or_else(|| choice.get("message")).unwrap_or(&Value::Null);
            let worked = WORK.iter().any(|field| delta.get(field).is_some_and(is_something));
            let finish =
                choice.get("finish_reason").and_then(Value::as_str).filter(|reason| !reason.is_empty());
            if worked || finish.is_some() {
                let reason = self.choices.entry(index).or_default();
                if let Some(finish) = finish {
                    reason.get_or_insert_with(|| finish.to_owned());
                }
                if seen == Seen::Nothing {
                    seen = Seen::Progress;
                }
            }
            if index == 0 {
                if let Some(refusal) = delta.get("refusal").and_then(Value::as_str) {
                    self.refusal.push_str(refusal);
                }
                self.add_tool_calls(delta.get("tool_calls"));
                let text = text(delta.get("content"));
                if !text.is_empty() {
                    seen = Seen::Text(text);
                }
            }
        }
        self.started |= seen != Seen::Nothing;
        if let Seen::Text(text) = &seen {
            self.text_bytes += text.len();
            self.text_chars += text.chars().count() as u64;
        }
        let longest = self.text_bytes.max(self.refusal.len()).max(self.tool_bytes);
        if longest > TEXT_LIMIT || self.tool_calls.len() > MOST_TOOL_CALLS {
            return Err(too_large(format!("the answer is longer than {TEXT_LIMIT} bytes")));
        }
        Ok(seen)
    }

    fn add_tool_calls(&mut self, pieces: Option<&Value>) {
        let pieces = pieces.and_then(Value::as_array).into_iter().flatten();
        for (place, piece) in pieces.enumerate() {
            // A whole answer's calls have no index: they come in their order.
            let index = piece.get("index").and_then(Value::as_u64).unwrap_or(place as u64);
            self.tool_bytes +=
                piece.pointer("/function/arguments").and_then(Value::as_str).map_or(0, str::len);
            self.tool_calls.entry(index).or_default().add(piece);
        }
    }

    /// Whether the model has produced anything.
    pub(super) fn started(&self) -> bool {
        self.started
    }

    /// Whether every choice has ended: then nothing that follows can spoil the answer, only the usage is awaited.
    pub(super) fn complete(&self) -> bool {
        !self.choices.is_empty() && self.choices.values().all(Option::is_some)
    }

    /// The outcome when nothing more comes; `how` says how the stream ended, for the message.
    pub(super) fn end(&mut self, how: &str) -> Result<GenerationEvent, GeneratorError> {
        if !self.complete() {
            return Err(self.truncated(how));
        }
        let reason = self.choices.values().next().and_then(Option::as_deref).unwrap_or_default();
        let final_error = |code: &str, message: String| GeneratorError {
            class: ErrorClass::Permanent,
            trouble: Trouble::Refused,
            ..after_acceptance(code, message)
        };
        if reason == "content_filter" {
            let message = "the provider's content filter stopped the answer; change the prompt";
            return Err(final_error("content_filter", message.to_owned()));
        }
        if !self.refusal.trim().is_empty() {
            return Err(final_error("refusal", format!("the model refused: {}", self.refusal.trim())));
        }
        let reason = match reason {
            "error" => {
                let complaint =
                    Complaint { message: "the finish reason is error".to_owned(), ..Complaint::default() };
                return Err(complaint.judge(None, true));
            }
            "stop" | "stop_sequence" | "end_turn" | "eos" => FinishReason::Stop,
            "length" | "max_tokens" => FinishReason::Length,
            other => FinishReason::Other(other.chars().take(64).collect()),
        };
        Ok(GenerationEvent::Finished { reason, usage: self.used(), model: self.model.take() })
    }

    fn used(&self) -> Usage {
        // No output tokens for a text are no count.
        let output = self.usage.output.filter(|output| *output > 0 || self.text_chars == 0);
        Usage {
            input_tokens: self.usage.input.unwrap_or_else(|| estimate_tokens(self.prompt_chars)),
            output_tokens: output
                .unwrap_or_else(|| estimate_tokens(self.text_chars + self.tool_bytes as u64)),
            estimated: self.usage.input.is_none() || output.is_none(),
        }
    }

    pub(super) fn truncated(&self, how: &str) -> GeneratorError {
        let message = if self.started {
            format!(
                "the answer is truncated: {how} after {} characters, without a finish reason",
                self.text_chars
            )
        } else {
            format!("the answer is truncated: {how} before the first token")
        };
        after_acceptance("truncated", message)
    }
}

impl Counts {
    /// The chunk may be absent, null or `{}`; some servers count up with every chunk. The last number counts.
    fn take(&mut self, usage: Option<&Value>) {
        let count = |names: [&str; 2]| {
            let value = names.iter().find_map(|name| usage?.get(name).filter(|value| value.is_number()))?;
            value.as_u64().or_else(|| value.as_f64().filter(|float| *float >= 0.0).map(|float| float as u64))
        };
        let input = count(["prompt_tokens", "input_tokens"]);
        let total = count(["total_tokens", "total_tokens"]);
        let rest = total.zip(input).and_then(|(total, input)| total.checked_sub(input));
        let output = count(["completion_tokens", "output_tokens"]).or(rest);
        self.input = input.or(self.input);
        self.output = output.or(self.output);
    }
}

fn is_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => true,
    }
}

/// A text, or parts of which some are texts.
fn text(content: Option<&Value>) -> String {
    match content {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => {
            parts.iter().filter_map(|part| part.get("text").and_then(Value::as_str)).collect()
        }
        _ => String::new(),
    }
}

/// An error after the provider had begun to answer: it may be billed, and another try may go well.
pub(super) fn after_acceptance(code: &str, message: String) -> GeneratorError {
    GeneratorError {
        class: ErrorClass::Transient,
        trouble: Trouble::Overloaded,
        code: code.to_owned(),
        message,
        retry_after: None,
        billed: true,
    }
}

pub(super) fn too_large(message: String) -> GeneratorError {
    GeneratorError {
        class: ErrorClass::Permanent,
        trouble: Trouble::Refused,
        ..after_acceptance("response_too_large", message)
    }
}

fn invalid(what: &str, text: &str, error: &serde_json::Error) -> GeneratorError {
    let start: String = text.chars().take(200).collect();
    let message = format!(
        "{what} of the provider is no chat completion: {error} in {start:?}; check that the base URL leads to an \
         OpenAI-compatible server"
    );
    after_acceptance("invalid_response", message)
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
