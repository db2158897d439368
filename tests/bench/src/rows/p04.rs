//! P4: how long a submission takes, and a bare INSERT of one row beside it: the same number of connections, the same
//! generator, the same server. No worker runs; P1 has the figures with one.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{Bench, column, p01::WARM_UP, repeat};
use crate::{
    load, plain,
    report::{self, Goal, Line, counted},
    rig::{self, NOOP_BODY, Order},
    stats,
};

/// One repetition of one of the two.
#[derive(Debug)]
struct Latency {
    /// In ms.
    p50: f64,
    /// In ms.
    p99: f64,
    /// Per second.
    rate: f64,
}

/// One repetition.
#[derive(Debug)]
struct Both {
    submit: Latency,
    insert: Latency,
}

impl Latency {
    fn new(mut latencies: Vec<Duration>, took: Duration) -> Result<Self> {
        let mut at = |share| stats::percentile(&mut latencies, share).context("nothing was sent");
        let (p50, p99) = (stats::ms(at(0.5)?), stats::ms(at(0.99)?));
        Ok(Self { p50, p99, rate: stats::rate(latencies.len(), took) })
    }
}

pub(super) async fn measure(bench: &Bench) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    let settings = [
        (1, bench.scale.of(200, 3_000), "p4_1_p99"),
        (32, bench.scale.of(1_000, 20_000), "p4_32_p99"),
        (256, bench.scale.of(1_000, 30_000), "p4_256_p99"),
    ];
    for (connections, count, id) in settings {
        let all = repeat(bench, async || once(bench, count, connections).await).await?;
        let name = format!("{} submissions over {}", counted(count), report::connections(connections));
        let line = |what: &str, unit, value: fn(&Latency) -> f64| {
            let submit = column(&all, |both| value(&both.submit));
            let insert = column(&all, |both| value(&both.insert));
            Line::new("P4", format!("{name}, {what}"), unit, submit).against("bare INSERT", &insert)
        };
        lines.extend([
            line("p50", "ms", |one| one.p50).goal(Goal::TimesAtMost(1.5)),
            line("p99", "ms", |one| one.p99).goal(Goal::TimesAtMost(1.5)).id(id),
            line("rate", "per s", |one| one.rate),
        ]);
    }
    Ok(lines)
}

async fn once(bench: &Bench, count: usize, connections: usize) -> Result<Both> {
    let database = bench.rig.database().await?;
    let api = bench.rig.api(&database, Order::Redis).await?;
    let request = load::submission(NOOP_BODY);
    load::submit(api.server, &request, WARM_UP, connections).await?;
    let submitted = load::submit(api.server, &request, count, connections).await?;
    rig::stop(api.program).await;

    let database = bench.rig.database().await?;
    plain::inserts(&database.url, WARM_UP, connections).await?;
    let inserts = plain::inserts(&database.url, count, connections).await?;
    Ok(Both {
        submit: Latency::new(submitted.latencies, submitted.took)?,
        insert: Latency::new(inserts.latencies, inserts.took)?,
    })
}
