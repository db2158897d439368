//! T3: `kill -9` of the API while clients submit and ask again where they got no answer: nothing that was answered 2xx
//! is lost, and no key has two tasks.

use std::time::Duration;

use anyhow::Result;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::json;

use super::common::{self, Pace};
use crate::{
    history::ClientEvent,
    rig::{Base, Rig},
    scale::{Finding, Scale},
    types,
};

/// On both bases; mutants on PostgreSQL.
pub async fn run(scale: &Scale) -> Result<Finding> {
    if scale.mutant.is_some() {
        return api(scale).await;
    }
    Ok(api(scale).await?.and(standalone(scale).await?))
}

/// The API is killed.
pub async fn api(scale: &Scale) -> Result<Finding> {
    kill_the_front(scale, Base::PostgresAndRedis, "").await
}

/// The one process is killed.
pub async fn standalone(scale: &Scale) -> Result<Finding> {
    kill_the_front(scale, Base::Sqlite, "SQLite: ").await
}

/// Clients submit as fast as they are answered; whenever a share of the tasks is acknowledged, the process that
/// answers is killed, in the middle of whatever it is at.
async fn kill_the_front(scale: &Scale, base: Base, on: &str) -> Result<Finding> {
    let (tasks, kills) = (scale.of(2_000, 50_000), scale.of(8, 100));
    let mut random = StdRng::seed_from_u64(scale.seed);
    let mut rig = Rig::start(scale, base).await?;
    rig.set("WORKER_CONCURRENCY", "500");
    let mut front = rig.front(0).await;
    let _worker = match base {
        Base::PostgresAndRedis => Some(rig.worker(&[]).await),
        Base::Sqlite => None,
    };
    let pace = Pace { tasks, over: Duration::ZERO };
    let mut load =
        common::submit(rig.client()?, scale.seed, pace, |_| (types::WORK, json!({ "sleep_ms": 0 })));
    for kill in 1..=kills {
        load.reaches(kill * tasks / (kills + 1)).await;
        tokio::time::sleep(Duration::from_micros(random.random_range(0..20_000))).await;
        front.kill();
        front = rig.front(0).await;
    }
    load.end().await?;
    let done = format!("{on}{kills} kill -9 of the API in {tasks} submissions");
    let mut finished = common::finish(&rig, &done, scale.patience()).await?;
    let clients = &finished.evidence.clients;
    let replayed =
        clients.iter().filter(|event| matches!(event, ClientEvent::Ok { replayed: true, .. })).count();
    finished.notes.push(format!("{replayed} earlier answers told again"));
    Ok(finished.finding())
}
