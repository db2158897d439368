//! T9: the clock jumps by an hour and by a day, forwards and backwards, under several workers and several upkeeps. No
//! live lease is reaped, no attempt starts twice, and a worker that is gone is still found, whatever the clock says.
//!
//! One clock matters, the database's; no process of the product reads its own for a decision (`clippy.toml` bans it), so
//! moving theirs could change nothing. The store takes a clock in a test's hand, so the product runs in this process.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use application::{
    in_process::InProcessSignals,
    ports::{Chance, Signals, Store, TaskStore as _},
    registry::{Output, Registry, TaskTypeSpec},
    upkeep::{Upkeep, UpkeepConfig},
    worker::{Shutdown, Worker, WorkerConfig, WorkerPorts},
};
use contract_tests::servers::PostgresServer;
use domain::{LeaseTerms, NewTask, QueueName, Route, Routes, TaskId, Tenant, WorkerName};
use postgres_adapter::{PostgresOptions, PostgresStore, TestClock};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use sqlx::{Connection as _, PgConnection};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::probes;
use crate::{
    history,
    scale::{Finding, Scale},
};

const TYPE: &str = "faults.clocked";
const HOUR: i64 = 3_600_000_000;
const DAY: i64 = 24 * HOUR;
/// How soon the tasks of a worker that is gone run again, whatever the clock did meanwhile.
const TAKEN_OVER: Duration = Duration::from_secs(10);

/// Real time, moved by as much as the run says. All stores share it, as processes share a database.
struct Movable {
    clock: TestClock,
    offset: AtomicI64,
}

impl Movable {
    fn start() -> Arc<Self> {
        let clock = TestClock::new(moment(history::now()));
        let movable = Arc::new(Self { clock, offset: AtomicI64::new(0) });
        let ticking = Arc::downgrade(&movable);
        tokio::spawn(async move {
            while let Some(movable) = ticking.upgrade() {
                movable.tick();
                drop(movable);
                sleep(Duration::from_millis(2)).await;
            }
        });
        movable
    }

    fn tick(&self) {
        self.clock.set(moment(history::now() + self.offset.load(Ordering::SeqCst)));
    }

    fn jump(&self, by: i64) {
        self.offset.fetch_add(by, Ordering::SeqCst);
        self.tick();
    }
}

fn moment(micros: i64) -> domain::Timestamp {
    domain::Timestamp::from_timestamp_micros(micros).unwrap_or(domain::Timestamp::MAX_UTC)
}

struct Seeded(Mutex<StdRng>);

impl Chance for Seeded {
    fn next(&self) -> f64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).random()
    }
}

/// Which attempts of which tasks were started.
type Starts = Arc<Mutex<HashMap<(i64, u32), u32>>>;

/// What every process of the run has in common.
struct House {
    url: String,
    clock: Arc<Movable>,
    lease: LeaseTerms,
    starts: Starts,
    seed: u64,
}

impl House {
    async fn store(&self) -> Result<Arc<PostgresStore>> {
        let options = PostgresOptions { max_connections: 4, ..PostgresOptions::default() };
        let store = PostgresStore::connect_with_clock(&self.url, &options, self.clock.clock.clone()).await?;
        Ok(Arc::new(store))
    }

