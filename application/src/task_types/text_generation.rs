//! `ai.text_generation`: a prompt for a model; the answer is streamed while it is written, and is the result.

use std::sync::Arc;

use domain::{ErrorClass, Failure};
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    handler::TaskContext,
    ports::{FinishReason, GenerationEvent, GenerationRequest, TextGenerator},
    registry::{Output, TaskTypeSpec},
};

pub(super) const NAME: &str = "ai.text_generation";
/// The model of tasks that name none.
pub const DEFAULT_MODEL: &str = "gpt-3.5-turbo";

/// What the type takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextGenerationInput {
    /// What the user says.
    pub prompt: String,
    /// The model; [`DEFAULT_MODEL`] when absent or null.
    #[serde(default)]
    pub model: Option<String>,
}

pub(super) fn spec(generator: Arc<dyn TextGenerator>) -> TaskTypeSpec {
    TaskTypeSpec::new(
        NAME,
        "Generates text from a prompt; the answer streams live and is the result.",
        move |context, input| generate(Arc::clone(&generator), context, input),
    )
    .example(r#"{"prompt":"Explain quantum computing","model":"gpt-3.5-turbo"}"#)
}

async fn generate(
    generator: Arc<dyn TextGenerator>,
    context: TaskContext,
    input: TextGenerationInput,
) -> Result<Output, Failure> {
    let model = input.model.unwrap_or_else(|| DEFAULT_MODEL.to_owned());
    let written = write(generator.as_ref(), &context, model, input.prompt).await?;
    Output::of(&written.text)?.with_details(&written.details)
}

/// What a model has written.
pub(super) struct Written {
    pub(super) text: String,
    /// About it: model, finish reason, usage.
    pub(super) details: serde_json::Value,
}

/// Has a model write, live.
pub(super) async fn write(
    generator: &dyn TextGenerator,
    context: &TaskContext,
    model: String,
    prompt: String,
) -> Result<Written, Failure> {
    let request = GenerationRequest { model: model.clone(), prompt, task: context.task().id.0 };
    context.progress(0, 100, Some("waiting for the model"));
    let mut events = tokio::select! {
        started = generator.generate(request) => started?,
        () = context.soft_limit_passed() => return Err(soft_limit("before the model answered")),
    };
    let (mut text, mut written) = (String::new(), 0);
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            // Dropping the stream closes the connection upstream.
            () = context.soft_limit_passed() => {
                return Err(soft_limit(&format!("after {written} characters")));
            }
        };
        match event {
            Some(Ok(GenerationEvent::Chunk(chunk))) => {
                // U+0000 cannot be stored; it is left out here as it is from the stream.
                text.extend(chunk.text.chars().filter(|c| *c != '\0').inspect(|_| written += 1));
                context.chunk(&chunk.text);
                let fraction = chunk.fraction.map_or(0, |fraction| (fraction.clamp(0.0, 1.0) * 99.0) as u64);
                context.progress(fraction, 100, Some(&format!("{written} characters written")));
            }
            Some(Ok(GenerationEvent::Finished { reason, usage, model: answered })) => {
                context.progress(100, 100, Some("done"));
                let details = json!({
                    "model": answered.unwrap_or(model),
                    "finish_reason": reason.as_str(),
                    "incomplete": reason == FinishReason::Length,
                    "usage": {
                        "input_tokens": usage.input_tokens,
                        "output_tokens": usage.output_tokens,
                        "estimated": usage.estimated,
                    },
                });
                return Ok(Written { text, details });
            }
            Some(Err(error)) => return Err(error.into()),
            None => {
                return Err(Failure::transient(
                    "truncated",
                    "the provider's stream ended before the answer was finished",
                ));
            }
        }
    }
}

fn soft_limit(when: &str) -> Failure {
    Failure::new(ErrorClass::TimedOut, "soft_time_limit", format!("the soft time limit passed {when}"))
}
