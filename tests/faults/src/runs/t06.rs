//! T6: Redis is flushed, killed, brought back from a stale dump, out of memory, and away for minutes, while tasks come
//! in and run. None is lost, a due task starts within 5 s all the while, and 100,000 waiting ones are in order again
//! within 30 s.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use application::ports::TaskStore as _;
use contract_tests::servers::RedisServer;
use domain::QueueName;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use postgres_adapter::{PostgresOptions, PostgresStore};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use serde_json::json;
use sqlx::{Connection as _, PgConnection};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};

use super::{common, probes, t04::setting};
use crate::{
    client::Client,
    proxy::{Mode, Proxy, Wire},
    rig::{Base, Rig},
    scale::{Finding, Scale},
    types,
};

/// How soon a due task starts with Redis down.
const STARTED: Duration = Duration::from_secs(5);
/// How soon the order is whole again.
const REBUILT: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Flush,
    Kill,
    StaleDump,
    OutOfMemory,
    /// A worker's calls are done, and their answers are lost: what it has popped is nobody's.
    AnswersLost,
    /// A worker's connections are cut in the middle of answers.
    CutMidway,
}

/// All faults, then the rebuilding.
pub async fn run(scale: &Scale) -> Result<Finding> {
    Ok(faults(scale).await?.and(rebuild(scale).await?))
}

/// Every fault some times, in a random order, then one long stop.
pub async fn faults(scale: &Scale) -> Result<Finding> {
    let (each, stop) = (scale.of(1, 25), Duration::from_secs(scale.of(4, 300)));
    let mut random = StdRng::seed_from_u64(scale.seed);
    let mut rig = Rig::start_private(scale, Base::PostgresAndRedis).await?;
    let redis = rig.redis.take().context("the run has its own Redis")?;
    let url = setting(&rig, "DATABASE_URL")?;
    rig.set("WORKER_CONCURRENCY", "50");
    let _api = rig.front(0).await;
    let (to_workers, through) = Proxy::before(redis.url(), Wire::Talk, scale.seed).await?;
    let through = [("REDIS_URL", &*through)];
    let _workers = [rig.worker(&through).await, rig.worker(&through).await];

    let load = Load::start(rig.client()?, scale.seed, scale.of(25, 40));
    let all = [
        Fault::Flush,
        Fault::Kill,
        Fault::StaleDump,
        Fault::OutOfMemory,
        Fault::AnswersLost,
        Fault::CutMidway,
    ];
    let mut order: Vec<Fault> = (0..each).flat_map(|_| all).collect();
    order.shuffle(&mut random);
    for fault in &order {
        sleep(Duration::from_millis(random.random_range(200..700))).await;
        break_redis(&redis, &to_workers, *fault, &mut random).await.with_context(|| format!("{fault:?}"))?;
    }
    sleep(Duration::from_millis(500)).await;
    redis.stop()?;
    sleep(stop).await;
    redis.resume()?;
    sleep(Duration::from_secs(2)).await;
    let tasks = load.stop().await?;

    let cuts = to_workers.counts();
    let done = format!(
        "Redis flushed, killed, brought back from a stale dump, out of memory, and cut off {each} times each ({} answers \
         lost, {} cut midway), then stopped for {stop:?}, in {tasks} tasks",
        cuts.answers_cut, cuts.cut_midway
    );
    let mut finished = common::finish(&rig, &done, scale.patience()).await?;
    let late = probes::starts_late(&url, &finished.evidence.handlers).await?;
    let (latest, task) = late.last().copied().context("no task has started")?;
    let waits: Vec<Duration> = late.iter().map(|(late, _)| *late).collect();
    finished.notes.push(format!(
        "due tasks started within {:.2} s (half of them within {} ms)",
        latest.as_secs_f64(),
        probes::at_share(&waits, 0.5).as_millis()
    ));
    let above = waits.iter().filter(|late| **late > STARTED).count();
    finished.expect(above == 0, "I8", || {
        format!("{above} due tasks started later than {STARTED:?}, task {task} after {latest:?}")
    });
    Ok(finished.finding())
}

/// Breaks Redis in this way, and mends it.
async fn break_redis(
    redis: &RedisServer,
    to_workers: &Proxy,
    fault: Fault,
    random: &mut StdRng,
) -> Result<()> {
    let port = redis.port();
    let moment = Duration::from_millis(random.random_range(100..900));
    match fault {
        Fault::Flush => drop(probes::redis(port, "FLUSHALL").await?),
        Fault::Kill => {
            redis.stop()?;
            sleep(moment).await;
            redis.resume()?;
        }
        Fault::StaleDump => {
            probes::redis(port, "SAVE").await?;
            sleep(moment).await;
            redis.stop()?;
            // It finds the dump in its directory.
            redis.resume()?;
            let directory = probes::redis_setting(port, "dir").await?;
            std::fs::remove_file(PathBuf::from(directory).join("dump.rdb")).context("the stale dump")?;
        }
        Fault::OutOfMemory => {
            probes::redis(port, "CONFIG SET maxmemory-policy noeviction").await?;
            probes::redis(port, "CONFIG SET maxmemory 1").await?;
            sleep(2 * moment).await;
            probes::redis(port, "CONFIG SET maxmemory 0").await?;
        }
        Fault::AnswersLost => {
            to_workers.cut_answers(3, 20);
            sleep(moment).await;
            to_workers.cut_answers(0, 0);
        }
        Fault::CutMidway => {
            to_workers.set(Mode::CutAfter(random.random_range(1..2_000)));
            sleep(moment).await;
            to_workers.set(Mode::Pass);
        }
    }
    Ok(())
}

