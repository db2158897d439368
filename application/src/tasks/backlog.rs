//! How many tasks a tenant may have waiting. Without a configured limit, as many as the disk holds.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use domain::{Status, Tenant};
use tokio::time::Instant;

use super::SubmitError;
use crate::ports::TaskStore;

/// How long a count is good for. Within that time each API process may let in a little more than the limit.
const GOOD_FOR: Duration = Duration::from_millis(500);

/// The limit, with what was counted last.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    limit: Option<u64>,
    counted: Mutex<HashMap<Tenant, Counted>>,
}

#[derive(Debug, Clone, Copy)]
struct Counted {
    waiting: u64,
    at: Instant,
}

impl Backlog {
    pub(super) fn new(limit: Option<u64>) -> Self {
        Self { limit, counted: Mutex::default() }
    }

    /// Lets `more` tasks in, or says that there is no room.
    pub(super) async fn make_room(
        &self,
        store: &dyn TaskStore,
        tenant: &Tenant,
        more: usize,
    ) -> Result<(), SubmitError> {
        let Some(limit) = self.limit else { return Ok(()) };
        let known = self.with(|counted| counted.get(tenant).copied());
        let known = known.filter(|counted| counted.at.elapsed() < GOOD_FOR);
        let waiting = match known {
            Some(counted) => counted.waiting,
            None => {
                let at = Instant::now();
                let counts = store.counts(tenant).await?;
                let waits = |status| matches!(status, Status::Pending | Status::Scheduled);
                let waiting =
                    counts.iter().filter(|counts| waits(counts.status)).map(|counts| counts.count).sum();
                self.with(|counted| counted.insert(tenant.clone(), Counted { waiting, at }));
                waiting
            }
        };
        let more = u64::try_from(more).unwrap_or(u64::MAX);
        if waiting.saturating_add(more) > limit {
            return Err(SubmitError::TooManyWaiting { waiting, limit });
        }
        self.with(|counted| {
            if let Some(counted) = counted.get_mut(tenant) {
                counted.waiting = counted.waiting.saturating_add(more);
            }
        });
        Ok(())
    }

    fn with<T>(&self, look: impl FnOnce(&mut HashMap<Tenant, Counted>) -> T) -> T {
        look(&mut self.counted.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