    /// A process that looks after the others' leases, and runs tasks where it has a name.
    async fn process(&self, worker: Option<&str>, number: u64) -> Result<Member> {
        let store: Arc<dyn Store> = self.store().await?;
        let signals: Arc<dyn Signals> = Arc::new(InProcessSignals::one_of_many());
        let stop = CancellationToken::new();
        let shutdown = Shutdown::default();
        let starts = Arc::clone(&self.starts);
        let spec = TaskTypeSpec::new(TYPE, "Notes its start.", move |context, sleep_ms: u64| {
            let attempt = (context.task().id.0, context.task().attempt);
            *starts.lock().unwrap_or_else(PoisonError::into_inner).entry(attempt).or_default() += 1;
            async move {
                sleep(Duration::from_millis(sleep_ms)).await;
                Output::of(&sleep_ms)
            }
        });
        let ports = WorkerPorts {
            store,
            order: None,
            signals,
            registry: Arc::new(Registry::new([spec])?),
            routes: Arc::new(Routes::new(Vec::<Route>::new(), QueueName::default_queue())),
            chance: Arc::new(Seeded(Mutex::new(StdRng::seed_from_u64(self.seed + number)))),
        };
        let upkeep = UpkeepConfig { lease: self.lease, keep_failed: None, ..UpkeepConfig::default() };
        tokio::spawn(Upkeep::new(ports.clone(), upkeep).run(stop.clone()));
        if let Some(name) = worker {
            let config = WorkerConfig {
                largest_result: application::worker::LARGEST_RESULT,
                name: WorkerName::new(name)?,
                queues: vec![QueueName::default_queue()],
                except: Vec::new(),
                order: Default::default(),
                concurrency: 20,
                lease: self.lease,
                grace: Duration::from_secs(5),
                ..WorkerConfig::default()
            };
            tokio::spawn(Worker::new(config, ports).run(shutdown.clone()));
        }
        Ok(Member { shutdown, stop })
    }
}

/// A process of the run.
struct Member {
    shutdown: Shutdown,
    stop: CancellationToken,
}

impl Member {
    /// As `kill -9` would: no word of farewell.
    fn kill(&self) {
        self.shutdown.halt.cancel();
        self.stop.cancel();
    }
}

/// Jumps under living workers, then under one that is gone.
pub async fn run(scale: &Scale) -> Result<Finding> {
    let jumps: u32 = scale.of(10, 150);
    let mut random = StdRng::seed_from_u64(scale.seed);
    let url = PostgresServer::shared().create_database().await;
    let clock = Movable::start();
    let lease = LeaseTerms::new(Duration::from_secs(1)).context("a lease of a second")?;
    let house = House {
        url: url.clone(),
        clock: Arc::clone(&clock),
        lease,
        starts: Starts::default(),
        seed: scale.seed,
    };
    let mut members = Vec::new();
    for (number, worker) in [Some("a"), Some("b"), Some("c"), None, None].into_iter().enumerate() {
        members.push(house.process(worker, number as u64).await?);
    }
    let store = house.store().await?;
    let mut connection = PgConnection::connect(&url).await?;
    until(&mut connection, "SELECT count(*) FROM worker", |count| count == 3, "workers register").await?;

    let loading = Arc::new(AtomicBool::new(true));
    let load = tokio::spawn({
        let (store, loading, seed) = (Arc::clone(&store), Arc::clone(&loading), scale.seed);
        async move {
            let mut random = StdRng::seed_from_u64(seed ^ 0x10ad);
            while loading.load(Ordering::Relaxed) {
                let tasks: Vec<_> = (0..5).map(|_| some_task(&mut random)).collect::<Result<_>>()?;
                store.submit(&tasks).await?;
                sleep(Duration::from_millis(150)).await;
            }
            anyhow::Ok(())
        }
    });
    for _ in 0..jumps {
        let by = *[HOUR, -HOUR, DAY, -DAY].choose(&mut random).context("four")?;
        clock.jump(by);
        // Often less than a heartbeat, at times more than a lease.
        sleep(Duration::from_millis(random.random_range(50..1_600))).await;
    }
    loading.store(false, Ordering::Relaxed);
    load.await.context("the load")??;
    until(&mut connection, "SELECT count(*) FROM live", |left| left == 0, "the backlog drains").await?;

    let mut violations = Vec::new();
    let dead =
        probes::number(&mut connection, "SELECT count(*) FROM worker WHERE dead_at IS NOT NULL").await?;
    let workers = probes::number(&mut connection, "SELECT count(*) FROM worker").await?;
    if dead > 0 || workers != 3 {
        violations.push(format!(
            "I3: {dead} living workers were declared dead, {workers} registrations of 3 workers"
        ));
    }
    let again = probes::number(&mut connection, "SELECT count(*) FROM outcome WHERE attempt <> 1").await?;
    let tasks = probes::number(&mut connection, "SELECT count(*) FROM outcome").await?;
    let twice = started_twice(&house.starts);
    if again > 0 || twice > 0 {
        violations.push(format!("I3: {again} tasks needed another attempt, {twice} attempts started twice"));
    }
    let mut slowest = Duration::ZERO;
    for by in [0, HOUR, -HOUR, DAY, -DAY] {
        let took = take_over(&house, &store, &mut connection, &mut members, by).await?;
        slowest = slowest.max(took.unwrap_or_default());
        if took.is_none_or(|took| took > TAKEN_OVER) {
            let hours = by / HOUR;
            let took = took.map_or("not".to_owned(), |took| format!("after {took:?}"));
            violations.push(format!(
                "I8: with the clock moved by {hours} h, a dead worker's tasks were taken over {took}"
            ));
        }
    }
    for member in &members {
        member.kill();
    }
    let done =
        format!("{jumps} jumps of the clock by ±1 h and ±1 day under 3 workers and 5 upkeeps, {tasks} tasks");
    let found = format!(
        "{dead} live leases reaped, {twice} attempts started twice; a dead worker's tasks were taken over within {:.1} s; {} violations",
        slowest.as_secs_f64(),
        violations.len()
    );
    Ok(Finding { done, found, violations })
}

