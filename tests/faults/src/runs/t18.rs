//! T18: 20,000 tasks in flight on one worker, all the time, for half an hour. No lease is lost, no attempt is repeated,
//! and the worker's memory stays flat.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use application::ports::TaskStore as _;
use domain::{Limits, NewTask, QueueName};
use futures_util::future::try_join_all;
use postgres_adapter::{PostgresOptions, PostgresStore};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::json;
use sqlx::{Connection as _, PgConnection};
use tokio::time::{Instant, sleep};

use super::{probes, t04::setting};
use crate::{
    checker,
    client::Client,
    rig::{Base, Rig},
    scale::{Finding, Scale},
    types,
};

const IN_FLIGHT: i64 = 20_000;
/// What waits beyond them, so that each end is followed by a start at once.
const SPARE: i64 = 1_000;
/// How much more memory the worker may hold at the end than when it was full for the first time: in kilobytes, beside a
/// tenth.
const MEMORY: u64 = 16 * 1024;
/// How long the worker may take until it holds them all.
const FULL: Duration = Duration::from_secs(90);

/// Fills a worker and keeps it full.
pub async fn run(scale: &Scale) -> Result<Finding> {
    let length = Duration::from_secs(scale.of(8, 30 * 60));
    let rig = Rig::start(scale, Base::PostgresAndRedis).await?;
    let url = setting(&rig, "DATABASE_URL")?;
    // Tasks end all the time, and each end is followed by a start.
    let longest = u64::try_from(length.as_millis())?.max(300_000);
    submit_all(&url, scale.seed, longest).await?;
    let _api = rig.front(0).await;
    // A worker of one queue: one that serves several keeps some slots free for the others.
    let concurrency = IN_FLIGHT.to_string();
    let settings =
        [("WORKER_CONCURRENCY", &*concurrency), ("WORKER_QUEUES", "default"), ("SHUTDOWN_GRACE", "1s")];
    let mut worker = rig.worker(&settings).await;

    let enough = Arc::new(AtomicBool::new(false));
    let feeding = tokio::spawn(feed(rig.client()?, url.clone(), scale.seed, longest, Arc::clone(&enough)));
    let mut connection = PgConnection::connect(&url).await?;
    let in_flight = "SELECT count(*) FROM live WHERE worker IS NOT NULL";
    let started = Instant::now();
    while probes::number(&mut connection, in_flight).await? < IN_FLIGHT {
        if feeding.is_finished() || started.elapsed() > FULL {
            bail!("the worker was not full within {FULL:?}");
        }
        sleep(Duration::from_millis(50)).await;
    }
    let full_after = started.elapsed();
    // Buffers grow to what the first rounds need.
    sleep(length / 8).await;
    let first = probes::memory_of(worker.id())?;
    let (mut fewest, mut most) = (IN_FLIGHT, first);
    let started = Instant::now();
    while started.elapsed() < length {
        fewest = fewest.min(probes::number(&mut connection, in_flight).await?);
        most = most.max(probes::memory_of(worker.id())?);
        if feeding.is_finished() {
            break;
        }
        sleep(Duration::from_millis(250)).await;
    }
    let last = probes::memory_of(worker.id())?;
    enough.store(true, Ordering::Relaxed);
    feeding.await.context("the feeding")??;
    let dead =
        probes::number(&mut connection, "SELECT count(*) FROM worker WHERE dead_at IS NOT NULL").await?;
    let workers = probes::number(&mut connection, "SELECT count(*) FROM worker").await?;
    let again = probes::number(&mut connection, "SELECT count(*) FROM live WHERE attempt > 1").await?;
    let ended = probes::number(&mut connection, "SELECT count(*) FROM outcome").await?;
    // The rest is given back, which is no crash either.
    worker.terminate();
    worker.ends_within(Duration::from_secs(60)).await;
    let verdict = checker::check(&rig.evidence(None).await?);

    let mut violations = verdict.texts();
    if dead > 0 || workers != 1 {
        violations.push(format!("lease: lost, {dead} declared dead, {workers} registrations of one worker"));
    }
    if again > 0 {
        violations.push(format!("I3: {again} tasks were in another attempt than their first"));
    }
    if fewest < IN_FLIGHT * 9 / 10 {
        violations.push(format!("the worker held only {fewest} tasks at times"));
    }
    if last > first + first / 10 + MEMORY {
        violations.push(format!("memory: from {first} kB, once it was full, to {last} kB"));
    }
    let done = format!("{IN_FLIGHT} tasks in flight on one worker for {length:?}, {ended} ended");
    let found = format!(
        "full after {:.1} s, never below {fewest}; 0 leases lost; memory {} MB, then at most {} MB, {} MB at the end; {} violations",
        full_after.as_secs_f64(),
        first / 1024,
        most / 1024,
        last / 1024,
        violations.len()
    );
    let found = found.replace("0 leases lost", &format!("{dead} leases lost"));
    Ok(Finding { done, found, violations })
}

/// Keeps some tasks waiting, whatever the worker takes.
async fn feed(client: Client, url: String, seed: u64, longest: u64, enough: Arc<AtomicBool>) -> Result<()> {
    let mut random = StdRng::seed_from_u64(seed ^ 0xfeed);
    let mut connection = PgConnection::connect(&url).await?;
    let mut number = 0_u64;
    while !enough.load(Ordering::Relaxed) {
        let unfinished = probes::number(&mut connection, "SELECT count(*) FROM live").await?;
        let missing = (IN_FLIGHT + SPARE - unfinished).clamp(0, 100);
        let submissions = (0..missing).map(|_| {
            number += 1;
            let sleep_ms = random.random_range(longest / 100..longest);
            let body = json!({ "type": types::WORK, "input": { "sleep_ms": sleep_ms }, "time_limit_seconds": 7_200 });
            let (client, key) = (client.clone(), format!("{seed}-{number}"));
            async move { client.submit_body(&key, body).await }
        });
        try_join_all(submissions).await?;
        sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

/// What there is from the start.
async fn submit_all(url: &str, seed: u64, longest: u64) -> Result<()> {
    let mut random = StdRng::seed_from_u64(seed);
    let store =
        PostgresStore::connect(url, &PostgresOptions { max_connections: 2, ..PostgresOptions::default() })
            .await?;
    for _ in 0..(IN_FLIGHT + SPARE) / 500 {
        let tasks = (0..500).map(|_| task(random.random_range(longest / 100..longest)));
        store.submit(&tasks.collect::<Result<Vec<_>>>()?).await?;
    }
    Ok(())
}

fn task(sleep_ms: u64) -> Result<NewTask> {
    let plain = probes::task(types::WORK, QueueName::default_queue(), &json!({ "sleep_ms": sleep_ms }))?;
    Ok(NewTask { limits: Limits { time_limit: Duration::from_secs(7_200), ..plain.limits }, ..plain })
}
