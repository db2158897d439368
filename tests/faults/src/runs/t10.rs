//! T10: PostgreSQL's disk is full, then freed. Submissions are answered 503 with problem details and a Retry-After, what
//! was acknowledged is not lost, and all recovers by itself.
//!
//! The disk is a small tmpfs in a namespace of its own ([`SmallDisk`]), which takes no privileges where users may make
//! namespaces; PostgreSQL meets the real ENOSPC on it, in its tables and in its log. Where the log has no room,
//! PostgreSQL ends; its supervisor starts it again until there is some.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use contract_tests::servers::SmallDisk;
use reqwest::{StatusCode, header};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{
    common::{self, Pace},
    probes,
};
use crate::{
    rig::{Base, Rig},
    scale::{Finding, Scale},
    transitions::Database,
    types,
};

/// How soon work goes on once there is room.
const BACK: Duration = Duration::from_secs(15);

/// Fills and frees.
pub async fn run(scale: &Scale) -> Result<Finding> {
    let (rounds, hold) = (scale.of(1_u32, 8), Duration::from_millis(scale.of(800, 4_000)));
    let disk = SmallDisk::start(scale.of(160, 320)).context("a PostgreSQL on a small disk")?;
    let url = disk.server().create_database().await;
    let mut rig = Rig::start(scale, Base::PostgresAndRedis).await?;
    rig.database = Database::Postgres(url.clone());
    rig.database.watch().await.context("the triggers")?;
    rig.set("DATABASE_URL", &url);
    rig.set("WORKER_CONCURRENCY", "50");
    let _api = rig.front(0).await;
    let _worker = rig.worker(&[]).await;
    let client = rig.client()?;

    let mut violations = Vec::new();
    let (mut slowest, mut refusals) = (Duration::ZERO, 0);
    for round in 0..rounds {
        let pace = Pace { tasks: scale.of(100, 400), over: hold };
        let load = common::submit(rig.client()?, scale.seed + u64::from(round) * 7_919, pace, |_| {
            (types::WORK, json!({ "sleep_ms": 30 }))
        });
        disk.fill().context("filling the disk")?;
        refusals += until_refused(rig.ports[0], hold, &mut violations).await?;
        disk.free().context("freeing the disk")?;
        let key = format!("{}-after-{round}", scale.seed);
        match probes::until_a_task_ends(&url, &client, &key, 4 * BACK).await {
            Ok(took) => slowest = slowest.max(took),
            Err(error) => violations.push(("I8", format!("after round {round}: {error:#}"))),
        }
        load.end().await?;
    }
    if slowest > BACK {
        violations.push(("I8", format!("work went on only {slowest:?} after there was room")));
    }
    let done = format!("the disk of PostgreSQL filled {rounds} times for {hold:?} and more, then freed");
    disk.wait_until_ready()?;
    let mut finished = common::finish(&rig, &done, scale.patience()).await?;
    let note = format!("{refusals} submissions answered 503, back within {:.1} s", slowest.as_secs_f64());
    probes::add(&mut finished, note, violations);
    Ok(finished.finding())
}

/// Submits until the disk is full, and for this long after; answers how many submissions were refused. Each refusal has
/// to be one that a client can act on.
async fn until_refused(port: u16, hold: Duration, violations: &mut probes::Broken) -> Result<u32> {
    let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build()?;
    let (started, mut first, mut refusals) = (Instant::now(), None, 0);
    // Large ones, so that the room in pages that exist already is used up soon.
    let body = json!({ "type": types::WORK, "input": {}, "metadata": { "padding": "x".repeat(6_000) } });
    while first.is_none_or(|first: Instant| first.elapsed() < hold) {
        if first.is_none() && started.elapsed() > Duration::from_secs(60) {
            bail!("the disk is full and submissions are still taken");
        }
        let answer = http.post(format!("http://127.0.0.1:{port}/api/v1/tasks")).json(&body).send().await?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let text = answer.text().await.unwrap_or_default();
        if status == StatusCode::CREATED {
            continue;
        }
        refusals += 1;
        first.get_or_insert_with(Instant::now);
        let header = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let kind = header(header::CONTENT_TYPE);
        let retry_after: Option<u32> = header(header::RETRY_AFTER).parse().ok();
        let good = status == StatusCode::SERVICE_UNAVAILABLE
            && kind.starts_with("application/problem+json")
            && retry_after.is_some_and(|seconds| seconds > 0);
        if !good && violations.len() < 10 {
            violations.push((
                "T10",
                format!("a full disk was answered {status}, {kind}, Retry-After {retry_after:?}: {text}"),
            ));
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(refusals)
}
