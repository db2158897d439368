//! What a model may be asked: every text, number and list has its bounds.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The most text in one request, in characters.
pub const MAX_TEXT: usize = 1_000_000;
const MOST_MESSAGES: usize = 1_000;
const MOST_TOOLS: usize = 128;
const MOST_STOPS: usize = 4;
const LONGEST_STOP: usize = 200;
const MOST_TOKENS: u32 = 1_000_000;

/// What is wrong with a request, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidRequest(pub String);

fn refuse<T>(why: impl Into<String>) -> Result<T, InvalidRequest> {
    Err(InvalidRequest(why.into()))
}

/// Who says something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Whoever built the application.
    System,
    /// The same, as newer models call it.
    Developer,
    /// Whoever uses it.
    User,
    /// The model.
    Assistant,
    /// What a tool answered.
    Tool,
}

/// One message of a conversation, as OpenAI's chat completions have it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Who says it.
    pub role: Role,
    /// A text, or a list of parts; null beside tool calls.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub content: Value,
    /// Tells speakers of one role apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Tools that the assistant called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<Value>>,
    /// Which call a tool answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
}

impl Message {
    /// A plain text.
    pub fn text(role: Role, text: impl Into<String>) -> Self {
        Self { role, content: Value::String(text.into()), name: None, tool_calls: None, tool_call_id: None }
    }

    fn check(&self) -> Result<(), InvalidRequest> {
        let calls_tools =
            self.role == Role::Assistant && self.tool_calls.as_ref().is_some_and(|all| !all.is_empty());
        match &self.content {
            Value::String(_) => {}
            Value::Array(parts) => {
                let is_part = |part: &Value| part.get("type").is_some_and(Value::is_string);
                if parts.is_empty() || !parts.iter().all(is_part) {
                    return refuse("a list of parts is empty, or one of them is no object with a type");
                }
            }
            Value::Null if calls_tools => {}
            Value::Null => return refuse("content is missing"),
            _ => return refuse("content is neither a text nor a list of parts"),
        }
        if self.tool_calls.is_some() && self.role != Role::Assistant {
            return refuse("only an assistant's message has tool_calls");
        }
        if (self.role == Role::Tool) != self.tool_call_id.is_some() {
            return refuse("tool_call_id goes with the role tool, and only with it");
        }
        if self.tool_calls.iter().flatten().any(|call| !call.is_object()) {
            return refuse("one of tool_calls is no object");
        }
        Ok(())
    }
}

/// The text of a message's content: whole, or of its parts.
pub fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            parts.iter().filter_map(|part| part.get("text").and_then(Value::as_str)).collect()
        }
        _ => String::new(),
    }
}

/// Whether these messages can be sent; the error names the one at fault.
pub fn check_messages(messages: &[Message]) -> Result<(), InvalidRequest> {
    if messages.is_empty() || messages.len() > MOST_MESSAGES {
        return refuse(format!("messages: {} are not 1 to {MOST_MESSAGES}", messages.len()));
    }
    for (place, message) in messages.iter().enumerate() {
        message.check().map_err(|error| InvalidRequest(format!("messages[{place}]: {error}")))?;
    }
    let chars: usize = messages.iter().map(|message| text_of(&message.content).chars().count()).sum();
    if chars > MAX_TEXT {
        return refuse(format!("messages: {chars} characters are more than {MAX_TEXT}"));
    }
    Ok(())
}

/// How the model is to answer. What is absent is left to the provider.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sampling {
    /// 0 to 2.
    pub temperature: Option<f64>,
    /// Above 0, at most 1.
    pub top_p: Option<f64>,
    /// 1 to a million.
    pub max_tokens: Option<u32>,
    /// Any.
    pub seed: Option<i64>,
    /// At most four texts that end the answer.
    pub stop: Vec<String>,
    /// Functions that the model may call, as OpenAI's API has them.
    pub tools: Vec<Value>,
    /// Whether it may, must, or which.
    pub tool_choice: Option<Value>,
}

