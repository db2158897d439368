//! Fails fast while Redis is down, and notices when it is back.

use std::{
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::{Ask, Shared, Trouble, lock};

/// The first attempt after a failure comes soon: most outages are restarts.
const FIRST_ATTEMPT: Duration = Duration::from_millis(50);
/// Later attempts are at most this far apart.
const ATTEMPT_EVERY: Duration = Duration::from_secs(1);

/// Open while it holds an error.
#[derive(Debug, Default)]
pub(super) struct Breaker(Mutex<Option<Arc<str>>>);

impl Breaker {
    /// Why calls are refused, if they are.
    pub(super) fn error(&self) -> Option<Arc<str>> {
        lock(&self.0).clone()
    }
}

/// Refuses calls from here on, until an attempt in the background succeeds. Says so once per outage.
pub(super) fn open(shared: &Arc<Shared>, trouble: &Trouble) {
    let previous = lock(&shared.breaker.0).replace(trouble.to_string().into());
    if previous.is_none() {
        tracing::warn!(
            address = shared.address, error = %trouble,
            "Redis cannot be reached; the order and the news come from the store until it is back"
        );
        tokio::spawn(await_recovery(Arc::downgrade(shared)));
    }
}

/// Tries until a connection answers, or until nobody needs one any more.
async fn await_recovery(shared: Weak<Shared>) {
    let start = Instant::now();
    let mut pause = FIRST_ATTEMPT;
    loop {
        sleep(pause).await;
        let Some(shared) = shared.upgrade() else { return };
        match shared.attempt::<String>(&Ask::Command(&redis::cmd("PING"))).await {
            Ok(_) => {
                lock(&shared.breaker.0).take();
                tracing::info!(address = shared.address, outage = ?start.elapsed(), "Redis is back");
                return;
            }
            Err(trouble) => {
                tracing::debug!(address = shared.address, error = %trouble, "Redis is still away");
                lock(&shared.breaker.0).replace(trouble.to_string().into());
            }
        }
        pause = (pause * 2).min(ATTEMPT_EVERY);
    }
}
