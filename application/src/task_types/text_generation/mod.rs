//! `ai.text_generation`: a prompt or a conversation for a model; the answer is streamed while it is written, and is the
//! result. [`input`] is what may be asked, [`answer`] one answer of a model.

mod answer;
mod input;

use domain::{
    Failure, Json, TaskId,
    ai::{Message, ResponseFormat, Role},
};
use serde_json::{Value, json};

pub(crate) use self::answer::soft_limit;
use self::answer::{Answer, ask};
pub(super) use self::input::check_model;
pub use self::input::{DEFAULT_MODEL, TextGenerationInput};
use super::Models;
use crate::{
    handler::TaskContext,
    ports::{Books, FinishReason, GenerationRequest, TaskStore, TextGenerator},
    registry::{Output, TaskTypeSpec},
};

pub(super) const NAME: &str = "ai.text_generation";
/// Stored chunks read at once.
const PAGE: usize = 500;

pub(super) fn spec(models: &Models) -> TaskTypeSpec {
    let models = models.clone();
    TaskTypeSpec::new(
        NAME,
        "Generates text from a prompt or a conversation; the answer streams live and is the result.",
        move |context, input| generate(models.clone(), context, input),
    )
    .checked(|input: &TextGenerationInput| input.check().map_err(|error| error.to_string()))
    .costing(TextGenerationInput::expected_tokens)
    .example(r#"{"prompt":"Explain quantum computing","model":"gpt-3.5-turbo"}"#)
}

async fn generate(
    models: Models,
    context: TaskContext,
    input: TextGenerationInput,
) -> Result<Output, Failure> {
    // What was submitted in SQL, or before these rules, was not checked by them.
    input
        .check()
        .map_err(|error| Failure::permanent("invalid_input", format!("the input is not valid: {error}")))?;
    context.progress(0, 100, Some("waiting for the model"));
    let (repairs, continues) = (input.repairs(), input.continues());
    let mut request = input.request(&context);
    let model = request.model.clone();
    let format = request.format.clone().filter(ResponseFormat::is_json);
    let mut before = String::new();
    if continues {
        before = earlier_text(models.store.as_ref(), &context).await?;
    }
    if !before.is_empty() {
        // The attempt's own output is whole: readers begin anew with it.
        context.chunk(&before);
        request.messages.push(Message::text(Role::Assistant, before.as_str()));
    }
    let mut report = Report::new(model);
    loop {
        let written = before.chars().count();
        let answer =
            ask(models.generator.as_ref(), &context, request.clone(), format.is_none(), written).await?;
        report.add(&answer);
        let Some(format) = &format else {
            return report.output(&context, said(before, &answer)?, &answer);
        };
        if !answer.tool_calls.is_empty() {
            context.chunk(&answer.text);
            return report.output(&context, said(before, &answer)?, &answer);
        }
        let misfit = match format.read(&answer.text) {
            Ok(json) => {
                // Shown only now: what readers see is what the task comes to.
                context.chunk(json.as_str());
                return report.output(&context, json, &answer);
            }
            Err(misfit) => misfit,
        };
        // An answer that was cut would be cut again.
        let cut = answer.reason == FinishReason::Length;
        if cut || report.repairs >= repairs {
            context.chunk(&answer.text);
            let why = if cut { " (it was cut at the length limit: raise max_tokens)" } else { "" };
            let message = format!(
                "the answer is not what response_format asks for, after {} repairs: {misfit}{why}",
                report.repairs
            );
            return Err(Failure::permanent("output_invalid", message));
        }
        report.repairs += 1;
        context.progress(0, 100, Some("asking for a corrected answer"));
        request.messages.push(Message::text(Role::Assistant, answer.text));
        request.messages.push(Message::text(Role::User, misfit.request()));
    }
}

/// What a model has written.
pub(super) struct Written {
    pub(super) text: String,
    /// About it: model, provider, finish reason, usage, cost.
    pub(super) details: Value,
}

/// Has a model answer a prompt, live.
pub(super) async fn write(
    generator: &dyn TextGenerator,
    context: &TaskContext,
    model: String,
    prompt: String,
) -> Result<Written, Failure> {
    context.progress(0, 100, Some("waiting for the model"));
    let request = GenerationRequest {
        model: model.clone(),
        messages: vec![Message::text(Role::User, prompt)],
        task: context.task().id.0,
        attempt: context.task().attempt,
        books: Books::kept_by(context.clone()),
        ..GenerationRequest::default()
    };
    let answer = ask(generator, context, request, true, 0).await?;
    let mut report = Report::new(model);
    report.add(&answer);
    let details = report.details(context, &answer);
    Ok(Written { text: answer.text, details })
}

/// What the last attempt before this one has written, as the store has it.
async fn earlier_text(store: &dyn TaskStore, context: &TaskContext) -> Result<String, Failure> {
    let (task, now): (TaskId, u32) = (context.task().id, context.task().attempt);
    let (mut after, mut text) = ((0, 0), String::new());
    loop {
        let chunks = store.chunks_after(task, after, PAGE).await.map_err(|error| {
            Failure::transient(
                "store_unavailable",
                format!("what was written before cannot be read: {error}"),
            )
        })?;
        let last = chunks.len() < PAGE;
        for chunk in chunks {
            if chunk.attempt >= now {
                return Ok(text);
            }
            if chunk.attempt != after.0 {
                text.clear();
            }
            text.push_str(&chunk.text);
            after = (chunk.attempt, chunk.seq);
        }
        if last {
            return Ok(text);
        }
    }
}

/// The result: the text, or with tool calls an object of both.
fn said(before: String, answer: &Answer) -> Result<Json, Failure> {
    let text = before + &answer.text;
    let result = if answer.tool_calls.is_empty() {
        Value::String(text)
    } else {
        let content = if text.is_empty() { Value::Null } else { Value::String(text) };
        json!({ "content": content, "tool_calls": answer.tool_calls })
    };
    Json::from_value(&result)
        .map_err(|error| Failure::permanent("invalid_result", format!("the result {error}")))
}

/// What is told about the result.
struct Report {
    model: String,
    repairs: u32,
    input_tokens: u64,
    output_tokens: u64,
    estimated: bool,
    cost_micros: Option<u64>,
}

impl Report {
    fn new(model: String) -> Self {
        Self { model, repairs: 0, input_tokens: 0, output_tokens: 0, estimated: false, cost_micros: Some(0) }
    }

    fn add(&mut self, answer: &Answer) {
        self.input_tokens = self.input_tokens.saturating_add(answer.usage.input_tokens);
        self.output_tokens = self.output_tokens.saturating_add(answer.usage.output_tokens);
        self.estimated |= answer.usage.estimated;
        self.cost_micros =
            self.cost_micros.zip(answer.cost_micros).map(|(sum, cost)| sum.saturating_add(cost));
    }

    fn output(self, context: &TaskContext, result: Json, answer: &Answer) -> Result<Output, Failure> {
        Output { result, details: None }.with_details(&self.details(context, answer))
    }

    /// The work is done with this.
    fn details(self, context: &TaskContext, answer: &Answer) -> Value {
        context.progress(100, 100, Some("done"));
        let mut details = json!({
            "model": answer.model.as_ref().unwrap_or(&self.model),
            "finish_reason": answer.reason.as_str(),
            "incomplete": answer.reason == FinishReason::Length,
            "usage": {
                "input_tokens": self.input_tokens,
                "output_tokens": self.output_tokens,
                "estimated": self.estimated,
            },
        });
        if let Some(provider) = &answer.provider {
            details["provider"] = json!(provider);
        }
        if let Some(cost) = self.cost_micros {
            details["cost_micros"] = json!(cost);
        }
        if self.repairs > 0 {
            details["repairs"] = json!(self.repairs);
        }
        details
    }
}
