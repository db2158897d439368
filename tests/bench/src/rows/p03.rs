//! P3: the drain of P2 against plain SQL: the same rows claimed and settled in batches of 500, with no worker and no
//! decisions, over 1, 2 and 4 connections, in the same repetition. The best of the three counts.

use anyhow::Result;

use super::{Bench, column, p02, repeat};
use crate::{
    plain,
    report::{self, Goal, Line, counted},
    rig::{self, NOOP, Order},
    stats,
};

const CONNECTIONS: [usize; 3] = [1, 2, 4];

/// One repetition.
#[derive(Debug)]
struct Limit {
    /// Of the worker, in tasks per second.
    drain: f64,
    /// Of plain SQL over 1, 2 and 4 connections, in rows per second.
    plain: [f64; CONNECTIONS.len()],
}

pub(super) async fn measure(bench: &Bench) -> Result<Vec<Line>> {
    let count = p02::count(bench);
    let all = repeat(bench, async || once(bench, count).await).await?;
    let mut lines = Vec::new();
    let mut best: Vec<f64> = Vec::new();
    for (place, connections) in CONNECTIONS.into_iter().enumerate() {
        let rates = column(&all, |one| one.plain[place]);
        if stats::median(&rates) > stats::median(&best) {
            best.clone_from(&rates);
        }
        let setting = format!(
            "plain SQL, {} rows over {}, by {}",
            counted(count),
            report::connections(connections),
            plain::BATCH
        );
        lines.push(Line::new("P3", setting, "rows/s", rates));
    }
    let setting = format!("{} waiting, {}, drain", counted(count), Order::Redis.text());
    let drain = Line::new("P3", setting, "tasks/s", column(&all, |one| one.drain));
    lines.push(drain.against("best plain SQL", &best).goal(Goal::TimesAtLeast(0.7)));
    Ok(lines)
}

async fn once(bench: &Bench, count: usize) -> Result<Limit> {
    let drain = p02::once(bench, Order::Redis, count).await?.rate;
    let mut rates = [0.0; CONNECTIONS.len()];
    for (rate, connections) in rates.iter_mut().zip(CONNECTIONS) {
        let database = bench.rig.database().await?;
        database.fill(&rig::task(NOOP, "null")?, count).await?;
        *rate = stats::rate(count, plain::drain(&database.url, connections).await?);
        database.all_completed(count).await?;
    }
    Ok(Limit { drain, plain: rates })
}
