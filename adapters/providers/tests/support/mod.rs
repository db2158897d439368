//! Calls to a provider, and what they came to.

use std::time::Duration;

use application::ports::{Generation, GenerationEvent, GenerationRequest, GeneratorError, TextGenerator};
use domain::ai::{Message, Role};
use futures_util::StreamExt;
use providers_adapter::{OpenAiConfig, OpenAiGenerator, ProviderTimeouts, Secret};
use tokio::time::timeout;

pub(crate) const KEY: &str = "sk-test-0123456789abcdef";
/// A test that waits longer than this for a signal has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn generator(base_url: &str, timeouts: ProviderTimeouts) -> OpenAiGenerator {
    let api_key = Some(Secret::new(KEY));
    OpenAiGenerator::new(OpenAiConfig { base_url: base_url.to_owned(), api_key, timeouts, azure: false })
        .unwrap()
}

/// None of these should pass in a test that is not about them.
pub(crate) fn patient() -> ProviderTimeouts {
    ProviderTimeouts { connect: PATIENCE, first_token: PATIENCE, idle: PATIENCE, total: PATIENCE }
}

pub(crate) fn request(prompt: &str) -> GenerationRequest {
    let messages = vec![Message::text(Role::User, prompt)];
    GenerationRequest { model: "gpt-test".to_owned(), messages, task: 17, ..GenerationRequest::default() }
}

/// What one call came to.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) chunks: Vec<String>,
    #[allow(dead_code, reason = "of interest to some of the tests")]
    pub(crate) tool_calls: Vec<serde_json::Value>,
    pub(crate) end: Result<GenerationEvent, GeneratorError>,
}

impl Outcome {
    pub(crate) fn text(&self) -> String {
        self.chunks.concat()
    }

    pub(crate) fn error(self) -> GeneratorError {
        let error = self.end.expect_err("this call should fail");
        assert!(!error.message.contains(KEY), "the key is in {}", error.message);
        assert!(error.message.chars().count() <= 1_000, "{} is too long", error.message);
        error
    }
}

pub(crate) async fn ask(generator: &OpenAiGenerator, prompt: &str) -> Outcome {
    let asked = async {
        match generator.generate(request(prompt)).await {
            Ok(generation) => read(generation).await,
            Err(error) => Outcome { chunks: Vec::new(), tool_calls: Vec::new(), end: Err(error) },
        }
    };
    timeout(PATIENCE, asked).await.expect("the call should end")
}

/// To the end, which must come exactly once.
pub(crate) async fn read(mut generation: Generation) -> Outcome {
    let (mut chunks, mut tool_calls) = (Vec::new(), Vec::new());
    loop {
        match generation.next().await.expect("a stream ends with Finished or an error") {
            Ok(GenerationEvent::Chunk(chunk)) => chunks.push(chunk.text),
            Ok(GenerationEvent::ToolCalls(calls)) => tool_calls = calls,
            end => {
                assert!(generation.next().await.is_none(), "nothing follows the end");
                return Outcome { chunks, tool_calls, end };
            }
        }
    }
}
