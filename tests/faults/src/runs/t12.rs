//! T12: schedules on five processes that are killed and started again, and through the days on which daylight saving
//! changes: each tick is fired once, or declared skipped.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use application::{
    in_process::InProcessSignals,
    ports::{Chance, ScheduleStore as _, Store},
    registry::Registry,
    upkeep::{Upkeep, UpkeepConfig},
    worker::WorkerPorts,
};
use contract_tests::servers::PostgresServer;
use domain::{
    Json, Limits, Priority, QueueName, Route, Routes, TaskType, Tenant, Timestamp,
    schedule::{Cadence, CatchUp, NewSchedule, Overlap, ScheduleName, Template},
};
use e2e_tests::Api;
use futures_util::future::try_join_all;
use postgres_adapter::{PostgresOptions, PostgresStore, TestClock};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use reqwest::Method;
use serde_json::json;
use sqlx::{Connection as _, PgConnection};

use super::common;
use crate::{
    rig::{Base, Rig},
    scale::{Finding, Scale},
    transitions::Database,
    types,
};

/// So many processes look after the schedules.
const SCHEDULERS: usize = 5;

/// Kills, then the clock.
pub async fn run(scale: &Scale) -> Result<Finding> {
    let kills = kills(scale).await?;
    if scale.mutant.is_some() {
        return Ok(kills);
    }
    Ok(kills.and(daylight_saving().await?))
}

/// Schedules with a tick a second while the processes that fire them are killed, one after the other.
pub async fn kills(scale: &Scale) -> Result<Finding> {
    let (schedules, ticks) = (scale.of(10_usize, 100), scale.of(80_usize, 10_000));
    let mut random = StdRng::seed_from_u64(scale.seed);
    let mut rig = Rig::start(scale, Base::PostgresAndRedis).await?;
    while rig.ports.len() < SCHEDULERS {
        rig.ports.push(e2e_tests::product::free_port());
    }
    let mut fronts = Vec::new();
    for number in 0..SCHEDULERS {
        fronts.push(rig.front(number).await);
    }
    let _worker = rig.worker(&[]).await;
    let api = Api::new(rig.ports[0]);
    for number in 0..schedules {
        let overlap = Overlap::ALL[number % Overlap::ALL.len()].as_str();
        // Every third one's tasks run into the next tick.
        let sleep_ms = if number % 3 == 0 { 1_400 } else { 5 };
        let body = json!({
            "every_seconds": 1, "overlap": overlap, "catch_up": "all",
            "task": { "type": types::WORK, "input": { "sleep_ms": sleep_ms } },
        });
        let made = api.send(Method::PUT, &format!("/schedules/s{number}"), Some(&body)).await;
        ensure!(made.status == 201, "PUT /schedules/s{number}: {} {}", made.status, made.body);
    }
    let Database::Postgres(url) = &rig.database else { bail!("this run is about PostgreSQL") };
    let mut connection = PgConnection::connect(url).await?;
    let mut killed = 0;
    while fired(&mut connection).await? < i64::try_from(ticks)? {
        let number = random.random_range(0..SCHEDULERS);
        fronts[number].kill();
        fronts[number] = rig.front(number).await;
        killed += 1;
        tokio::time::sleep(Duration::from_millis(random.random_range(0..500))).await;
    }
    let api = Api::new(rig.ports[0]);
    for number in 0..schedules {
        api.send(Method::POST, &format!("/schedules/s{number}/pause"), None).await;
    }
    let done =
        format!("{schedules} schedules with a tick a second on {SCHEDULERS} processes, {killed} kill -9");
    let mut finished = common::finish(&rig, &done, scale.patience()).await?;
    let (note, broken) = judge(&mut connection).await?;
    finished.notes.push(note);
    for text in broken {
        finished.expect(false, "I6", || text);
    }
    Ok(finished.finding())
}

async fn fired(connection: &mut PgConnection) -> Result<i64> {
    let sql =
        "SELECT count(*) + coalesce(sum(ticks) FILTER (WHERE task IS NULL), 0) - count(ticks) FROM firing";
    Ok(sqlx::query_scalar(sql).fetch_one(connection).await?)
}

/// What the records of all schedules say: no gap between the first tick and the last, no tick with two tasks, and no task
/// without its tick.
async fn judge(connection: &mut PgConnection) -> Result<(String, Vec<String>)> {
    let mut broken = Vec::new();
    let twice: Vec<(String, String, i64)> = sqlx::query_as(
        "SELECT metadata::jsonb ->> 'schedule', metadata::jsonb ->> 'scheduled_for', count(*) FROM task
         WHERE metadata::jsonb ? 'scheduled_for' GROUP BY 1, 2 HAVING count(*) > 1",
    )
    .fetch_all(&mut *connection)
    .await?;
    broken.extend(twice.iter().map(|(name, tick, count)| format!("{name} has {count} tasks for {tick}")));
    let strays: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM task WHERE metadata::jsonb ? 'scheduled_for'
         AND NOT EXISTS (SELECT FROM firing WHERE firing.task = task.id)",
    )
    .fetch_one(&mut *connection)
    .await?;
    if strays > 0 {
        broken.push(format!("{strays} tasks of schedules belong to no tick"));
    }
    // Where a record ends, the next begins one interval later.
    let gaps: Vec<(String, Timestamp, Timestamp)> = sqlx::query_as(
        "SELECT name, ends, next FROM (
            SELECT s.name, s.every_ms, coalesce(f.until, f.tick) AS ends,
                lead(f.tick) OVER (PARTITION BY f.schedule ORDER BY f.tick) AS next
            FROM firing f JOIN schedule s ON s.id = f.schedule) runs
         WHERE next <> ends + every_ms * interval '1 millisecond'",
    )
    .fetch_all(&mut *connection)
    .await?;
    broken.extend(gaps.iter().map(|(name, ends, next)| format!("{name}: {next} follows {ends}")));
    let (fired, skipped, late): (i64, i64, f64) = sqlx::query_as(
        "SELECT count(task), coalesce(sum(ticks), 0)::bigint,
            coalesce(max(extract(epoch FROM at - tick)) FILTER (WHERE task IS NOT NULL), 0)::float8 FROM firing",
    )
    .fetch_one(connection)
    .await?;
    Ok((
        format!("{fired} ticks fired and {skipped} declared skipped, {late:.1} s late at the latest"),
        broken,
    ))
}

