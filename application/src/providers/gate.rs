//! When a provider is not asked: while it has said so, while its quota is used up, and while as many calls are under way as
//! may be. What it said and what was used of its quota, all processes know ([`QuotaStore`]); the calls under way are this
//! one's.

use std::{sync::Arc, time::Duration};

use domain::{
    ErrorClass,
    ai::{ModelGlob, ProviderName, Quota, Step, Trouble, Verdict, estimate_tokens},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

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
    meter: String,
    quota: Quota,
    estimate: Estimate,
    /// Characters that it wrote so far.
    written: u64,
    /// What it used, once that is known; `Some(None)` where it was not made at all.
    used: Option<Option<u64>>,
}

impl Gate {
    pub(super) fn new(
        provider: ProviderName,
        max_in_flight: Option<usize>,
        quotas: Option<Vec<(ModelGlob, Quota)>>,
        meters: Meters,
    ) -> Self {
        let places = max_in_flight.map(|most| (most, Arc::new(Semaphore::new(most))));
        Self { provider, places, quotas, meters }
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
        let Some((meter, quota)) = self.meter(model) else {
            return Ok(Place { _permit: permit, reserved: None });
        };
        let (tokens, again) = (estimate.input + estimate.output, estimate.again);
        let step = Metered { meter: meter.clone(), quota, step: Step::Reserve { tokens, again } };
        let verdict = self.meters.call(vec![step]).await.map(|verdicts| verdicts.into_iter().next());
        match verdict {
            Ok(Some(Verdict::Pass)) => {
                let meters = self.meters.clone();
                let reserved = Reserved { meters, meter, quota, estimate, written: 0, used: None };
                Ok(Place { _permit: permit, reserved: Some(reserved) })
            }
            Ok(Some(refusal)) => Err(self.refused(model, tokens, refusal)),
            Ok(None) => Err(self.unknown(&StoreError::Corrupt("a meter gave no verdict".to_owned()))),
            Err(error) => Err(self.unknown(&error)),
        }
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

    fn refused(&self, model: &str, tokens: u64, verdict: Verdict) -> GeneratorError {
        match verdict {
            Verdict::ComeBack { after, limit: (what, most) } => {
                let said = format!("it may be asked for {most} {what} a minute of {model}");
                self.held_up("quota_used_up", said, Some(after))
            }
            Verdict::Closed { left, code, message, by_rate } => {
                let said = format!("{message} (said before; it is not asked until then)");
                let error = self.held_up(&code, said, by_rate.then_some(left));
                if by_rate {
                    return error;
                }
                GeneratorError { class: ErrorClass::Permanent, trouble: Trouble::Quota, ..error }
            }
            Verdict::TooLarge { most } => {
                let said = format!(
                    "the call may use {tokens} tokens, and {most} are let through at once: lower max_tokens, or raise tokens_per_minute or burst of the provider"
                );
                GeneratorError {
                    class: ErrorClass::Permanent,
                    ..self.held_up("larger_than_quota", said, None)
                }
            }
            Verdict::Pass => self.held_up("quota_used_up", "it let the call through".to_owned(), Some(SOON)),
        }
    }

    fn unknown(&self, error: &StoreError) -> GeneratorError {
        let said = format!("how much of its quota is left cannot be read: {error}");
        self.held_up("quota_unknown", said, Some(SOON))
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
            tried: Vec::new(),
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
            reserved.used = Some(Some(usage.input_tokens.saturating_add(usage.output_tokens)));
        }
    }

    /// The call failed: nothing was asked, or nothing used, or what was read and written so far.
    pub(super) fn failed(&mut self, error: &GeneratorError) {
        if let Some(reserved) = &mut self.reserved {
            reserved.used = Some(match error.trouble {
                Trouble::Unreachable => None,
                _ if error.billed => Some(reserved.so_far()),
                _ => Some(0),
            });
        }
    }
}

impl Reserved {
    fn so_far(&self) -> u64 {
        self.estimate.input.saturating_add(estimate_tokens(self.written))
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        // A call that is let go half way has used what came until then.
        let used = self.used.unwrap_or_else(|| Some(self.so_far()));
        let reserved = self.estimate.input + self.estimate.output;
        let step = Step::Settle { reserved, used };
        let (meter, quota) = (std::mem::take(&mut self.meter), self.quota);
        if tokio::runtime::Handle::try_current().is_ok() {
            self.meters.leave(vec![Metered { meter, quota, step }]);
        }
    }
}
