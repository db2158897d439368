//! P5: on an idle system, from when a submission is sent to its handler's first instruction. Generator and handler read
//! the same clock of the same machine. `started_at`, which the claim's transaction took, has to lie between: where it
//! does not, a clock was set meanwhile and the figures would be worth nothing.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use sqlx::PgConnection;
use tokio::time::{Instant, sleep};

use super::{Bench, column, repeat};
use crate::{
    PATIENCE,
    load::{self, Connection},
    report::{Goal, Line},
    rig::{self, Order},
    stats,
    types::{self, Stamp},
};

/// Tasks before the measured ones.
const WARM_UP: usize = 5;
/// Nothing happens for so long before each submission.
const IDLE: Duration = Duration::from_millis(20);
/// Nobody looks at the task for so long, so that looking does not disturb it.
const UNSEEN: Duration = Duration::from_millis(10);

/// One repetition, in ms.
#[derive(Debug)]
struct PickUp {
    started_p50: f64,
    started_p99: f64,
    claimed_p50: f64,
    claimed_p99: f64,
    answered_p50: f64,
}

pub(super) async fn measure(bench: &Bench) -> Result<Vec<Line>> {
    let count = bench.scale.of(20, 200);
    let all = repeat(bench, async || once(bench, count).await).await?;
    let line = |what: &str, value: fn(&PickUp) -> f64| {
        Line::new("P5", format!("{count} submissions one by one, {what}"), "ms", column(&all, value))
    };
    Ok(vec![
        line("sent → handler starts, p50", |one| one.started_p50).goal(Goal::AtMost(1.5)).id("p5_p50"),
        line("sent → handler starts, p99", |one| one.started_p99).goal(Goal::AtMost(4.0)).id("p5_p99"),
        line("sent → claimed (started_at), p50", |one| one.claimed_p50),
        line("sent → claimed (started_at), p99", |one| one.claimed_p99),
        line("sent → answered, p50", |one| one.answered_p50),
    ])
}

async fn once(bench: &Bench, count: usize) -> Result<PickUp> {
    let database = bench.rig.database().await?;
    let api = bench.rig.measuring_api(&database, Order::Redis, &[]).await?;
    let worker = bench.rig.measuring_worker(&database, Order::Redis, &[]).await?;
    let mut connection = database.connect().await?;
    let mut client = Connection::open(api.server).await?;
    let request = load::submission(&format!(r#"{{"type":"{}","input":{{}}}}"#, types::STAMP));
    let (mut started, mut claimed, mut answered) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..WARM_UP + count {
        sleep(IDLE).await;
        let (sent, clock) = (types::wall(), Instant::now());
        let (status, body) = client.ask(&request).await?;
        let answer = clock.elapsed();
        let Some(task) = load::task_id(body).filter(|_| status == 201) else {
            bail!("a submission was answered {status} {}", String::from_utf8_lossy(body));
        };
        sleep(UNSEEN).await;
        let (at, stamp) = outcome(&mut connection, task).await?;
        in_order(sent, at, stamp.began)?;
        if number >= WARM_UP {
            started.push(Duration::from_micros(u64::try_from(stamp.began - sent)?));
            claimed.push(Duration::from_micros(u64::try_from(at - sent)?));
            answered.push(answer);
        }
    }
    rig::stop(worker.program).await;
    rig::stop(api.program).await;
    let at = |values: &mut [Duration], share| {
        stats::percentile(values, share).map(stats::ms).context("nothing was sent")
    };
    Ok(PickUp {
        started_p50: at(&mut started, 0.5)?,
        started_p99: at(&mut started, 0.99)?,
        claimed_p50: at(&mut claimed, 0.5)?,
        claimed_p99: at(&mut claimed, 0.99)?,
        answered_p50: at(&mut answered, 0.5)?,
    })
}

/// When a task was claimed, and what its handler said, once it has ended.
async fn outcome(connection: &mut PgConnection, task: i64) -> Result<(i64, Stamp)> {
    let began = Instant::now();
    loop {
        let row: Option<(i64, String)> = sqlx::query_as(
            "SELECT (extract(epoch FROM started_at) * 1000000)::bigint, coalesce(result, error)
             FROM outcome WHERE task = $1",
        )
        .bind(task)
        .fetch_optional(&mut *connection)
        .await?;
        if let Some((at, result)) = row {
            let stamp = serde_json::from_str(&result).with_context(|| format!("task {task}: {result}"))?;
            return Ok((at, stamp));
        }
        if began.elapsed() > PATIENCE {
            bail!("task {task} has not ended within {PATIENCE:?}");
        }
        sleep(Duration::from_millis(2)).await;
    }
}

/// Refuses moments that cannot be: sent, then claimed, then begun.
fn in_order(sent: i64, claimed: i64, began: i64) -> Result<()> {
    if sent > claimed || claimed > began {
        bail!(
            "a clock was set meanwhile: the task was sent at {sent} µs, claimed {} µs and begun {} µs later",
            claimed - sent,
            began - sent
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_that_cannot_be_are_noticed() {
        in_order(100, 150, 200).unwrap();
        for (claimed, began) in [(99, 200), (150, 149)] {
            let error = in_order(100, claimed, began).unwrap_err().to_string();
            assert!(error.contains("clock"), "{error}");
        }
    }
}
