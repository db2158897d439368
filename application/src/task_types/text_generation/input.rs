//! What a text task takes.

use domain::{
    Timestamp,
    ai::{
        InvalidRequest, MAX_REPAIRS, MAX_TEXT, Message, OUTPUT_UNLESS_SAID, ResponseFormat, Role, Sampling,
        check_messages, estimate_tokens, text_of,
    },
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::OneOrMany;
use crate::{
    handler::TaskContext,
    ports::{Books, GenerationRequest},
};

/// The model of tasks that name none.
pub const DEFAULT_MODEL: &str = "gpt-3.5-turbo";
const LONGEST_MODEL: usize = 200;
/// How often the model is shown that its answer does not fit, unless the task says otherwise.
const DEFAULT_REPAIRS: u32 = 2;

/// Whether this can be the name of a model.
pub(in crate::task_types) fn check_model(model: Option<&str>) -> Result<(), InvalidRequest> {
    if model.is_some_and(|model| model.is_empty() || model.len() > LONGEST_MODEL) {
        return Err(InvalidRequest(format!("model: it is not 1 to {LONGEST_MODEL} bytes long")));
    }
    Ok(())
}

/// What the type takes: a `prompt` or `messages`, and how the model is to answer. What is null counts as absent.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TextGenerationInput {
    /// What the user says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// A conversation, instead of a prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages: Option<Vec<Message>>,
    /// What goes before all messages, as the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// The model; [`DEFAULT_MODEL`] when absent or null.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// As [`Sampling`] has it, like those that follow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// See above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// See above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// See above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<i64>,
    /// See above; a text or a list of texts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop: Option<OneOrMany>,
    /// See above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tools: Option<Vec<Value>>,
    /// See above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_choice: Option<Value>,
    /// The form of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_format: Option<ResponseFormat>,
    /// How often the model is shown that its answer does not fit, and asked again: 0 to 5, 2 unless said otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_repairs: Option<u32>,
    /// By when the answer is wanted, where that is not now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// Whether the next attempt goes on with what an interrupted one has written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub continue_partial: Option<bool>,
}

impl TextGenerationInput {
    /// Whether it can be asked; the error names the field at fault.
    pub(super) fn check(&self) -> Result<(), InvalidRequest> {
        let refuse = |why: &str| Err(InvalidRequest(why.to_owned()));
        match (&self.prompt, &self.messages) {
            (Some(_), Some(_)) => return refuse("prompt: it cannot be given together with messages"),
            (None, None) => return refuse("prompt: it is missing: give a prompt, or messages"),
            (Some(prompt), None) if prompt.trim().is_empty() => return refuse("prompt: it is empty"),
            (Some(_), None) | (None, Some(_)) => {}
        }
        check_model(self.model.as_deref())?;
        if let Some(odd) = self.max_repairs.filter(|repairs| *repairs > MAX_REPAIRS) {
            return Err(InvalidRequest(format!("max_repairs: {odd} is not between 0 and {MAX_REPAIRS}")));
        }
        if self.deadline.is_some() && self.continues() {
            return refuse(
                "deadline: an answer that is not urgent may come whole; leave out continue_partial",
            );
        }
        self.check_text()?;
        self.sampling().check()?;
        if let Some(format) = &self.response_format {
            format.check().map_err(|error| InvalidRequest(format!("response_format: {error}")))?;
            if format.is_json() && self.continues() {
                return refuse(
                    "continue_partial: an answer that has to be JSON is checked as a whole, and cannot be continued",
                );
            }
        }
        Ok(())
    }

    fn check_text(&self) -> Result<(), InvalidRequest> {
        if let Some(messages) = &self.messages {
            check_messages(messages)?;
        }
        for (field, text) in [("prompt", &self.prompt), ("system", &self.system)] {
            let chars = text.as_ref().map_or(0, |text| text.chars().count());
            if chars > MAX_TEXT {
                return Err(InvalidRequest(format!("{field}: {chars} characters are more than {MAX_TEXT}")));
            }
        }
        Ok(())
    }

    fn sampling(&self) -> Sampling {
        Sampling {
            temperature: self.temperature,
            top_p: self.top_p,
            max_tokens: self.max_tokens,
            seed: self.seed,
            stop: self.stop.clone().map(OneOrMany::into_vec).unwrap_or_default(),
            tools: self.tools.clone().unwrap_or_default(),
            tool_choice: self.tool_choice.clone(),
        }
    }

    /// How many tokens it takes, as far as that can be told before.
    pub(super) fn expected_tokens(&self) -> u64 {
        let texts = [&self.prompt, &self.system].into_iter().flatten().map(|text| text.chars().count());
        let messages =
            self.messages.iter().flatten().map(|message| text_of(&message.content).chars().count());
        let read = estimate_tokens(texts.chain(messages).sum::<usize>() as u64);
        read + self.max_tokens.map_or(OUTPUT_UNLESS_SAID, u64::from)
    }

    /// How often the model may be asked to put its answer right.
    pub(super) fn repairs(&self) -> u32 {
        self.max_repairs.unwrap_or(DEFAULT_REPAIRS)
    }

    /// Whether an interrupted answer is continued.
    pub(super) fn continues(&self) -> bool {
        self.continue_partial.unwrap_or(false)
    }

    /// What is asked of the model.
    pub(super) fn request(self, context: &TaskContext) -> GenerationRequest {
        let sampling = self.sampling();
        let system = self.system.map(|text| Message::text(Role::System, text));
        let prompt = self.prompt.map(|text| Message::text(Role::User, text));
        let messages = system.into_iter().chain(self.messages.into_iter().flatten()).chain(prompt);
        GenerationRequest {
            messages: messages.collect(),
            model: self.model.unwrap_or_else(|| DEFAULT_MODEL.to_owned()),
            sampling,
            format: self.response_format,
            deadline: self.deadline,
            task: context.task().id.0,
            attempt: context.task().attempt,
            books: Books::kept_by(context.clone()),
        }
    }
}
