//! One answer of a model, from the first token to the last, with its price.

use domain::{
    ErrorClass, Failure,
    ai::{Price, Usage, estimate_tokens},
};
use futures_util::StreamExt;
use serde_json::Value;

use crate::{
    handler::TaskContext,
    ports::{FinishReason, Generation, GenerationEvent, GenerationRequest, TextGenerator},
    providers::log_call,
};

/// What a model said.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) text: String,
    pub(super) tool_calls: Vec<Value>,
    pub(super) reason: FinishReason,
    pub(super) usage: Usage,
    /// The model that answered, as its provider names it.
    pub(super) model: Option<String>,
    /// Who that is, where it was chosen.
    pub(super) provider: Option<String>,
    pub(super) cost_micros: Option<u64>,
}

/// Asks a model and reads its answer. What it writes is shown as it comes where it is `live`; `before` is how
/// many characters had been written.
pub(super) async fn ask(
    generator: &dyn TextGenerator,
    context: &TaskContext,
    request: GenerationRequest,
    live: bool,
    before: usize,
) -> Result<Answer, Failure> {
    let read = estimate_tokens(request.chars());
    let started = tokio::select! {
        started = generator.generate(request) => started,
        () = context.soft_limit_passed() => return Err(soft_limit("before the model answered")),
    };
    match started {
        Ok(generation) => Reading::begin(context, generation, read, live, before).read_on().await,
        Err(error) => Err(error.into()),
    }
}

struct Reading<'a> {
    context: &'a TaskContext,
    generation: Generation,
    price: Option<Price>,
    /// What the model had to read, by our estimate, in tokens.
    read: u64,
    live: bool,
    text: String,
    written: usize,
    before: usize,
    tool_calls: Vec<Value>,
}

impl<'a> Reading<'a> {
    fn begin(context: &'a TaskContext, generation: Generation, read: u64, live: bool, before: usize) -> Self {
        let price = generation.by.as_ref().and_then(|by| by.price);
        let (text, tool_calls) = (String::new(), Vec::new());
        let reading = Self { context, generation, price, read, live, text, written: 0, before, tool_calls };
        reading.charge_estimate();
        reading
    }

    async fn read_on(mut self) -> Result<Answer, Failure> {
        loop {
            let event = tokio::select! {
                event = self.generation.next() => event,
                // Dropping the stream closes the connection upstream.
                () = self.context.soft_limit_passed() => {
                    return Err(self.broke_off(soft_limit(&format!("after {} characters", self.written))));
                }
            };
            match event {
                Some(Ok(GenerationEvent::Chunk(chunk))) => self.write(&chunk.text, chunk.fraction),
                Some(Ok(GenerationEvent::ToolCalls(calls))) => self.tool_calls = calls,
                Some(Ok(GenerationEvent::Finished { reason, usage, model })) => {
                    return Ok(self.finish(reason, usage, model));
                }
                Some(Err(error)) => return Err(self.broke_off(error.into())),
                None => {
                    let why = "the provider's stream ended before the answer was finished";
                    return Err(self.broke_off(Failure::transient("truncated", why)));
                }
            }
        }
    }

    fn write(&mut self, text: &str, fraction: Option<f64>) {
        // U+0000 cannot be stored; it is left out here as it is from the stream.
        let written = &mut self.written;
        self.text.extend(text.chars().filter(|c| *c != '\0').inspect(|_| *written += 1));
        if self.live {
            self.context.chunk(text);
        }
        let percent = fraction.map_or(0, |fraction| (fraction.clamp(0.0, 1.0) * 99.0) as u64);
        let so_far = self.before + self.written;
        self.context.progress(percent, 100, Some(&format!("{so_far} characters written")));
        self.charge_estimate();
    }

    /// Until the provider says what was used, and where it never does.
    fn charge_estimate(&self) {
        if self.generation.by.is_some() {
            let output_tokens = estimate_tokens(self.written as u64);
            let usage = Usage { input_tokens: self.read, output_tokens, estimated: true };
            self.context.update_call(|call| call.charge(usage, self.price));
        }
    }

    fn broke_off(&self, failure: Failure) -> Failure {
        if self.generation.by.is_some() {
            self.context.update_call(|call| {
                call.error = Some(failure.code.clone());
                log_call(call);
            });
        }
        failure
    }

    fn finish(self, reason: FinishReason, usage: Usage, model: Option<String>) -> Answer {
        let by = self.generation.by.as_ref();
        if by.is_some() {
            self.context.update_call(|call| {
                call.response_model = model.clone();
                call.finish_reason = Some(reason.as_str().to_owned());
                call.charge(usage, self.price);
                log_call(call);
            });
        }
        Answer {
            text: self.text,
            tool_calls: self.tool_calls,
            reason,
            usage,
            model,
            provider: by.map(|by| by.provider.to_string()),
            cost_micros: self.price.map(|price| price.of(usage)),
        }
    }
}

pub(crate) fn soft_limit(when: &str) -> Failure {
    Failure::new(ErrorClass::TimedOut, "soft_time_limit", format!("the soft time limit passed {when}"))
}
