//! T15: rolling restarts under load: every call is answered after at most one more try, and no attempt is charged.

use std::{collections::HashMap, time::Duration};

use anyhow::{Result, ensure};
use e2e_tests::product::free_port;
use rand::RngExt as _;
use serde_json::json;

use super::common::{self, Pace};
use crate::{
    history::ClientEvent,
    rig::{Base, Node, Rig},
    scale::{Finding, Scale},
    types,
};

/// How long a drain may take beyond its grace.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long the product is left alone after the restart of an API, and of a worker: long enough that most tasks end
/// between two drains.
const AFTER_API: Duration = Duration::from_millis(300);
const AFTER_WORKER: Duration = Duration::from_millis(1_200);

/// Two APIs and two workers, each restarted in its turn.
pub async fn run(scale: &Scale) -> Result<Finding> {
    let (rolls, tasks) = (scale.of(2, 50), scale.of(500, 20_000));
    let mut rig = Rig::start(scale, Base::PostgresAndRedis).await?;
    rig.ports.push(free_port());
    rig.set("WORKER_CONCURRENCY", "100");
    // Shorter than some tasks, so that drains have something to give back.
    rig.set("SHUTDOWN_GRACE", "500ms");
    let mut apis = [rig.front(0).await, rig.front(1).await];
    let mut workers = [rig.worker(&[]).await, rig.worker(&[]).await];
    let pace = Pace { tasks, over: Duration::from_millis(4_400) * rolls };
    let load = common::submit(rig.client()?, scale.seed, pace, |random| {
        let longest = if random.random_ratio(1, 10) { 2_000 } else { 200 };
        let sleep_ms = random.random_range(0..longest);
        (types::WORK, json!({ "sleep_ms": sleep_ms }))
    });
    for _ in 0..rolls {
        for (number, api) in apis.iter_mut().enumerate() {
            leave(api).await?;
            *api = rig.front(number).await;
            // Whoever was refused by this one asks the other, which is still there.
            tokio::time::sleep(AFTER_API).await;
        }
        for worker in &mut workers {
            leave(worker).await?;
            *worker = rig.worker(&[]).await;
            tokio::time::sleep(AFTER_WORKER).await;
        }
    }
    load.end().await?;
    let done = format!("{rolls} rolling restarts of 2 APIs and 2 workers in {tasks} tasks");
    let mut finished = common::finish(&rig, &done, scale.patience()).await?;

    let mut misses: HashMap<u64, Vec<&str>> = HashMap::new();
    for event in &finished.evidence.clients {
        if let ClientEvent::Unknown { op, why, .. } = event {
            misses.entry(*op).or_default().push(why);
        }
    }
    let twice: Vec<String> =
        misses.values().filter(|whys| whys.len() > 1).map(|whys| whys.join(", then ")).collect();
    let deaths = finished.verdict.deaths;
    let charged: Vec<_> = finished
        .evidence
        .fates
        .iter()
        .filter(|fate| fate.failures > 0 || fate.crashes > 0)
        .map(|fate| fate.task)
        .collect();
    let released = finished.verdict.released;
    finished.notes.push(format!("{released} given back by drains"));
    finished.expect(twice.is_empty(), "T15", || {
        format!("{} calls failed at the second try: {}", twice.len(), twice.join("; "))
    });
    finished.expect(charged.is_empty(), "T15", || {
        format!("drains were charged to {} tasks, such as {}", charged.len(), charged[0])
    });
    finished
        .expect(released > 0, "T15", || "no drain had anything to give back: nothing was tried".to_owned());
    finished.expect(deaths == 0, "T15", || format!("{deaths} workers were declared dead after a drain"));
    Ok(finished.finding())
}

async fn leave(node: &mut Node) -> Result<()> {
    node.terminate();
    let status = node.ends_within(PATIENCE).await;
    ensure!(status.success(), "a process that was asked to stop ended with {status}: {}", node.log());
    Ok(())
}
