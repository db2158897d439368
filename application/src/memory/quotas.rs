//! Providers' quotas.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use domain::{
    Timestamp,
    ai::{Meter, Verdict},
};

use super::MemoryStore;
use crate::ports::{Metered, QuotaStore, StoreError, take_steps};

/// Meters, and when each was used last.
#[derive(Default)]
pub(super) struct Meters {
    meters: BTreeMap<String, Meter>,
    used: BTreeMap<String, Timestamp>,
}

#[async_trait]
impl QuotaStore for MemoryStore {
    async fn meter(&self, steps: &[Metered]) -> Result<Vec<Verdict>, StoreError> {
        let (mut state, now) = self.enter();
        let Meters { meters, used } = &mut state.meters;
        let (verdicts, changed) = take_steps(meters, steps, now);
        used.extend(changed.keys().map(|name| (name.clone(), now)));
        meters.extend(changed);
        Ok(verdicts)
    }

    async fn read_meters(&self, names: &[String]) -> Result<Vec<(String, Meter)>, StoreError> {
        let (state, _) = self.enter();
        let read = |name: &String| Some((name.clone(), state.meters.meters.get(name)?.clone()));
        Ok(names.iter().filter_map(read).collect())
    }

    async fn forget_meters(&self, age: Duration, limit: usize) -> Result<usize, StoreError> {
        let (mut state, now) = self.enter();
        let Meters { meters, used } = &mut state.meters;
        let old = |(_, at): &(&String, &Timestamp)| (now - **at).to_std().is_ok_and(|unused| unused > age);
        let forgotten: Vec<String> =
            used.iter().filter(old).take(limit).map(|(name, _)| name.clone()).collect();
        for name in &forgotten {
            meters.remove(name);
            used.remove(name);
        }
        Ok(forgotten.len())
    }
}