/// Processes that look at the same moment, half hour by half hour, from a day before daylight saving changes to a day
/// after.
pub async fn daylight_saving() -> Result<Finding> {
    let days = ["2026-03-28T00:00:00Z", "2026-10-24T00:00:00Z"];
    let cadences = ["30 2 * * *", "*/15 * * * *", "0 0 * * *", "15,45 1-3 * * *"];
    let mut broken = Vec::new();
    let mut count = 0;
    for day in days {
        let start: Timestamp = day.parse().context("a moment")?;
        let url = PostgresServer::shared().create_database().await;
        let clock = TestClock::new(start);
        let mut members = Vec::new();
        for _ in 0..SCHEDULERS {
            let options = PostgresOptions { max_connections: 2, ..PostgresOptions::default() };
            let store = PostgresStore::connect_with_clock(&url, &options, clock.clone()).await?;
            members.push(member(Arc::new(store))?);
        }
        let mut expected = BTreeSet::new();
        for (number, cron) in cadences.iter().enumerate() {
            let cadence = Cadence::cron(cron, "Europe/Berlin")?;
            let end = start + chrono_days(3);
            let ticks = std::iter::successors(cadence.next_after(start), |tick| cadence.next_after(*tick));
            expected.extend(ticks.take_while(|tick| *tick <= end).map(|tick| (format!("s{number}"), tick)));
            let (store, _) = &members[0];
            store.put_schedule(&schedule(number, cadence.clone())?, cadence.next_after(start)).await?;
        }
        // Half an hour at a time, so late ticks are caught up; all members look at once.
        for _ in 0..3 * 48 {
            clock.advance(Duration::from_secs(1_800));
            try_join_all(members.iter_mut().map(|(_, upkeep)| upkeep.round())).await?;
        }
        let mut connection = PgConnection::connect(&url).await?;
        let found: Vec<(String, Timestamp)> = sqlx::query_as(
            "SELECT metadata::jsonb ->> 'schedule', (metadata::jsonb ->> 'scheduled_for')::timestamptz FROM task",
        )
        .fetch_all(&mut connection)
        .await?;
        count += found.len();
        let distinct: BTreeSet<_> = found.iter().cloned().collect();
        if distinct.len() < found.len() {
            broken.push(format!("I6: {} ticks of {day} have a second task", found.len() - distinct.len()));
        }
        let missing: Vec<_> = expected.difference(&distinct).take(3).collect();
        let strange: Vec<_> = distinct.difference(&expected).take(3).collect();
        if !missing.is_empty() || !strange.is_empty() {
            broken.push(format!("I6: around {day}, {missing:?} are missing and {strange:?} are too many"));
        }
    }
    let done = format!(
        "{} cron schedules of Berlin on {SCHEDULERS} processes through both changes of daylight saving",
        cadences.len()
    );
    let found = format!("{count} ticks, each fired once; {} violations", broken.len());
    Ok(Finding { done, found, violations: broken })
}

fn chrono_days(days: u64) -> Duration {
    Duration::from_secs(days * 24 * 3600)
}

fn schedule(number: usize, cadence: Cadence) -> Result<NewSchedule> {
    let template = Template {
        task_type: TaskType::new(types::WORK)?,
        queue: QueueName::default_queue(),
        priority: Priority::default(),
        input: Json::parse("{}").map_err(|error| anyhow::anyhow!("{error}"))?,
        metadata: None,
        limits: Limits::default(),
        own: Default::default(),
    };
    Ok(NewSchedule {
        tenant: Tenant::default(),
        name: ScheduleName::new(format!("s{number}"))?,
        cadence,
        catch_up: CatchUp::All,
        overlap: Overlap::Allow,
        template,
        jitter: Duration::ZERO,
        paused: false,
        configured: false,
    })
}

/// A process of one's own: a store and an upkeep.
fn member(store: Arc<PostgresStore>) -> Result<(Arc<PostgresStore>, Upkeep)> {
    let ports = WorkerPorts {
        store: Arc::clone(&store) as Arc<dyn Store>,
        order: None,
        signals: Arc::new(InProcessSignals::one_of_many()),
        registry: Arc::new(Registry::new([])?),
        routes: Arc::new(Routes::new(Vec::<Route>::new(), QueueName::default_queue())),
        chance: Arc::new(Half),
    };
    Ok((store, Upkeep::new(ports, UpkeepConfig::default())))
}

/// No chance is needed here.
struct Half;

impl Chance for Half {
    fn next(&self) -> f64 {
        0.5
    }
}
