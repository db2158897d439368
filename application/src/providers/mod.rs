//! Several providers behind one port: who is asked for a model, who is asked next where one cannot answer, and who is
//! not asked for a while. The rules are the domain's ([`domain::ai::ModelRules`], [`domain::ai::Quota`]); this keeps to them.
//!
//! Another provider is asked only while nothing has been written: text of two calls is never spliced.

mod asking;
mod budgets;
mod gate;
mod lane;

use std::sync::Arc;

use async_trait::async_trait;
use domain::ai::{
    Budget, Caller, InFlight, InvalidRule, ModelCall, ModelGlob, ModelRule, ModelRules, OUTPUT_UNLESS_SAID,
    Operation, Payer, PriceList, ProviderName, Purses, Quota, ServedModels, Trouble, estimate_tokens,
};
use futures_util::StreamExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::{
    asking::Asking,
    gate::{Estimate, Gate},
    lane::Way,
};
pub use self::{
    budgets::{BudgetReport, Budgets},
    lane::BatchLane,
};
use crate::ports::{
    Embedder, EmbeddingRequest, Embeddings, Generation, GenerationRequest, GeneratorError, LaneStore, Store,
    StoreError, TextGenerator,
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
    /// How many calls may be under way at once, over all processes.
    pub in_flight: Option<InFlight>,
    /// Its Batch API, for what is not urgent.
    pub batch: Option<BatchLane>,
    /// What it may be asked for, over all processes: models of a rule share its quota. `None` where nobody counts, and it never
    /// has to be left alone.
    pub quotas: Option<Vec<(ModelGlob, Quota)>>,
}

/// What calls of some models may cost together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedBudget {
    /// What people call it; whoever names the same shares it.
    pub name: String,
    /// Whose calls count; all where it is empty.
    pub providers: Vec<ProviderName>,
    /// Of which models.
    pub models: ModelGlob,
    /// How much, and for how long.
    pub budget: Budget,
    /// Whose.
    pub purses: Purses,
}

impl NamedBudget {
    /// The meter of this one's purse.
    fn meter(&self, payer: &Payer) -> String {
        match self.purses.owner(payer) {
            None => format!("budget {}", self.name),
            Some(owner) => format!("budget {} of {owner}", self.name),
        }
    }
}

/// Every provider of a process. Cheap to clone.
#[derive(Clone)]
pub struct Providers {
    shared: Arc<Shared>,
}

struct Shared {
    providers: Vec<(Provider, Gate)>,
    rules: ModelRules,
    lane: Arc<dyn LaneStore>,
}

impl Providers {
    /// These providers, in their order, under these rules; refused where two share a name, or a rule names a stranger. What is
    /// used of their quotas is kept in `store`, where this process is `caller`. Must be called inside a tokio runtime.
    pub fn new(
        providers: Vec<Provider>,
        rules: Vec<ModelRule>,
        budgets: &[NamedBudget],
        store: Arc<dyn Store>,
        caller: Caller,
    ) -> Result<Self, InvalidRule> {
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
        let is_known = |name: &&ProviderName| providers.iter().any(|known| known.name == **name);
        for budget in budgets {
            if let Some(stranger) = budget.providers.iter().find(|name| !is_known(name)) {
                return Err(InvalidRule(format!(
                    "the budget {} is for {stranger}, and no provider is called that",
                    budget.name
                )));
            }
        }
        let meters = gate::meters(Arc::clone(&store) as _);
        let gated = providers.into_iter().map(|provider| {
            let gate = Gate::new(&provider, budgets, caller, meters.clone());
            (provider, gate)
        });
        Ok(Self { shared: Arc::new(Shared { providers: gated.collect(), rules, lane: store }) })
    }

    /// Sends batches and reads what comes of them, until it is cancelled; returns at once where no provider has a batch lane.
    pub async fn serve_lanes(&self, until: CancellationToken) {
        self.shared.serve_lanes(until).await;
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
        if let Some(deadline) = request.deadline.filter(|_| self.shared.has_lanes()) {
            match self.shared.way(&request, deadline).await.map_err(|error| lane_unknown(&error))? {
                Way::Live => {}
                Way::Not(error) => return Err(error),
                Way::Answered(generation) => return Ok(generation),
            }
        }
        let estimate = Estimate {
            input: estimate_tokens(request.chars()),
            output: request.sampling.max_tokens.map_or(OUTPUT_UNLESS_SAID, u64::from),
            again: request.attempt > 1,
        };
        let mut asking =
            Asking::new(&self.shared, Operation::Chat, &request.model, estimate, request.books.clone());
        while let Some(turn) = asking.next().await {
            let request = GenerationRequest { model: turn.model.clone(), ..request.clone() };
            let asked = Instant::now();
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
                    turn.gate.felt(Some(asked.elapsed()));
                    turn.gate.left(&turn.model, generation.left.requests, generation.left.tokens);
                    let (by, mut place) = asking.answered(turn);
                    let answer = generation.heard_by(first, move |event| place.hear(event));
                    return Ok(answer.answered_by(by));
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
        let estimate = Estimate { input: estimate_tokens(chars), output: 0, again: request.attempt > 1 };
        let mut asking =
            Asking::new(&self.shared, Operation::Embeddings, &request.model, estimate, request.books.clone());
        while let Some(turn) = asking.next().await {
            let request = EmbeddingRequest { model: turn.model.clone(), ..request.clone() };
            match turn.provider.embedder.embed(request).await {
                Ok(embeddings) => {
                    turn.gate.left(&turn.model, embeddings.left.requests, embeddings.left.tokens);
                    let (by, mut place) = asking.answered(turn);
                    place.used(embeddings.usage);
                    return Ok(Embeddings { by: Some(by), ..embeddings });
                }
                Err(error) => asking.failed(turn, error),
            }
        }
        Err(asking.gave_up())
    }
}

impl Shared {
    fn has_lanes(&self) -> bool {
        self.providers.iter().any(|(provider, _)| provider.batch.is_some())
    }
}

/// Nobody knows whether the request is in a batch.
fn lane_unknown(error: &StoreError) -> GeneratorError {
    GeneratorError {
        class: domain::ErrorClass::RateLimited,
        trouble: Trouble::RateLimited,
        code: "batch_lane_unknown".to_owned(),
        message: format!("how its request stands cannot be read: {error}"),
        retry_after: Some(std::time::Duration::from_secs(1)),
        billed: false,
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
