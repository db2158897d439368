//! T4: `kill -9` of PostgreSQL again and again, and connections cut between a commit and its answer, while tasks come in
//! and run. A change that was committed and whose answer was lost is neither lost nor done twice, and work goes on
//! within 10 s after the server is back.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{
    common::{self, Pace},
    probes,
};
use crate::{
    proxy::{Proxy, Wire},
    rig::{Base, Rig},
    scale::{Finding, Scale},
    types,
};

/// How soon work goes on after the server is back.
const BACK: Duration = Duration::from_secs(10);

/// Kills and cuts together.
pub async fn run(scale: &Scale) -> Result<Finding> {
    let (kills, cuts, tasks) = (scale.of(3, 50), scale.of(60, 2_000), scale.of(1_500, 40_000));
    let pause = Duration::from_millis(scale.of(500, 2_500));
    let mut random = StdRng::seed_from_u64(scale.seed);
    let mut rig = Rig::start_private(scale, Base::PostgresAndRedis).await?;
    let server = rig.postgres.take().context("the run has its own PostgreSQL")?;
    let url = setting(&rig, "DATABASE_URL")?;
    let (to_api, api_url) = Proxy::before(&url, Wire::Postgres, scale.seed).await?;
    let (to_workers, worker_url) = Proxy::before(&url, Wire::Postgres, scale.seed + 1).await?;
    rig.set("WORKER_CONCURRENCY", "50");
    rig.set("DATABASE_URL", &api_url);
    let _api = rig.front(0).await;
    let _workers = [
        rig.worker(&[("DATABASE_URL", &worker_url)]).await,
        rig.worker(&[("DATABASE_URL", &worker_url)]).await,
    ];
    // The clients' answers are cut as well: a submission that was stored, and whose 201 is lost.
    let to_clients = Proxy::start(rig.ports[0], Wire::Talk, scale.seed + 2).await?;
    rig.ports[0] = to_clients.port();
    let client = rig.client()?;

    let over = (pause + Duration::from_millis(1_500)) * kills;
    let load = common::submit(rig.client()?, scale.seed, Pace { tasks, over }, |random| {
        (types::WORK, json!({ "sleep_ms": random.random_range(0..150) }))
    });
    for proxy in [&to_api, &to_workers] {
        proxy.cut_answers(scale.of(8, 12), cuts / 2);
    }
    to_clients.cut_answers(20, cuts / 2);
    let (mut slowest, mut violations) = (Duration::ZERO, Vec::new());
    for kill in 0..kills {
        sleep(pause.mul_f64(random.random_range(0.5..1.5))).await;
        server.kill()?;
        sleep(Duration::from_millis(random.random_range(0..700))).await;
        server.resume()?;
        let key = format!("{}-after-kill-{kill}", scale.seed);
        match probes::until_a_task_ends(&url, &client, &key, 3 * BACK).await {
            Ok(took) => slowest = slowest.max(took),
            Err(error) => violations.push(("I8", format!("after kill {kill}: {error:#}"))),
        }
    }
    if slowest > BACK {
        violations.push(("I8", format!("work went on only {slowest:?} after PostgreSQL was back")));
    }
    load.end().await?;
    let count = || to_api.counts().answers_cut + to_workers.counts().answers_cut;
    more_until_cut(scale, &rig, || count() >= cuts).await?;
    for proxy in [&to_api, &to_workers, &to_clients] {
        proxy.cut_answers(0, 0);
    }
    let done = format!(
        "{kills} kill -9 of PostgreSQL, {} answers cut at COMMIT ({} of the API's, {} of the workers') and {} of the API's \
         to its clients in {tasks} tasks",
        count(),
        to_api.counts().answers_cut,
        to_workers.counts().answers_cut,
        to_clients.counts().answers_cut,
    );
    let mut finished = common::finish(&rig, &done, scale.patience()).await?;
    probes::add(&mut finished, format!("back within {:.1} s", slowest.as_secs_f64()), violations);
    Ok(finished.finding())
}

/// The cuts that the load did not last for.
async fn more_until_cut(scale: &Scale, rig: &Rig, enough: impl Fn() -> bool) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(scale.of(20, 120));
    let mut round = 0;
    while !enough() {
        if Instant::now() > deadline {
            bail!("the proxies had too few commits to cut");
        }
        round += 1;
        let pace = Pace { tasks: 200, over: Duration::from_millis(500) };
        common::submit(rig.client()?, scale.seed ^ (round << 32), pace, |_| (types::WORK, json!({})))
            .end()
            .await?;
    }
    Ok(())
}

/// What the rig has set.
pub(super) fn setting(rig: &Rig, key: &str) -> Result<String> {
    let found = rig.settings.iter().find(|(known, _)| known == key);
    found.map(|(_, value)| value.clone()).with_context(|| format!("the rig has set no {key}"))
}
