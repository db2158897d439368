//! How many calls this process has under way. Its provider's meter is told again and again, so that those of a process that
//! has gone count no more.

use std::sync::{
    Arc, Weak,
    atomic::{AtomicU32, Ordering},
};

use domain::ai::{Caller, InFlight, ProviderName, Quota, Step};

use super::Meters;
use crate::ports::Metered;

/// The calls of this process, where those under way are counted.
pub(super) struct Own {
    pub(super) meter: String,
    pub(super) terms: InFlight,
    pub(super) caller: Caller,
    calls: AtomicU32,
}

/// One of them, also while it is not let through yet: rather one too many than one too few.
pub(super) struct OwnCall(Arc<Own>);

impl OwnCall {
    pub(super) fn begin(own: &Arc<Own>) -> Self {
        own.calls.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(own))
    }
}

impl Drop for OwnCall {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Own {
    /// Counts the calls of a provider, and tells its meter of them for as long as anybody else has this.
    pub(super) fn of(provider: &ProviderName, terms: InFlight, caller: Caller, meters: Meters) -> Arc<Self> {
        let (meter, calls) = (format!("{provider} under way"), AtomicU32::new(0));
        let own = Arc::new(Self { meter, terms, caller, calls });
        tokio::spawn(renew(Arc::downgrade(&own), meters));
        own
    }

    pub(super) fn step(&self, step: Step) -> Metered {
        Metered { meter: self.meter.clone(), quota: Quota::NONE, step }
    }
}

/// Says again and again how many calls this process has under way, while it has some.
async fn renew(own: Weak<Own>, meters: Meters) {
    let mut told = 0;
    loop {
        tokio::time::sleep(InFlight::LEASE / 3).await;
        let Some(own) = own.upgrade() else { return };
        let calls = own.calls.load(Ordering::Relaxed);
        if calls > 0 || told > 0 {
            meters.leave(vec![own.step(Step::Renew { caller: own.caller, calls })]);
        }
        told = calls;
    }
}
