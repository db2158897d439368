//! Several providers behind one port: who is asked for a model, who is asked next where one cannot answer, and who is
//! not asked for a while. The rules are the domain's ([`domain::ai::ModelRules`]); this keeps to them.
//!
//! Another provider is asked only while nothing has been written: text of two calls is never spliced.

mod asking;
mod gate;

use std::sync::Arc;

use async_trait::async_trait;
use domain::ai::{
    InvalidRule, ModelCall, ModelGlob, ModelRule, ModelRules, Operation, PriceList, ProviderName,
    ServedModels, Trouble,
};
use futures_util::StreamExt;

use self::{asking::Asking, gate::Gate};
use crate::ports::{
    Embedder, EmbeddingRequest, Embeddings, Generation, GenerationRequest, GeneratorError, TextGenerator,
};

/// One provider as it is configured.
pub struct Provider {
    /// Its name.
    pub name: ProviderName,
    /// Answers messages.
    pub generator: Arc<dyn TextGenerator>,
    /// Makes vectors.
    pub embedder: Arc<dyn Embedder>,
    /// The models that it serves.
    pub models: Vec<ModelGlob>,
    /// What they cost.
    pub prices: PriceList,
    /// The most calls under way at once in this process.
    pub max_in_flight: Option<usize>,
}

/// Every provider of a process. Cheap to clone.
#[derive(Clone)]
pub struct Providers {
    shared: Arc<Shared>,
}

struct Shared {
    providers: Vec<(Provider, Gate)>,
    rules: ModelRules,
}

impl Providers {
    /// These providers, in their order, under these rules; refused where two share a name, or a rule names a stranger.
    pub fn new(providers: Vec<Provider>, rules: Vec<ModelRule>) -> Result<Self, InvalidRule> {
        for (place, provider) in providers.iter().enumerate() {
            if providers[..place].iter().any(|other| other.name == provider.name) {
                return Err(InvalidRule(format!("two providers are called {}", provider.name)));
            }
        }
        let served = |provider: &Provider| ServedModels {
            provider: provider.name.clone(),
            models: provider.models.clone(),
        };
        let rules = ModelRules::new(rules, providers.iter().map(served).collect())?;
        let gated = providers.into_iter().map(|provider| {
            let gate = Gate::new(provider.max_in_flight);
            (provider, gate)
        });
        Ok(Self { shared: Arc::new(Shared { providers: gated.collect(), rules }) })
    }
}

impl std::fmt::Debug for Providers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Providers").field(&self.describe()).finish()
    }
}

#[async_trait]
impl TextGenerator for Providers {
    async fn generate(&self, request: GenerationRequest) -> Result<Generation, GeneratorError> {
        let mut asking = Asking::new(&self.shared, Operation::Chat, &request.model, request.chars());
        while let Some(turn) = asking.next() {
            let request = GenerationRequest { model: turn.model.clone(), ..request.clone() };
            // The first event decides: an error that comes in a stream's place of a token is an error like others.
            let begun = match turn.provider.generator.generate(request).await {
                Ok(mut generation) => match generation.next().await {
                    Some(Ok(first)) => Ok((generation, first)),
                    Some(Err(error)) => Err(error),
                    None => Err(cut()),
                },
                Err(error) => Err(error),
            };
            match begun {
                Ok((generation, first)) => {
                    let (by, tried, place) = asking.answered(turn);
                    return Ok(generation.after(first, place).answered_by(by, tried));
                }
                Err(error) => asking.failed(turn, error),
            }
        }
        Err(asking.gave_up())
    }

    fn describe(&self) -> String {
        let describe = |(provider, _): &(Provider, Gate)| {
            let what = provider.generator.describe();
            if what.starts_with(provider.name.as_str()) { what } else { format!("{}: {what}", provider.name) }
        };
        self.shared.providers.iter().map(describe).collect::<Vec<_>>().join(", ")
    }
}

#[async_trait]
impl Embedder for Providers {
    async fn embed(&self, request: EmbeddingRequest) -> Result<Embeddings, GeneratorError> {
        let chars = request.texts.iter().map(|text| text.chars().count() as u64).sum();
        let mut asking = Asking::new(&self.shared, Operation::Embeddings, &request.model, chars);
        while let Some(turn) = asking.next() {
            let request = EmbeddingRequest { model: turn.model.clone(), ..request.clone() };
            match turn.provider.embedder.embed(request).await {
                Ok(embeddings) => {
                    let (by, tried, _place) = asking.answered(turn);
                    return Ok(Embeddings { by: Some(by), tried, ..embeddings });
                }
                Err(error) => asking.failed(turn, error),
            }
        }
        Err(asking.gave_up())
    }
}

/// A stream that ended before it said anything.
fn cut() -> GeneratorError {
    GeneratorError {
        class: domain::ErrorClass::Transient,
        trouble: Trouble::Overloaded,
        code: "truncated".to_owned(),
        message: "the provider's stream ended before the first token".to_owned(),
        retry_after: None,
        billed: true,
        tried: Vec::new(),
    }
}

/// Tells of a call that has ended, with the names of OpenTelemetry's conventions for generative AI.
pub(crate) fn log_call(call: &ModelCall) {
    tracing::info!(
        gen_ai.operation.name = call.operation.as_str(),
        gen_ai.provider.name = call.provider.as_str(),
        gen_ai.request.model = call.model,
        gen_ai.response.model = call.response_model,
        gen_ai.response.finish_reasons = call.finish_reason,
        gen_ai.usage.input_tokens = call.usage.input_tokens,
        gen_ai.usage.output_tokens = call.usage.output_tokens,
        "error.type" = call.error,
        "a model's call ended"
    );
}

#[cfg(test)]
mod tests;
