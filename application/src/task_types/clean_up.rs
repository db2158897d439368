//! `upkeep.clean_up`: goes through all that is kept, removes what has been kept for long enough, and reports numbers. It
//! comes with a schedule of its own, daily at 02:00; the upkeep removes what is due in between.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use domain::{End, Failure, Retention, RetentionRules, Status, TaskId};
use serde::Deserialize;
use serde_json::json;

use crate::{
    ports::{StoreError, UpkeepStore, Walk},
    registry::{Output, TaskTypeSpec},
};

/// The name on the wire.
pub const CLEAN_UP_TYPE: &str = "upkeep.clean_up";

/// How much is looked at in one step.
const STEP: usize = 500;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    /// Removes what is older although it would be kept for longer; what is kept for ever, or has a retention of its own,
    /// stays.
    #[serde(default)]
    older_than_days: Option<f64>,
}

impl Input {
    fn rules(&self, rules: &RetentionRules) -> Result<RetentionRules, String> {
        let Some(days) = self.older_than_days else { return Ok(rules.clone()) };
        let most = Duration::try_from_secs_f64(days * 86_400.0).ok();
        let most = most.filter(|most| !most.is_zero() && *most <= Retention::LONGEST);
        let most = most.ok_or_else(|| format!("older_than_days: {days} is not above 0 and at most 3650"))?;
        Ok(rules.clone().at_most(most))
    }
}

/// `upkeep.clean_up` by these rules; failed tasks are removed after `keep_failed`, if that is said.
pub fn clean_up(
    store: Arc<dyn UpkeepStore>,
    rules: RetentionRules,
    keep_failed: Option<Duration>,
) -> TaskTypeSpec {
    let checked = rules.clone();
    TaskTypeSpec::new(
        CLEAN_UP_TYPE,
        "Removes ended tasks that have been kept for long enough, and reports numbers.",
        move |context, input: Input| {
            let (store, rules) = (Arc::clone(&store), input.rules(&rules));
            async move {
                let rules = rules.map_err(|message| Failure::permanent("invalid_input", message))?;
                let mut removed: BTreeMap<&str, usize> = BTreeMap::new();
                let (mut at, mut total) = (TaskId(0), 0_u64);
                loop {
                    let step = store.remove_old(&rules, Walk::After(at), STEP).await.map_err(unavailable)?;
                    for (end, count) in step.removed {
                        *removed.entry(Status::from(end).as_str()).or_default() += count;
                        total += count as u64;
                    }
                    context.progress(total, 0, Some("removing what has been kept for long enough"));
                    let Some(reached) = step.reached else { break };
                    at = reached;
                }
                if let Some(age) = keep_failed {
                    loop {
                        let count = store.discard_failed(age, STEP).await.map_err(unavailable)?;
                        *removed.entry(Status::from(End::Failed).as_str()).or_default() += count;
                        total += count as u64;
                        if count < STEP {
                            break;
                        }
                    }
                }
                let mut keys = 0;
                loop {
                    let count = store.forget_keys(STEP).await.map_err(unavailable)?;
                    keys += count;
                    if count < STEP {
                        break;
                    }
                }
                Output::of(&json!({ "removed": total, "by_status": removed, "idempotency_keys": keys }))
            }
        },
    )
    .checked(move |input: &Input| input.rules(&checked).map(drop))
    .example("{}")
}

fn unavailable(error: StoreError) -> Failure {
    Failure::transient("store_unavailable", error.to_string())
}
