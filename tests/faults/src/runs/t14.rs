//! T14: tasks that kill their process, among innocents: each is given up after three crashes, and no innocent pays.

use std::{collections::HashSet, time::Duration};

use anyhow::Result;
use domain::Counters;
use rand::RngExt as _;
use serde_json::json;

use super::common::{self, Pace};
use crate::{
    history::HandlerEvent,
    rig::{Base, Rig},
    scale::{Finding, Scale},
    types,
};

/// How often supervisors look at their worker.
const LOOK: Duration = Duration::from_millis(20);

/// Two workers under supervisors that start them again.
pub async fn run(scale: &Scale) -> Result<Finding> {
    let (innocents, killers) = (scale.of(300, 1_000), scale.of(1, 5));
    let mut rig = Rig::start(scale, Base::PostgresAndRedis).await?;
    rig.set("WORKER_CONCURRENCY", "50");
    let _api = rig.front(0).await;
    let client = rig.client()?;
    let pace = Pace { tasks: innocents, over: Duration::from_secs(scale.of(4, 20)) };
    let load = common::submit(rig.client()?, scale.seed, pace, |random| {
        (types::WORK, json!({ "sleep_ms": random.random_range(0..500) }))
    });
    let mut poison = HashSet::new();
    for number in 0..killers {
        let key = format!("{}-killer-{number}", scale.seed);
        poison.insert(client.submit(&key, types::CRASH, json!({ "after_ms": 100 })).await?.task);
    }
    let mut workers = [rig.worker(&[]).await, rig.worker(&[]).await];
    let mut crashes = 0;
    let supervising = async {
        loop {
            for worker in &mut workers {
                if worker.ended().is_some() {
                    *worker = rig.worker(&[]).await;
                    crashes += 1;
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    let done = format!("{killers} tasks that kill their process among {innocents} innocents on 2 workers");
    let working = async {
        load.end().await?;
        common::finish(&rig, &done, scale.patience().max(rig.lease * 12 * killers)).await
    };
    let mut finished = tokio::select! {
        finished = working => finished?,
        () = supervising => unreachable!("supervisors do not stop"),
    };

    finished.notes.push(format!("{crashes} crashes"));
    let starts = |task: i64| {
        let handlers = &finished.evidence.handlers;
        handlers
            .iter()
            .filter(|event| matches!(event, HandlerEvent::Start { task: t, .. } if *t == task))
            .count()
    };
    let mut broken = Vec::new();
    for fate in finished.evidence.fates.iter().filter(|fate| fate.status.is_some()) {
        let status = fate.status.as_deref().unwrap_or_default();
        let error = fate.error.as_deref().unwrap_or("no error");
        if poison.contains(&fate.task) {
            let calls = starts(fate.task);
            // A crash that finds it beside a likelier cause is not charged to it, so there may be more calls than charges.
            let charged = fate.crashes == Counters::CRASH_LIMIT && calls >= Counters::CRASH_LIMIT as usize;
            if status != "FAILED" || !error.contains("poison") || !charged {
                broken.push(format!(
                    "task {}, which kills its process, ended as {status} after {calls} calls: {error}",
                    fate.task
                ));
            }
        } else if status != "COMPLETED" {
            broken.push(format!("task {}, an innocent, ended as {status}: {error}", fate.task));
        }
    }
    for text in broken {
        finished.expect(false, "T14", || text);
    }
    Ok(finished.finding())
}
