//! When a provider is not asked: while it has said so, and while as many calls are under way as may be.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use domain::{
    ErrorClass,
    ai::{ProviderName, Trouble},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use crate::ports::GeneratorError;

/// How long a provider is left alone that names no time.
const PAUSE: Duration = Duration::from_secs(5);
/// How long one is left alone whose account is out of credit.
const PAUSE_WITHOUT_CREDIT: Duration = Duration::from_secs(60);
/// After an hour it is asked again, whatever it said.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
/// When a task comes back that found no place.
const PLACE_FREE_AFTER: Duration = Duration::from_secs(1);
/// Models whose pauses are kept; users name models.
const MOST_PAUSES: usize = 1_000;

/// A place among the calls under way; none where they are not counted.
pub(super) type Place = Option<OwnedSemaphorePermit>;

/// The gate before one provider.
pub(super) struct Gate {
    places: Option<(usize, Arc<Semaphore>)>,
    /// Until when, and why, by model: providers limit each model by itself.
    pauses: Mutex<HashMap<String, (Instant, GeneratorError)>>,
}

impl Gate {
    pub(super) fn new(max_in_flight: Option<usize>) -> Self {
        let places = max_in_flight.map(|most| (most, Arc::new(Semaphore::new(most))));
        Self { places, pauses: Mutex::default() }
    }

    fn pauses(&self) -> MutexGuard<'_, HashMap<String, (Instant, GeneratorError)>> {
        self.pauses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a call through, or says why not.
    pub(super) fn enter(&self, provider: &ProviderName, model: &str) -> Result<Place, GeneratorError> {
        let now = Instant::now();
        if let Some((until, error)) = self.pauses().get(model).filter(|(until, _)| *until > now) {
            let retry_after = (error.class == ErrorClass::RateLimited).then(|| *until - now);
            let message = format!("{} (said before; {provider} is not asked until then)", error.message);
            return Err(GeneratorError { retry_after, message, billed: false, ..error.clone() });
        }
        let Some((most, places)) = &self.places else { return Ok(None) };
        Arc::clone(places).try_acquire_owned().map(Some).map_err(|_| GeneratorError {
            class: ErrorClass::RateLimited,
            trouble: Trouble::RateLimited,
            code: "provider_busy".to_owned(),
            message: format!("{provider} has as many calls under way as it may have at once: {most}"),
            retry_after: Some(PLACE_FREE_AFTER),
            billed: false,
            tried: Vec::new(),
        })
    }

    /// Takes note of what a provider said.
    pub(super) fn note(&self, model: &str, error: &GeneratorError) {
        let pause = match error.trouble {
            Trouble::RateLimited => error.retry_after.unwrap_or(PAUSE).min(LONGEST_PAUSE),
            Trouble::Quota => PAUSE_WITHOUT_CREDIT,
            Trouble::Unreachable
            | Trouble::Overloaded
            | Trouble::TimedOut
            | Trouble::Unauthorized
            | Trouble::UnknownModel
            | Trouble::Refused => return,
        };
        let now = Instant::now();
        let mut pauses = self.pauses();
        if pauses.len() >= MOST_PAUSES {
            pauses.retain(|_, (until, _)| *until > now);
        }
        if pauses.len() < MOST_PAUSES || pauses.contains_key(model) {
            let until = now + pause;
            let later = pauses.get(model).map_or(until, |(known, _)| until.max(*known));
            pauses.insert(model.to_owned(), (later, error.clone()));
        }
    }
}