/// Tasks that come in at a steady rate; one in three is due a moment after it was submitted.
struct Load {
    enough: Arc<tokio::sync::Notify>,
    task: JoinHandle<Result<u64>>,
}

impl Load {
    fn start(client: Client, seed: u64, a_second: u32) -> Self {
        let enough = Arc::new(tokio::sync::Notify::new());
        let stop = Arc::clone(&enough);
        let task = tokio::spawn(async move {
            let started = Instant::now();
            let stopped = stop.notified();
            stream::iter(0_u64..)
                .take_until(stopped)
                .map(|number| {
                    let client = client.clone();
                    async move {
                        let due = started + Duration::from_secs(number as u32 as u64) / a_second;
                        sleep_until(due).await;
                        let mut random = StdRng::seed_from_u64(seed ^ number);
                        let delay_ms = if number % 3 == 0 { random.random_range(300..1_500) } else { 0 };
                        let key = format!("{seed}-{number}");
                        let body = json!({
                            "type": types::WORK,
                            "input": { "sleep_ms": random.random_range(0..100) },
                            "delay_seconds": f64::from(delay_ms) / 1_000.0,
                            "metadata": { "delay_ms": delay_ms },
                        });
                        client.submit_body(&key, body).await?;
                        anyhow::Ok(1)
                    }
                })
                .buffer_unordered(16)
                .try_fold(0, |sum, one| async move { Ok(sum + one) })
                .await
        });
        Self { enough, task }
    }

    /// How many it was.
    async fn stop(self) -> Result<u64> {
        self.enough.notify_one();
        self.task.await.context("the load")?
    }
}

/// A large backlog, Redis flushed: how long until Redis holds again all of it that has a place there.
pub async fn rebuild(scale: &Scale) -> Result<Finding> {
    let (queues, each) = (scale.of(2_usize, 10), scale.of(2_500_usize, 10_000));
    let mut rig = Rig::start_private(scale, Base::PostgresAndRedis).await?;
    let redis = rig.redis.take().context("the run has its own Redis")?;
    let url = setting(&rig, "DATABASE_URL")?;
    let prefix = setting(&rig, "REDIS_PREFIX")?;
    submit_many(&url, queues, each).await?;
    let _api = rig.front(0).await;
    // It works off little of the backlog meanwhile.
    rig.set("WORKER_CONCURRENCY", "20");
    let mut slow = rig.worker(&[]).await;
    let mut connection = PgConnection::connect(&url).await?;
    let limit = 2 * REBUILT;
    let filled = until_whole(&redis, &prefix, queues, &mut connection, limit).await?;
    probes::redis(redis.port(), "FLUSHALL").await?;
    let rebuilt = until_whole(&redis, &prefix, queues, &mut connection, limit).await?;
    slow.kill();
    let _fast = rig.worker(&[("WORKER_CONCURRENCY", "1000")]).await;

    let waiting = queues * each;
    let done = format!("Redis flushed under {waiting} waiting tasks");
    let mut finished = common::finish(&rig, &done, Duration::from_secs(scale.of(60, 240))).await?;
    let told =
        |took: Option<Duration>| took.map_or("never".into(), |took| format!("{:.1} s", took.as_secs_f64()));
    finished.notes.push(format!("filled at first in {}, rebuilt in {}", told(filled), told(rebuilt)));
    for (what, took) in [("filled", filled), ("rebuilt", rebuilt)] {
        let in_time = took.is_some_and(|took| took <= REBUILT);
        finished
            .expect(in_time, "I8", || format!("the order of {waiting} tasks was {what} in {}", told(took)));
    }
    Ok(finished.finding())
}

async fn submit_many(url: &str, queues: usize, each: usize) -> Result<()> {
    let store = PostgresStore::connect(url, &PostgresOptions::default()).await?;
    for queue in 0..queues {
        let queue = QueueName::new(format!("backlog-{queue}"))?;
        for _ in 0..each / 500 {
            let task = probes::task(types::WORK, queue.clone(), &json!({ "sleep_ms": 20 }))?;
            store.submit(&vec![task; 500]).await?;
        }
    }
    Ok(())
}

/// How long until every waiting task has its place in Redis, apart from those on their way; none when it takes too long.
async fn until_whole(
    redis: &RedisServer,
    prefix: &str,
    queues: usize,
    connection: &mut PgConnection,
    limit: Duration,
) -> Result<Option<Duration>> {
    let started = Instant::now();
    while started.elapsed() < limit {
        let mut held = 0;
        for queue in 0..queues {
            let count =
                probes::redis(redis.port(), &format!("ZCARD {{{prefix}}}:v1:window:backlog-{queue}")).await?;
            held += count.parse::<i64>().with_context(|| format!("ZCARD answered {count:?}"))?;
        }
        let waiting =
            probes::number(connection, "SELECT count(*) FROM live WHERE ready AND worker IS NULL").await?;
        if waiting == 0 {
            bail!("the backlog was worked off before the order was whole");
        }
        // A claim's worth may be between the two.
        if held >= waiting - 100 {
            return Ok(Some(started.elapsed()));
        }
        sleep(Duration::from_millis(50)).await;
    }
    Ok(None)
}
