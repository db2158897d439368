//! T13: cancellation, completion and take-over race for the same tasks: one wins, and what it wrote stays.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::json;
use tokio::task::JoinSet;

use super::common;
use crate::{
    client::Client,
    rig::{Base, Rig},
    scale::{Finding, Scale},
    types,
};

/// Tasks and cancellations take up to so long, so that either may come first.
const LONGEST: Duration = Duration::from_millis(200);
/// One race in so many lasts for leases instead, so that take-over is in it.
const SLOW: u32 = 10;

/// Each task is cancelled around the moment when it completes, while workers freeze and are killed.
pub async fn run(scale: &Scale) -> Result<Finding> {
    let (races, racers) = (scale.of(800, 50_000), scale.of(40, 200));
    let mut rig = Rig::start(scale, Base::PostgresAndRedis).await?;
    // Fewer slots than racers, so that some tasks are cancelled while they wait.
    rig.set("WORKER_CONCURRENCY", scale.of("11", "55"));
    let _api = rig.front(0).await;
    let mut workers = Vec::new();
    for _ in 0..3 {
        workers.push(rig.worker(&[]).await);
    }
    let next = Arc::new(AtomicU32::new(0));
    let over = Arc::new(AtomicBool::new(false));
    let mut running = JoinSet::new();
    for racer in 0..racers {
        let random = StdRng::seed_from_u64(scale.seed ^ (racer << 32));
        running.spawn(race(rig.client()?, *scale, rig.lease * 3, Arc::clone(&next), races, random));
    }
    let ending = tokio::spawn({
        let over = Arc::clone(&over);
        async move {
            let mut answers = [0; 4];
            while let Some(counted) = running.join_next().await {
                for (sum, one) in answers.iter_mut().zip(counted??) {
                    *sum += one;
                }
            }
            over.store(true, Ordering::Relaxed);
            anyhow::Ok(answers)
        }
    });
    let mut random = StdRng::seed_from_u64(scale.seed);
    let (mut kills, mut freezes) = (0, 0);
    while !over.load(Ordering::Relaxed) && !ending.is_finished() {
        let victim = random.random_range(0..workers.len());
        tokio::time::sleep(rig.lease.mul_f64(random.random_range(0.1..0.5))).await;
        if random.random_ratio(1, 4) {
            workers[victim].freeze();
            tokio::time::sleep(rig.lease.mul_f64(random.random_range(1.2..2.0))).await;
            workers[victim].thaw();
            freezes += 1;
        } else {
            workers[victim].kill();
            workers[victim] = rig.worker(&[]).await;
            kills += 1;
        }
    }
    let [at_once, asked, too_late, unknown] = ending.await??;
    let done =
        format!("{races} cancellations against completion, {kills} kills and {freezes} freezes of 3 workers");
    let mut finished = common::finish(&rig, &done, scale.patience()).await?;
    finished.notes.push(format!(
        "cancelled at once {at_once}, asked to stop {asked}, ended before {too_late}, not answered {unknown}"
    ));
    finished.expect(at_once > 0 && asked > 0 && too_late > 0, "T13", || {
        "one of the racers never won: the races were none".to_owned()
    });
    Ok(finished.finding())
}

/// Submits and cancels; counts the answers 200, 202, 409 and none.
async fn race(
    client: Client,
    scale: Scale,
    slow: Duration,
    next: Arc<AtomicU32>,
    races: u32,
    mut random: StdRng,
) -> Result<[u32; 4]> {
    let mut answers = [0; 4];
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= races {
            return Ok(answers);
        }
        let longest = if random.random_ratio(1, SLOW) { slow } else { LONGEST };
        let work = longest.mul_f64(random.random_range(0.0..1.0)).as_millis();
        let wait = longest.mul_f64(random.random_range(0.0..1.0));
        let key = format!("{}-{number}", scale.seed);
        let task = client.submit(&key, types::WORK, json!({ "sleep_ms": work as u64 })).await?.task;
        tokio::time::sleep(wait).await;
        let code = client.cancel(task).await?.map(|answer| answer.code);
        answers[match code {
            Some(200) => 0,
            Some(202) => 1,
            Some(_) => 2,
            None => 3,
        }] += 1;
    }
}