impl Sampling {
    /// Whether all of it is within bounds; the error names the field.
    pub fn check(&self) -> Result<(), InvalidRequest> {
        if let Some(odd) = self.temperature.filter(|value| !(0.0..=2.0).contains(value)) {
            return refuse(format!("temperature: {odd} is not between 0 and 2"));
        }
        if let Some(odd) = self.top_p.filter(|value| !(*value > 0.0 && *value <= 1.0)) {
            return refuse(format!("top_p: {odd} is not above 0 and at most 1"));
        }
        if let Some(odd) = self.max_tokens.filter(|value| !(1..=MOST_TOKENS).contains(value)) {
            return refuse(format!("max_tokens: {odd} is not between 1 and {MOST_TOKENS}"));
        }
        if self.stop.len() > MOST_STOPS {
            return refuse(format!("stop: {} texts are more than {MOST_STOPS}", self.stop.len()));
        }
        if self.stop.iter().any(|text| text.is_empty() || text.len() > LONGEST_STOP) {
            return refuse(format!("stop: one of the texts is not 1 to {LONGEST_STOP} bytes long"));
        }
        self.check_tools()
    }

    fn check_tools(&self) -> Result<(), InvalidRequest> {
        if self.tools.len() > MOST_TOOLS {
            return refuse(format!("tools: {} are more than {MOST_TOOLS}", self.tools.len()));
        }
        for (place, tool) in self.tools.iter().enumerate() {
            if tool.get("type").and_then(Value::as_str) != Some("function") {
                return refuse(format!("tools[{place}]: it is no object of type function"));
            }
            let name = tool.pointer("/function/name").and_then(Value::as_str).unwrap_or_default();
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
            if name.is_empty() || name.len() > 64 || !name.bytes().all(allowed) {
                return refuse(format!(
                    "tools[{place}]: function.name is not 1 to 64 letters, digits, '_' or '-'"
                ));
            }
        }
        match &self.tool_choice {
            None => Ok(()),
            Some(_) if self.tools.is_empty() => refuse("tool_choice: there are no tools"),
            Some(Value::String(word)) if matches!(word.as_str(), "none" | "auto" | "required") => Ok(()),
            Some(choice) => {
                let named = choice.pointer("/function/name").and_then(Value::as_str);
                let known = |tool: &Value| tool.pointer("/function/name").and_then(Value::as_str) == named;
                if named.is_some() && self.tools.iter().any(known) {
                    Ok(())
                } else {
                    refuse(
                        "tool_choice: it is none of \"none\", \"auto\", \"required\" and names no function of tools",
                    )
                }
            }
        }
    }
}

/// What may be asked of a model that makes vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmbeddingLimits {
    /// The largest result that is kept, in bytes.
    pub largest_result: usize,
}

/// What a number of a vector of length 1 takes in a result, in bytes: 13 digits, signs and points at most on average,
/// and a comma.
const BYTES_OF_A_NUMBER: usize = 14;

impl EmbeddingLimits {
    /// The most texts in one request.
    pub const MOST_TEXTS: usize = 256;
    /// The most numbers in a vector.
    pub const MOST_DIMENSIONS: u32 = 10_000;

    /// How many numbers a model's vectors have unless fewer are asked for, where that is common knowledge.
    /// Source: <https://platform.openai.com/docs/guides/embeddings>.
    pub fn own_dimensions(model: &str) -> Option<u32> {
        match model {
            "text-embedding-3-small" | "text-embedding-ada-002" => Some(1_536),
            "text-embedding-3-large" => Some(3_072),
            _ => None,
        }
    }

    /// How many texts' vectors of so many numbers fit into a result.
    pub fn most_texts(self, dimensions: u32) -> usize {
        // Each vector has its brackets, less the comma after its last number, and its own comma; the list has two brackets.
        self.largest_result.saturating_sub(2) / (dimensions as usize * BYTES_OF_A_NUMBER + 2)
    }

