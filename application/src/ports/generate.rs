//! Models: the ports that provider adapters implement.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use domain::{
    ErrorClass, Failure, Timestamp,
    ai::{Message, ModelCall, Payer, Price, ProviderName, ResponseFormat, Sampling, Trouble, Usage, text_of},
};
use futures_util::{Stream, StreamExt, stream};
use serde_json::Value;

/// What is asked of the model.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GenerationRequest {
    /// Such as `gpt-3.5-turbo`.
    pub model: String,
    /// What was said so far, checked by [`domain::ai::check_messages`]. Where the assistant spoke last, it is to go on.
    pub messages: Vec<Message>,
    /// How it is to answer, checked by [`Sampling::check`].
    pub sampling: Sampling,
    /// The form of the answer. Providers may hold the model to it; whoever asks checks.
    pub format: Option<ResponseFormat>,
    /// By when the answer is wanted, where that is not now: then it may go through a provider's Batch API.
    pub deadline: Option<Timestamp>,
    /// The task's number: seeds simulated answers and names the request in provider logs.
    pub task: i64,
    /// The task's attempt, from 1.
    pub attempt: u32,
    /// Where its calls are entered.
    pub books: Books,
}

impl GenerationRequest {
    /// How many characters the model has to read.
    pub fn chars(&self) -> u64 {
        self.messages.iter().map(|message| text_of(&message.content).chars().count() as u64).sum()
    }
}

/// A provider. Dropping the stream closes the connection upstream, which stops the bill.
#[cfg_attr(any(test, feature = "mocks"), mockall::automock)]
#[async_trait]
pub trait TextGenerator: Send + Sync {
    /// Starts a generation. The stream yields chunks and ends with [`GenerationEvent::Finished`] or an error; a stream
    /// that ends without either was cut.
    async fn generate(&self, request: GenerationRequest) -> Result<Generation, GeneratorError>;

    /// What people call it, such as `simulated` or `openai (http://localhost:4010/v1)`; no secrets.
    fn describe(&self) -> String;
}

/// A running generation: a stream of events.
pub struct Generation {
    /// Who answers, where that was to be chosen.
    pub by: Option<Answering>,
    /// What the provider says is left of its quota.
    pub left: Left,
    events: Pin<Box<dyn Stream<Item = Result<GenerationEvent, GeneratorError>> + Send>>,
}

/// Who answers, and for how much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answering {
    /// Who.
    pub provider: ProviderName,
    /// What the model is called there.
    pub model: String,
    /// What it costs, where that is known.
    pub price: Option<Price>,
}

impl Generation {
    /// A generation of these events.
    pub fn new(events: impl Stream<Item = Result<GenerationEvent, GeneratorError>> + Send + 'static) -> Self {
        Self { by: None, left: Left::default(), events: Box::pin(events) }
    }

    /// The same, by somebody who was chosen.
    pub fn answered_by(self, by: Answering) -> Self {
        Self { by: Some(by), ..self }
    }

    /// The same, with an event before the others; somebody listens to all of them, and is dropped with the stream.
    pub fn heard_by(
        self,
        first: GenerationEvent,
        mut hear: impl FnMut(&Result<GenerationEvent, GeneratorError>) + Send + 'static,
    ) -> Self {
        let events = stream::iter([Ok(first)]).chain(self.events).inspect(move |event| hear(event));
        Self { events: Box::pin(events), ..self }
    }

    /// The same, by a provider that says what is left of its quota.
    pub fn with_left(self, left: Left) -> Self {
        Self { left, ..self }
    }
}

impl Stream for Generation {
    type Item = Result<GenerationEvent, GeneratorError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.as_mut().poll_next(context)
    }
}

impl std::fmt::Debug for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Generation").field("by", &self.by).finish_non_exhaustive()
    }
}

/// What a provider says is left of its own quota of the minute, by its own count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Left {
    /// Calls.
    pub requests: Option<u64>,
    /// Tokens.
    pub tokens: Option<u64>,
}

/// Keeps the calls of an attempt.
pub trait CallBook: Send + Sync {
    /// For whom they are made.
    fn payer(&self) -> Payer;

    /// A call begins.
    fn enter(&self, call: ModelCall);

    /// Puts down what is known of the last one by now.
    fn update_last(&self, update: &mut dyn FnMut(&mut ModelCall));
}

