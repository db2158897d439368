//! T2: workers freeze for three leases and wake up with results in their hands that are not theirs any more: none of
//! their writes changes anything, and no task is in two hands.

use std::time::Duration;

use anyhow::Result;
use futures_util::future::join_all;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::json;

use super::common::{self, Pace};
use crate::{
    rig::{Base, Node, Rig},
    scale::{Finding, Scale},
    types,
};

const WORKERS: u32 = 8;
/// What a worker says of an outcome that came too late.
const REFUSED: &str = "its outcome is dropped";

/// Eight workers that freeze and wake, each in its own time.
pub async fn run(scale: &Scale) -> Result<Finding> {
    let (tasks, times) = (scale.of(400, 20_000), scale.of(2, 25));
    let mut rig = Rig::start(scale, Base::PostgresAndRedis).await?;
    rig.set("WORKER_CONCURRENCY", "50");
    let _api = rig.front(0).await;
    let mut workers = Vec::new();
    for _ in 0..WORKERS {
        workers.push(rig.worker(&[]).await);
    }
    // A round is a lease at work, on average, and three frozen.
    let pace = Pace { tasks, over: rig.lease * 4 * times };
    let load = common::submit(rig.client()?, scale.seed, pace, |random| {
        (types::WORK, json!({ "sleep_ms": random.random_range(0..1_000) }))
    });
    let freezing = workers.iter().zip(0..).map(|(worker, number)| {
        let random = StdRng::seed_from_u64(scale.seed ^ number);
        freeze_and_wake(worker, rig.lease, times, random)
    });
    join_all(freezing).await;
    load.end().await?;
    let done = format!("{} freezes of 3 leases on {WORKERS} workers in {tasks} tasks", times * WORKERS);
    let mut finished = common::finish(&rig, &done, scale.patience()).await?;
    let refused: usize = workers.iter().map(|worker| worker.log().matches(REFUSED).count()).sum();
    let abandoned: usize =
        workers.iter().map(|worker| worker.log().matches("lease counts as lost").count()).sum();
    finished
        .notes
        .push(format!("{abandoned} leases given up by their workers, {refused} late outcomes refused"));
    Ok(finished.finding())
}

async fn freeze_and_wake(worker: &Node, lease: Duration, times: u32, mut random: StdRng) {
    for _ in 0..times {
        tokio::time::sleep(lease.mul_f64(random.random_range(0.5..1.5))).await;
        worker.freeze();
        tokio::time::sleep(lease * 3).await;
        worker.thaw();
    }
}
