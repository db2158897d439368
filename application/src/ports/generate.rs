//! Text generation by a model: the port that provider adapters implement.

use std::{pin::Pin, time::Duration};

use async_trait::async_trait;
use domain::{ErrorClass, Failure};
use futures_util::Stream;

/// What is asked of the model.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerationRequest {
    /// Such as `gpt-3.5-turbo`.
    pub model: String,
    /// What the user says.
    pub prompt: String,
    /// The task's number: seeds simulated answers and names the request in provider logs.
    pub task: i64,
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

/// A running generation.
pub type Generation = Pin<Box<dyn Stream<Item = Result<GenerationEvent, GeneratorError>> + Send>>;

/// What comes out of a generation.
#[derive(Debug, Clone, PartialEq)]
pub enum GenerationEvent {
    /// A piece of text.
    Chunk(Chunk),
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

/// Tokens used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Read by the model.
    pub input_tokens: u64,
    /// Written by the model.
    pub output_tokens: u64,
    /// Whether the numbers are our estimate, because the provider sent none.
    pub estimated: bool,
}

/// A provider's refusal or breakdown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct GeneratorError {
    /// Decides about another try.
    pub class: ErrorClass,
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
