//! P6: tasks of 5 s each wait, and a worker with a slot for every one of them is started: all are in flight at once.
//! Handlers say themselves when they began and ended. `demo.sleep` is measured beside them, because it also reports
//! progress: its handlers' ends are not known, only that all are settled.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::{Instant, sleep};

use super::{Bench, column, megabytes, repeat};
use crate::{
    process,
    report::{Goal, Line, counted},
    rig::{self, Order},
    types,
};

/// How often the tasks in flight are counted.
const LOOK: Duration = Duration::from_millis(200);

/// One repetition.
#[derive(Debug)]
struct InFlight {
    /// How many were seen in flight at once.
    most: f64,
    /// First handler start → last handler end, in s. Not a number where handlers do not tell.
    handlers: f64,
    /// First handler start → no unfinished row, in s.
    settled: f64,
    /// Of the worker while all are in flight, in MB.
    memory: f64,
    /// Of the worker at most, in MB.
    peak: f64,
}

pub(super) async fn measure(bench: &Bench) -> Result<Vec<Line>> {
    let length = Duration::from_secs(bench.scale.of(2, 5));
    let mut lines = Vec::new();
    for count in bench.scale.of(&[1_000][..], &[10_000, 20_000, 50_000]) {
        let (ms, what) = (length.as_millis(), format!("{} in flight for {length:?}", counted(*count)));
        let input = format!(r#"{{"sleep_ms":{ms}}}"#);
        let all = repeat(bench, async || once(bench, types::STAMP, &input, *count).await).await?;
        let first = *count == 10_000;
        let line = |name: &str, unit, value: fn(&InFlight) -> f64, goal: f64| {
            let line = Line::new("P6", format!("{what}, {name}"), unit, column(&all, value));
            // Beyond 10,000: linear.
            let times = *count as f64 / 10_000.0;
            match (first, unit) {
                (true, _) => line.goal(Goal::AtMost(goal)),
                (false, "MB") if times > 1.0 => line.goal(Goal::AtMost(goal * times)),
                _ => line,
            }
        };
        let memory = line("worker memory at most", "MB", |one| one.peak, 22.0);
        let setting = format!("{what}, at once");
        lines.push(Line::new("P6", setting, "tasks", column(&all, |one| one.most)));
        lines.extend([
            line("first start → last end", "s", |one| one.handlers, 5.05),
            line("first start → all settled", "s", |one| one.settled, 5.3),
            line("worker memory meanwhile", "MB", |one| one.memory, 22.0),
            if first { memory.id("p6_memory") } else { memory },
        ]);
    }
    let count = bench.scale.of(1_000, 10_000);
    let input = format!(r#"{{"seconds":{}}}"#, length.as_secs());
    let all = repeat(bench, async || once(bench, "demo.sleep", &input, count).await).await?;
    let line = |name: &str, unit, value: fn(&InFlight) -> f64| {
        let setting = format!("{} demo.sleep of {length:?} with progress, {name}", counted(count));
        Line::new("P6", setting, unit, column(&all, value))
    };
    lines.extend([
        line("first start → all settled", "s", |one| one.settled),
        line("worker memory at most", "MB", |one| one.peak),
    ]);
    Ok(lines)
}

async fn once(bench: &Bench, task_type: &str, input: &str, count: usize) -> Result<InFlight> {
    let database = bench.rig.database().await?;
    let task = rig::task(task_type, input)?;
    let last = database.fill(&task, count).await?;
    let mut connection = database.connect().await?;
    // A worker of one queue: one that serves several keeps some slots free for the others.
    let concurrency = count.to_string();
    let settings = [("WORKER_CONCURRENCY", &*concurrency), ("WORKER_QUEUES", task.queue.as_str())];
    let worker = bench.rig.measuring_worker(&database, Order::Redis, &settings).await?;
    let (mut most, mut memory) = (0, 0);
    let (wanted, began) = (i64::try_from(count)?, Instant::now());
    while most < wanted {
        let (held, ended): (i64, bool) = sqlx::query_as(
            "SELECT (SELECT count(*) FROM live WHERE worker IS NOT NULL), EXISTS (SELECT FROM outcome)",
        )
        .fetch_one(&mut connection)
        .await?;
        if held > most {
            (most, memory) = (held, process::memory(worker.program.id())?.now);
        }
        if ended {
            // The first end before the last begin: not all fit in.
            break;
        }
        rig::in_time(began, "no task has started and ended")?;
        sleep(LOOK).await;
    }
    let end = database.drained(&mut connection, last).await?;
    let peak = process::memory(worker.program.id())?.peak;
    rig::stop(worker.program).await;
    database.all_completed(count).await?;

    let (claimed, first, ended): (i64, Option<i64>, Option<i64>) = sqlx::query_as(
        "SELECT (extract(epoch FROM min(started_at)) * 1000000)::bigint,
            min((result::json ->> 'began')::bigint), max((result::json ->> 'ended')::bigint) FROM outcome",
    )
    .fetch_one(&mut connection)
    .await
    .context("the outcomes cannot be read")?;
    let seconds = |from: i64, to: i64| (to - from) as f64 / 1e6;
    Ok(InFlight {
        most: most as f64,
        handlers: first.zip(ended).map_or(f64::NAN, |(first, ended)| seconds(first, ended)),
        settled: seconds(first.unwrap_or(claimed), end),
        memory: megabytes(memory),
        peak: megabytes(peak),
    })
}