/// Where calls are entered as they begin: one that is let go before anybody answers may be billed all the same. By default
/// nobody keeps them.
#[derive(Clone, Default)]
pub struct Books(Option<Arc<dyn CallBook>>);

impl Books {
    /// Kept here.
    pub fn kept_by(book: impl CallBook + 'static) -> Self {
        Self(Some(Arc::new(book)))
    }

    /// A call begins.
    pub fn enter(&self, call: ModelCall) {
        if let Some(book) = &self.0 {
            book.enter(call);
        }
    }

    /// Puts down what is known of the last one by now.
    pub fn update_last(&self, mut update: impl FnMut(&mut ModelCall)) {
        if let Some(book) = &self.0 {
            book.update_last(&mut update);
        }
    }

    /// For whom they are made.
    pub fn payer(&self) -> Payer {
        self.0.as_ref().map(|book| book.payer()).unwrap_or_default()
    }
}

impl std::fmt::Debug for Books {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Books(kept)" } else { "Books(nobody's)" })
    }
}

/// Who keeps the books is no part of what is asked.
impl PartialEq for Books {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// What comes out of a generation.
#[derive(Debug, Clone, PartialEq)]
pub enum GenerationEvent {
    /// A piece of text.
    Chunk(Chunk),
    /// Tools that the model calls, as OpenAI's API has them; before the end.
    ToolCalls(Vec<Value>),
    /// The end.
    Finished {
        /// Why it stopped.
        reason: FinishReason,
        /// What was used.
        usage: Usage,
        /// The model that answered, as the provider names it.
        model: Option<String>,
    },
}

/// A piece of text, with how far along the provider is where it knows.
#[derive(Debug, Clone, PartialEq)]
pub struct Chunk {
    /// The text.
    pub text: String,
    /// Between 0 and 1, where the provider can tell.
    pub fraction: Option<f64>,
}

/// Why a generation stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FinishReason {
    /// The model was done.
    Stop,
    /// A length limit: the text is incomplete.
    Length,
    /// Another reason, in the provider's words (`tool_calls`, …).
    Other(String),
}

impl FinishReason {
    /// The name on the wire.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Other(reason) => reason,
        }
    }
}

/// What is asked of a model that makes vectors.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct EmbeddingRequest {
    /// Such as `text-embedding-3-small`.
    pub model: String,
    /// The texts, checked by [`domain::ai::EmbeddingLimits::check`].
    pub texts: Vec<String>,
    /// How many numbers a vector is to have; the model's own number where absent.
    pub dimensions: Option<u32>,
    /// The task's number: names the request in provider logs.
    pub task: i64,
    /// The task's attempt, from 1.
    pub attempt: u32,
    /// Where its calls are entered.
    pub books: Books,
}

/// Vectors of texts.
#[derive(Debug, Clone, PartialEq)]
pub struct Embeddings {
    /// One for each text, in their order.
    pub vectors: Vec<Vec<f32>>,
    /// What was used.
    pub usage: Usage,
    /// The model that answered, as the provider names it.
    pub model: Option<String>,
    /// Who answered, where that was to be chosen.
    pub by: Option<Answering>,
    /// What the provider says is left of its quota.
    pub left: Left,
}

/// A provider of vectors.
#[cfg_attr(any(test, feature = "mocks"), mockall::automock)]
#[async_trait]
pub trait Embedder: Send + Sync {
    /// Makes one vector of each text.
    async fn embed(&self, request: EmbeddingRequest) -> Result<Embeddings, GeneratorError>;
}

/// A provider's refusal or breakdown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct GeneratorError {
    /// Decides about another try.
    pub class: ErrorClass,
    /// Decides whether somebody else is asked.
    pub trouble: Trouble,
    /// A stable identifier, such as `context_length_exceeded`, `truncated`, `first_token_timeout`.
    pub code: String,
    /// What happened, with the provider's own words (cut to a sensible length) and no secrets.
    pub message: String,
    /// How long the provider asked us to wait.
    pub retry_after: Option<Duration>,
    /// Whether the provider may have billed something.
    pub billed: bool,
}

impl From<GeneratorError> for Failure {
    fn from(error: GeneratorError) -> Self {
        Self::new(error.class, error.code, &error.message).retry_after(error.retry_after)
    }
}
