//! T1: `kill -9` of workers, one after the other, while tasks come in: none is lost, none ends twice, and no more is
//! repeated than was in flight at the kills.

use std::time::Duration;

use anyhow::Result;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use super::common::{self, Pace};
use crate::{
    rig::{Base, Rig},
    scale::{Finding, Scale},
    types,
};

/// On both bases; mutants on PostgreSQL.
pub async fn run(scale: &Scale) -> Result<Finding> {
    if scale.mutant.is_some() {
        return workers(scale).await;
    }
    Ok(workers(scale).await?.and(standalone(scale).await?))
}

/// Workers are killed, one each interval, and started again.
pub async fn workers(scale: &Scale) -> Result<Finding> {
    let (tasks, kills) = (scale.of(2_000, 100_000), scale.of(8, 200));
    let every = Duration::from_millis(scale.of(500, 1_000));
    let mut random = StdRng::seed_from_u64(scale.seed);
    let mut rig = Rig::start(scale, Base::PostgresAndRedis).await?;
    rig.set("WORKER_CONCURRENCY", "50");
    let _api = rig.front(0).await;
    let mut workers = Vec::new();
    for _ in 0..4 {
        workers.push(rig.worker(&[]).await);
    }

    let load = common::submit(rig.client()?, scale.seed, Pace { tasks, over: every * kills }, work);
    let mut next = Instant::now();
    for _ in 0..kills {
        next += every;
        sleep_until(next).await;
        let victim = random.random_range(0..workers.len());
        workers[victim].kill();
        workers[victim] = rig.worker(&[]).await;
    }
    load.end().await?;
    let done = format!("{kills} kill -9 of 4 workers in {tasks} tasks");
    let mut finished = common::finish(&rig, &done, scale.patience()).await?;
    // Watched for half a lease, in rounds of half a second; the rest is for a machine that is busy.
    let (unfound, limit) = (finished.verdict.longest_unfound, rig.lease / 2 + Duration::from_secs(3));
    finished.expect(unfound <= limit, "I8", || {
        format!("a dead worker was found only {unfound:?} after its lease")
    });
    Ok(finished.finding())
}

/// The one process is killed and started again.
pub async fn standalone(scale: &Scale) -> Result<Finding> {
    let (tasks, kills) = (scale.of(1_000, 100_000), scale.of(8, 200));
    let every = Duration::from_millis(scale.of(500, 1_000));
    let mut random = StdRng::seed_from_u64(scale.seed);
    let mut rig = Rig::start(scale, Base::Sqlite).await?;
    rig.set("WORKER_CONCURRENCY", "100");
    let mut process = rig.front(0).await;

    let load = common::submit(rig.client()?, scale.seed, Pace { tasks, over: every * kills }, work);
    for _ in 0..kills {
        let pause = every.mul_f64(random.random_range(0.4..1.6));
        tokio::time::sleep(pause).await;
        process.kill();
        process = rig.front(0).await;
    }
    load.end().await?;
    let done = format!("SQLite: {kills} kill -9 in {tasks} tasks");
    Ok(common::finish(&rig, &done, scale.patience()).await?.finding())
}

fn work(random: &mut StdRng) -> (&'static str, serde_json::Value) {
    // One in fifty fails at first and waits as SCHEDULED for its next try.
    let fail_until = u32::from(random.random_ratio(1, 50));
    (types::WORK, json!({ "sleep_ms": random.random_range(0..150), "fail_until": fail_until }))
}