/// A worker dies with tasks in its hands, and the clock jumps: how long until the others have ended them.
async fn take_over(
    house: &House,
    store: &PostgresStore,
    connection: &mut PgConnection,
    members: &mut [Member],
    by: i64,
) -> Result<Option<Duration>> {
    // Only the victim runs tasks until it is dead.
    let others: Vec<_> = members.iter().take(3).map(|member| member.shutdown.drain.clone()).collect();
    others.iter().for_each(CancellationToken::cancel);
    until(
        connection,
        "SELECT count(*) FROM worker WHERE retired_at IS NULL AND dead_at IS NULL",
        |count| count == 0,
        "the others sign off",
    )
    .await?;
    let victim = house.process(Some("victim"), 100).await?;
    let crashed = "SELECT count(*) FROM attempt WHERE outcome = 'CRASHED'";
    let before = probes::number(connection, crashed).await?;
    store.submit(&vec![task(60_000)?; 10]).await?;
    until(
        connection,
        "SELECT count(*) FROM live WHERE worker IS NOT NULL",
        |count| count == 10,
        "the victim works",
    )
    .await?;
    let held: Vec<i64> = sqlx::query_scalar("SELECT id FROM live").fetch_all(&mut *connection).await?;
    let held: Vec<TaskId> = held.into_iter().map(TaskId).collect();
    victim.kill();
    house.clock.jump(by);
    for (number, member) in members.iter_mut().take(3).enumerate() {
        member.stop.cancel();
        *member = house.process(Some("successor"), number as u64).await?;
    }
    let started = Instant::now();
    let mut took = None;
    while took.is_none() && started.elapsed() < 3 * TAKEN_OVER {
        sleep(Duration::from_millis(20)).await;
        took = (probes::number(connection, crashed).await? >= before + 10).then(|| started.elapsed());
    }
    if took.is_none() {
        sqlx::raw_sql("UPDATE worker SET dead_at = now() WHERE name = 'victim' AND dead_at IS NULL")
            .execute(&mut *connection)
            .await?;
    }
    // They need not run for their minute.
    store.cancel(&Tenant::default(), &held).await?;
    until(connection, "SELECT count(*) FROM live", |left| left == 0, "cancelled tasks end").await?;
    Ok(took)
}

fn task(sleep_ms: u64) -> Result<NewTask> {
    probes::task(TYPE, QueueName::default_queue(), &sleep_ms.into())
}

/// Most are short; some run through many jumps, by which their time limits seem to have passed long since.
fn some_task(random: &mut StdRng) -> Result<NewTask> {
    task(if random.random_bool(0.05) { 7_000 } else { random.random_range(0..1_500) })
}

fn started_twice(starts: &Starts) -> usize {
    let starts = starts.lock().unwrap_or_else(PoisonError::into_inner);
    starts.values().filter(|count| **count > 1).count()
}

async fn until(connection: &mut PgConnection, sql: &str, is: impl Fn(i64) -> bool, what: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let found = probes::number(connection, sql).await?;
        if is(found) {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("not in time: {what} ({found})");
        }
        sleep(Duration::from_millis(20)).await;
    }
}
