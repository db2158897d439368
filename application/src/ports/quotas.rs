//! How much of their providers' quotas workers have used, over all processes.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use domain::{
    Timestamp,
    ai::{Meter, Quota, Step, Verdict},
};

use super::StoreError;

/// A step of one meter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metered {
    /// Which: whoever names the same shares it.
    pub meter: String,
    /// What it is held to, by the configuration of who asks.
    pub quota: Quota,
    /// The step.
    pub step: Step,
}

/// Where meters are kept.
#[cfg_attr(any(test, feature = "mocks"), mockall::automock)]
#[async_trait]
pub trait QuotaStore: Send + Sync {
    /// Takes steps in their order, by [`Meter::step`] and the store's clock; one verdict each. Callers of several processes go
    /// one after the other at each meter. What was noted shortly before a crash of the store may be lost.
    async fn meter(&self, steps: &[Metered]) -> Result<Vec<Verdict>, StoreError>;

    /// The meters of these names, as far as there are any.
    async fn read_meters(&self, names: &[String]) -> Result<Vec<(String, Meter)>, StoreError>;

    /// Forgets meters that nobody has used for `age`, at most `limit`; answers how many.
    async fn forget_meters(&self, age: Duration, limit: usize) -> Result<usize, StoreError>;
}

/// What a store does with the meters in its hand, whichever it is: the verdicts, and the meters that it is to keep.
pub fn take_steps(
    kept: &BTreeMap<String, Meter>,
    steps: &[Metered],
    now: Timestamp,
) -> (Vec<Verdict>, BTreeMap<String, Meter>) {
    let before = |name: &String| kept.get(name).cloned().unwrap_or_default();
    let mut meters: BTreeMap<String, Meter> = BTreeMap::new();
    let take = |Metered { meter: name, quota, step }: &Metered| {
        meters.entry(name.clone()).or_insert_with(|| before(name)).step(quota, step, now)
    };
    let verdicts = steps.iter().map(take).collect();
    meters.retain(|name, meter| before(name) != *meter);
    (verdicts, meters)
}
