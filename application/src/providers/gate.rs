//! When a provider is not asked: while it has said so, while its quota is used up or a budget is spent, and while as many
//! calls are under way as may be. All but the last all processes know ([`QuotaStore`]); the calls under way are this one's.

use std::{sync::Arc, time::Duration};

use domain::{
    ErrorClass,
    ai::{
        Budget, ModelGlob, Price, PriceList, ProviderName, Quota, Refusal, Step, Trouble, Verdict,
        estimate_tokens,
    },
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{NamedBudget, Provider};
use crate::{
    combine::{Combiner, Together},
    ports::{GenerationEvent, GeneratorError, Metered, QuotaStore, StoreError, Usage},
};

/// How long a provider is left alone that names no time.
const PAUSE: Duration = Duration::from_secs(5);
/// How long one is left alone whose account is out of credit.
const PAUSE_WITHOUT_CREDIT: Duration = Duration::from_secs(60);
/// After an hour it is asked again, whatever it said.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
/// When a task comes back that found no place, or no answer of the store.
const SOON: Duration = Duration::from_secs(1);
/// One call at a time: steps arrive in the order in which they were taken.
const TOGETHER: Together = Together { most: 500, calls: 1 };

/// The way of all gates of a process to their meters.
pub(super) type Meters = Combiner<Metered, Verdict>;

/// Brings the steps of a process together.
pub(super) fn meters(store: Arc<dyn QuotaStore>) -> Meters {
    Combiner::new(TOGETHER, move |steps: Vec<Metered>| {
        let store = Arc::clone(&store);
        async move { store.meter(&steps).await }
    })
}

/// The gate before one provider.
pub(super) struct Gate {
    provider: ProviderName,
    places: Option<(usize, Arc<Semaphore>)>,
    quotas: Option<Vec<(ModelGlob, Quota)>>,
    budgets: Vec<NamedBudget>,
    prices: PriceList,
    meters: Meters,
}

/// What a call may use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Estimate {
    /// Tokens that it reads.
    pub(super) input: u64,
    /// Tokens that it may write.
    pub(super) output: u64,
    /// Whether its task was here before, and may have found no room.
    pub(super) again: bool,
}

/// A call that was let through. When it is dropped, its meter is told what it used.
pub(super) struct Place {
    _permit: Option<OwnedSemaphorePermit>,
    /// None where nobody counts.
    reserved: Option<Reserved>,
}

struct Reserved {
    meters: Meters,
    held: Vec<Held>,
    estimate: Estimate,
    price: Price,
    /// Characters that it wrote so far.
    written: u64,
    /// What it used, once that is known; `Some(None)` where it was not made at all.
    used: Option<Option<Usage>>,
}

/// What one meter let a call through by.
struct Held {
    meter: String,
    of: Of,
}

enum Of {
    Tokens(Quota, u64),
    Money(Budget, u64),
}

impl Held {
    /// How it is asked for.
    fn wish(&self, again: bool) -> Metered {
        self.step(match &self.of {
            Of::Tokens(_, tokens) => Step::Reserve { tokens: *tokens, again },
            Of::Money(budget, most) => Step::Spend { budget: *budget, most: *most },
        })
    }

    /// How it is settled.
    fn settlement(&self, used: Option<Usage>, price: Price) -> Metered {
        self.step(match &self.of {
            Of::Tokens(_, reserved) => {
                let used = used.map(|used| used.input_tokens.saturating_add(used.output_tokens));
                Step::Settle { reserved: *reserved, used }
            }
            Of::Money(budget, reserved) => {
                let cost = price.of(used.unwrap_or_default());
                Step::Pay { budget: *budget, reserved: *reserved, cost }
            }
        })
    }

    fn step(&self, step: Step) -> Metered {
        let quota = match &self.of {
            Of::Tokens(quota, _) => *quota,
            Of::Money(..) => Quota::NONE,
        };
        Metered { meter: self.meter.clone(), quota, step }
    }
}

impl Gate {
    pub(super) fn new(provider: &Provider, budgets: &[NamedBudget], meters: Meters) -> Self {
        let places = provider.max_in_flight.map(|most| (most, Arc::new(Semaphore::new(most))));
        let concerns =
            |budget: &&NamedBudget| budget.providers.is_empty() || budget.providers.contains(&provider.name);
        Self {
            provider: provider.name.clone(),
            places,
            quotas: provider.quotas.clone(),
            budgets: budgets.iter().filter(concerns).cloned().collect(),
            prices: provider.prices.clone(),
            meters,
        }
    }

