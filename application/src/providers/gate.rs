//! When a provider is not asked: while it has said so, while its quota is used up or a budget is spent, and while as many
//! calls are under way as may be. All processes know it ([`QuotaStore`]).

mod own;
mod place;

use std::{sync::Arc, time::Duration};

use domain::{
    ErrorClass,
    ai::{Caller, ModelGlob, Price, PriceList, ProviderName, Quota, Refusal, Step, Trouble, Verdict},
};

pub(super) use self::place::Place;
use self::{
    own::{Own, OwnCall},
    place::{Held, NotReserved, Of, Reserved},
};
use super::{NamedBudget, Provider};
use crate::{
    combine::{Combiner, Together},
    ports::{Books, GeneratorError, Metered, QuotaStore, StoreError, Usage},
};

/// How long a provider is left alone that names no time.
const PAUSE: Duration = Duration::from_secs(5);
/// How long one is left alone whose account is out of credit.
const PAUSE_WITHOUT_CREDIT: Duration = Duration::from_secs(60);
/// After an hour it is asked again, whatever it said.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
/// When a task comes back that found no answer of the store.
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
    own: Option<Arc<Own>>,
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

impl Gate {
    pub(super) fn new(provider: &Provider, budgets: &[NamedBudget], caller: Caller, meters: Meters) -> Self {
        let own = provider.in_flight.map(|terms| Own::of(&provider.name, terms, caller, meters.clone()));
        let concerns =
            |budget: &&NamedBudget| budget.providers.is_empty() || budget.providers.contains(&provider.name);
        Self {
            provider: provider.name.clone(),
            own,
            quotas: provider.quotas.clone(),
            budgets: budgets.iter().filter(concerns).cloned().collect(),
            prices: provider.prices.clone(),
            meters,
        }
    }

    /// Lets a call through, or says why not.
    pub(super) async fn enter(
        &self,
        model: &str,
        estimate: Estimate,
        books: &Books,
    ) -> Result<Place, GeneratorError> {
        let own = self.own.as_ref().map(OwnCall::begin);
        let price = self.prices.of(model);
        let held = self.wishes(model, estimate, price, books)?;
        if held.is_empty() {
            return Ok(Place { _own: own, reserved: None });
        }
        let reserving = Reserved::of(self.meters.clone(), held, estimate, price.unwrap_or_default());
        // A task of its own, so that a caller who leaves meanwhile leaves nothing behind.
        match tokio::spawn(reserving).await {
            Ok(Ok(reserved)) => Ok(Place { _own: own, reserved: Some(reserved.begin()) }),
            Ok(Err(NotReserved::Refused(meter, why))) => Err(self.refused(model, &meter, why)),
            Ok(Err(NotReserved::Unknown(error))) => Err(self.unknown(&error)),
            Err(error) => Err(self.unknown(&StoreError::Unavailable(error.to_string()))),
        }
    }

    /// What a call has to be let through by.
    fn wishes(
        &self,
        model: &str,
        estimate: Estimate,
        price: Option<Price>,
        books: &Books,
    ) -> Result<Vec<Held>, GeneratorError> {
        let tokens = estimate.input + estimate.output;
        let quota = self.meter(model).map(|(meter, quota)| Held { meter, of: Of::Tokens(quota, tokens) });
        let place = self
            .own
            .as_ref()
            .map(|own| Held { meter: own.meter.clone(), of: Of::Place(own.terms, own.caller) });
        let mut held: Vec<Held> = quota.into_iter().chain(place).collect();
        for budget in self.budgets.iter().filter(|it| it.models.matches(model)) {
            let Some(price) = price else {
                let said = format!(
                    "the budget {} cannot count {model}, which has no price: add it to prices",
                    budget.name
                );
                return Err(self.unpaid("unpriced_model", said));
            };
            let (input_tokens, output_tokens) = (estimate.input, estimate.output);
            let most = price.of(Usage { input_tokens, output_tokens, estimated: true });
            held.push(Held { meter: budget.meter(&books.payer()), of: Of::Money(budget.budget, most) });
        }
        Ok(held)
    }

    /// Takes note of how soon a provider answered; `None` where it did not because it had too much to do.
    pub(super) fn felt(&self, answered: Option<Duration>) {
        if let Some(own) = self.own.as_ref().filter(|own| own.terms.first_token.is_some()) {
            self.meters.leave(vec![own.step(Step::Felt { terms: own.terms, answered })]);
        }
    }

    /// Takes note of what a provider said.
    pub(super) fn note(&self, model: &str, error: &GeneratorError) {
        if matches!(error.trouble, Trouble::Overloaded | Trouble::TimedOut) {
            self.felt(None);
        }
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

    /// Counts what an answer cost that nobody was let through for.
    pub(super) fn charge(&self, model: &str, cost: u64, books: &Books) {
        let budgets = self.budgets.iter().filter(|budget| budget.models.matches(model));
        let pay = budgets.map(|budget| {
            let step = Step::Pay { budget: budget.budget, reserved: 0, cost };
            Metered { meter: budget.meter(&books.payer()), quota: Quota::NONE, step }
        });
        let pay: Vec<_> = pay.collect();
        if !pay.is_empty() {
            self.meters.leave(pay);
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
            Refusal::Full { after, most } => {
                let said = format!("as many calls are under way as may be at once, which is {most} at most");
                self.held_up("provider_busy", said, Some(after))
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

/// Millionths, as people write money.
fn money(micros: u64) -> String {
    format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)
}