    /// Whether these texts can be sent, and their vectors be kept: a model is not paid for what would be thrown away. The
    /// error names the field.
    pub fn check(self, texts: &[String], model: &str, dimensions: Option<u32>) -> Result<(), InvalidRequest> {
        if texts.is_empty() || texts.len() > Self::MOST_TEXTS {
            return refuse(format!("input: {} texts are not 1 to {}", texts.len(), Self::MOST_TEXTS));
        }
        if let Some(place) = texts.iter().position(String::is_empty) {
            return refuse(format!("input: text {place} is empty"));
        }
        let chars: usize = texts.iter().map(|text| text.chars().count()).sum();
        if chars > MAX_TEXT {
            return refuse(format!("input: {chars} characters are more than {MAX_TEXT}"));
        }
        if let Some(odd) = dimensions.filter(|value| !(1..=Self::MOST_DIMENSIONS).contains(value)) {
            return refuse(format!("dimensions: {odd} is not between 1 and {}", Self::MOST_DIMENSIONS));
        }
        match dimensions.or_else(|| Self::own_dimensions(model)) {
            Some(dimensions) => self.check_room(texts.len(), dimensions),
            None => Ok(()),
        }
    }

    fn check_room(self, texts: usize, dimensions: u32) -> Result<(), InvalidRequest> {
        let (most, largest) = (self.most_texts(dimensions), self.largest_result);
        if texts <= most {
            return Ok(());
        }
        let way_out = match most {
            0 => "ask for fewer dimensions".to_owned(),
            _ => format!("send at most {most} texts at once, or ask for fewer dimensions"),
        };
        refuse(format!(
            "input: {texts} vectors of {dimensions} numbers do not fit into the {largest} bytes that a result may have: {way_out}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// As wide as the configuration has it by default.
    const ROOMY: EmbeddingLimits = EmbeddingLimits { largest_result: 4 * 1_048_576 };

    fn message(value: Value) -> Result<(), InvalidRequest> {
        let message: Message =
            serde_json::from_value(value).map_err(|error| InvalidRequest(error.to_string()))?;
        check_messages(&[message])
    }

    #[test]
    fn conversations_of_every_form_are_taken() {
        for good in [
            json!({ "role": "user", "content": "Hi" }),
            json!({ "role": "developer", "content": "Be brief", "name": "us" }),
            json!({ "role": "user", "content": [{ "type": "text", "text": "Hi" }, { "type": "image_url", "image_url": { "url": "https://a.example/b.png" } }] }),
            json!({ "role": "assistant", "content": null, "tool_calls": [{ "id": "c1", "type": "function", "function": { "name": "f", "arguments": "{}" } }] }),
            json!({ "role": "tool", "content": "12", "tool_call_id": "c1" }),
        ] {
            assert_eq!(message(good.clone()), Ok(()), "{good}");
        }
    }

    #[test]
    fn what_no_provider_would_take_is_named() {
        for (bad, part) in [
            (json!({ "role": "boss", "content": "Hi" }), "boss"),
            (json!({ "role": "user", "contents": "Hi" }), "contents"),
            (json!({ "role": "user" }), "content is missing"),
            (json!({ "role": "user", "content": 7 }), "neither a text"),
            (json!({ "role": "user", "content": [] }), "list of parts"),
            (json!({ "role": "user", "content": ["Hi"] }), "list of parts"),
            (json!({ "role": "assistant", "content": null, "tool_calls": [] }), "content is missing"),
            (json!({ "role": "assistant", "content": "", "tool_calls": [7] }), "no object"),
            (json!({ "role": "user", "content": "", "tool_calls": [] }), "only an assistant"),
            (json!({ "role": "tool", "content": "12" }), "tool_call_id"),
            (json!({ "role": "user", "content": "12", "tool_call_id": "c1" }), "tool_call_id"),
        ] {
            let error = message(bad.clone()).expect_err("refused").to_string();
            assert!(error.contains(part), "{bad}: {error}");
        }
        let many = vec![Message::text(Role::User, "Hi"); MOST_MESSAGES + 1];
        assert!(check_messages(&many).is_err() && check_messages(&[]).is_err());
        let long = [Message::text(Role::User, "x".repeat(MAX_TEXT)), Message::text(Role::User, "y")];
        assert!(check_messages(&long).expect_err("too long").to_string().contains("1000001"));
    }

    #[test]
    fn every_number_has_its_bounds() {
        let tool = json!({ "type": "function", "function": { "name": "look_up" } });
        let good = Sampling {
            temperature: Some(2.0),
            top_p: Some(1.0),
            max_tokens: Some(1),
            seed: Some(i64::MIN),
            stop: vec!["\n".into()],
            tools: vec![tool.clone()],
            tool_choice: Some(json!({ "type": "function", "function": { "name": "look_up" } })),
        };
        assert_eq!(good.check(), Ok(()));
        for (bad, field) in [
            (Sampling { temperature: Some(2.1), ..good.clone() }, "temperature"),
            (Sampling { temperature: Some(f64::NAN), ..good.clone() }, "temperature"),
            (Sampling { top_p: Some(0.0), ..good.clone() }, "top_p"),
            (Sampling { max_tokens: Some(0), ..good.clone() }, "max_tokens"),
            (Sampling { max_tokens: Some(u32::MAX), ..good.clone() }, "max_tokens"),
            (Sampling { stop: vec!["x".into(); 5], ..good.clone() }, "stop"),
            (Sampling { stop: vec![String::new()], ..good.clone() }, "stop"),
            (Sampling { tools: vec![tool.clone(); 129], ..good.clone() }, "tools"),
            (
                Sampling {
                    tools: vec![json!({ "type": "function", "function": { "name": "no spaces" } })],
                    ..good.clone()
                },
                "tools[0]",
            ),
            (Sampling { tools: vec![json!("look_up")], ..good.clone() }, "tools[0]"),
            (Sampling { tools: vec![], ..good.clone() }, "tool_choice"),
            (Sampling { tool_choice: Some(json!("perhaps")), ..good.clone() }, "tool_choice"),
            (
                Sampling { tool_choice: Some(json!({ "function": { "name": "other" } })), ..good.clone() },
                "tool_choice",
            ),
        ] {
            let error = bad.check().expect_err(field).to_string();
            assert!(error.starts_with(&format!("{field}: ")), "{field}: {error}");
        }
    }

    #[test]
    fn texts_for_vectors_have_their_bounds() {
        let check = |texts: &[&str], dimensions| {
            let texts: Vec<_> = texts.iter().map(|text| (*text).to_owned()).collect();
            ROOMY.check(&texts, "m", dimensions).map_err(|error| error.to_string())
        };
        assert_eq!(check(&["a", "b"], Some(256)), Ok(()));
        for (texts, dimensions, field) in [
            (&[][..], None, "input"),
            (&["a"; 257], None, "input"),
            (&["a", ""], None, "input"),
            (&["a"], Some(0), "dimensions"),
            (&["a"], Some(10_001), "dimensions"),
        ] {
            assert!(check(texts, dimensions).expect_err(field).starts_with(field), "{field}");
        }
    }

    #[test]
    fn vectors_that_could_not_be_kept_are_refused_before_they_are_paid_for() {
        let (small, large) = ("text-embedding-3-small", "text-embedding-3-large");
        for (model, dimensions, most) in [
            (small, None, 195),
            (large, None, 97),
            (large, Some(1_536), 195),
            ("m", Some(10_000), 29),
            // Nobody knows how large those are.
            ("m", None, EmbeddingLimits::MOST_TEXTS),
            (small, Some(1_170), EmbeddingLimits::MOST_TEXTS),
        ] {
            let check = |count| ROOMY.check(&vec!["x".to_owned(); count], model, dimensions);
            assert_eq!(check(most), Ok(()), "{model} {dimensions:?}");
            if most < EmbeddingLimits::MOST_TEXTS {
                let error = check(most + 1).expect_err(model).to_string();
                assert!(error.contains(&format!("at most {most} texts")), "{error}");
            }
        }
        let narrow = EmbeddingLimits { largest_result: 10_000 };
        let error = narrow.check(&["x".to_owned()], small, None).expect_err("too large").to_string();
        assert!(error.ends_with("a result may have: ask for fewer dimensions"), "{error}");
    }

    proptest! {
        /// Numbers that are drawn from a sphere of length 1, where those of most models lie.
        #[test]
        fn vectors_that_are_let_through_fit(
            wide in prop::collection::vec(-1.0_f32..1.0, 32..3_072),
            largest_result in 10_000_usize..1_000_000,
        ) {
            let length = wide.iter().map(|number| number * number).sum::<f32>().sqrt();
            let vector: Vec<f32> = wide.iter().map(|number| number / length).collect();
            let most = EmbeddingLimits { largest_result }.most_texts(vector.len() as u32);
            let result = serde_json::to_string(&vec![vector; most]).expect("JSON");
            prop_assert!(result.len() <= largest_result, "{most}: {}", result.len());
        }
    }
}