    /// Lets a call through, or says why not.
    pub(super) async fn enter(&self, model: &str, estimate: Estimate) -> Result<Place, GeneratorError> {
        let permit = match &self.places {
            None => None,
            Some((most, places)) => {
                let place = Arc::clone(places).try_acquire_owned();
                Some(place.map_err(|_| {
                    let said = format!("it has as many calls under way as it may have at once: {most}");
                    self.held_up("provider_busy", said, Some(SOON))
                })?)
            }
        };
        let price = self.prices.of(model);
        let held = self.wishes(model, estimate, price)?;
        if held.is_empty() {
            return Ok(Place { _permit: permit, reserved: None });
        }
        let wishes = held.iter().map(|held| held.wish(estimate.again)).collect();
        let verdicts = self.meters.call(wishes).await.map_err(|error| self.unknown(&error))?;
        let price = price.unwrap_or_default();
        let (mut passed, mut refusal) = (Vec::new(), None);
        for (held, verdict) in held.into_iter().zip(verdicts) {
            match verdict {
                Verdict::Pass => passed.push(held),
                Verdict::Warn { spent, limit } => {
                    let (spent, limit) = (money(spent), money(limit));
                    tracing::warn!(spent, limit, "the {} is nearly spent", held.meter);
                    passed.push(held);
                }
                Verdict::Refused(why) => refusal = refusal.or(Some((held.meter, why))),
            }
        }
        if let Some((meter, why)) = refusal {
            // All or nothing.
            self.meters.leave(passed.iter().map(|held| held.settlement(None, price)).collect());
            return Err(self.refused(model, &meter, why));
        }
        let meters = self.meters.clone();
        let reserved = Reserved { meters, held: passed, estimate, price, written: 0, used: None };
        Ok(Place { _permit: permit, reserved: Some(reserved) })
    }

    /// What a call has to be let through by.
    fn wishes(
        &self,
        model: &str,
        estimate: Estimate,
        price: Option<Price>,
    ) -> Result<Vec<Held>, GeneratorError> {
        let tokens = estimate.input + estimate.output;
        let quota = self.meter(model).map(|(meter, quota)| Held { meter, of: Of::Tokens(quota, tokens) });
        let mut held: Vec<Held> = quota.into_iter().collect();
        for NamedBudget { name, budget, .. } in self.budgets.iter().filter(|it| it.models.matches(model)) {
            let Some(price) = price else {
                let said =
                    format!("the budget {name} cannot count {model}, which has no price: add it to prices");
                return Err(self.unpaid("unpriced_model", said));
            };
            let (input_tokens, output_tokens) = (estimate.input, estimate.output);
            let most = price.of(Usage { input_tokens, output_tokens, estimated: true });
            held.push(Held { meter: format!("budget {name}"), of: Of::Money(*budget, most) });
        }
        Ok(held)
    }

    /// Takes note of what a provider said.
    pub(super) fn note(&self, model: &str, error: &GeneratorError) {
        let (time, by_rate) = match error.trouble {
            Trouble::RateLimited => (error.retry_after.unwrap_or(PAUSE).min(LONGEST_PAUSE), true),
            Trouble::Quota => (PAUSE_WITHOUT_CREDIT, false),
            Trouble::Unreachable
            | Trouble::Overloaded
            | Trouble::TimedOut
            | Trouble::Unauthorized
            | Trouble::UnknownModel
            | Trouble::Refused => return,
        };
        let (code, message) = (error.code.clone(), error.message.clone());
        self.tell(model, Step::Close { time, code, message, by_rate });
    }

    /// Takes note of what a provider says is left.
    pub(super) fn left(&self, model: &str, requests: Option<u64>, tokens: Option<u64>) {
        if requests.is_some() || tokens.is_some() {
            self.tell(model, Step::Left { requests, tokens });
        }
    }

    fn tell(&self, model: &str, step: Step) {
        if let Some((meter, quota)) = self.meter(model) {
            self.meters.leave(vec![Metered { meter, quota, step }]);
        }
    }

    /// Models of one rule share its meter; a model without a rule has one of its own, as providers have it.
    fn meter(&self, model: &str) -> Option<(String, Quota)> {
        let rule = self.quotas.as_ref()?.iter().find(|(models, _)| models.matches(model));
        Some(match rule {
            Some((models, quota)) => (format!("{} models {models}", self.provider), *quota),
            None => (format!("{} model {model}", self.provider), Quota::NONE),
        })
    }

    fn refused(&self, model: &str, meter: &str, why: Refusal) -> GeneratorError {
        match why {
            Refusal::ComeBack { after, limit: (what, most) } => {
                let said = format!("it may be asked for {most} {what} a minute of {model}");
                self.held_up("quota_used_up", said, Some(after))
            }
            Refusal::Closed { left, code, message, by_rate } => {
                let said = format!("{message} (said before; it is not asked until then)");
                if by_rate { self.held_up(&code, said, Some(left)) } else { self.unpaid(&code, said) }
            }
            Refusal::Spent { budget, spent, period } => {
                let (spent, limit, lasts) = (money(spent), money(budget.limit), budget.period.as_str());
                let said = format!(
                    "the {meter} has {spent} of {limit} spent in the {lasts} of {period}: wait for the next, or raise its limit"
                );
                self.unpaid("budget_spent", said)
            }
            Refusal::TooLarge { tokens, most } => {
                let said = format!(
                    "the call may use {tokens} tokens, and {most} are let through at once: lower max_tokens, or raise tokens_per_minute or burst of the provider"
                );
                let error = self.held_up("larger_than_quota", said, None);
                GeneratorError { class: ErrorClass::Permanent, ..error }
            }
        }
    }

    fn unknown(&self, error: &StoreError) -> GeneratorError {
        let said = format!("how much of its quota is left cannot be read: {error}");
        self.held_up("quota_unknown", said, Some(SOON))
    }

    /// Nothing was asked, and waiting does not help: somebody has to see to the money.
    fn unpaid(&self, code: &str, said: String) -> GeneratorError {
        let error = self.held_up(code, said, None);
        GeneratorError { class: ErrorClass::Permanent, trouble: Trouble::Quota, ..error }
    }

    /// Nothing was asked; the task waits, and is charged nothing.
    fn held_up(&self, code: &str, said: String, retry_after: Option<Duration>) -> GeneratorError {
        GeneratorError {
            class: ErrorClass::RateLimited,
            trouble: Trouble::RateLimited,
            code: code.to_owned(),
            message: format!("{}: {said}", self.provider),
            retry_after,
            billed: false,
        }
    }
}

impl Place {
    /// Listens to what comes.
    pub(super) fn hear(&mut self, event: &Result<GenerationEvent, GeneratorError>) {
        let Some(reserved) = &mut self.reserved else { return };
        match event {
            Ok(GenerationEvent::Chunk(chunk)) => reserved.written += chunk.text.chars().count() as u64,
            Ok(GenerationEvent::ToolCalls(_)) => {}
            Ok(GenerationEvent::Finished { usage, .. }) => self.used(*usage),
            Err(error) => self.failed(error),
        }
    }

    /// It is known what was used.
    pub(super) fn used(&mut self, usage: Usage) {
        if let Some(reserved) = &mut self.reserved {
            reserved.used = Some(Some(usage.plausible()));
        }
    }

    /// The call failed: nothing was asked, or nothing used, or what was read and written so far.
    pub(super) fn failed(&mut self, error: &GeneratorError) {
        if let Some(reserved) = &mut self.reserved {
            reserved.used = Some(match error.trouble {
                Trouble::Unreachable => None,
                _ if error.billed => Some(reserved.so_far()),
                _ => Some(Usage::default()),
            });
        }
    }
}

impl Reserved {
    fn so_far(&self) -> Usage {
        let output_tokens = estimate_tokens(self.written);
        Usage { input_tokens: self.estimate.input, output_tokens, estimated: true }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        // A call that is let go half way has used what came until then.
        let used = self.used.unwrap_or_else(|| Some(self.so_far()));
        if tokio::runtime::Handle::try_current().is_ok() {
            self.meters.leave(self.held.iter().map(|held| held.settlement(used, self.price)).collect());
        }
    }
}

/// Millionths, as people write money.
fn money(micros: u64) -> String {
    format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)
}
