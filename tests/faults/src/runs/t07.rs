//! T7: black holes on each link: bytes are swallowed without a sign, and connections stay open. Afterwards either what
//! was held back goes on its way, or the connections are lost and only new ones work. Either way work goes on within
//! 15 s, and every place in the pools comes back.

use std::time::Duration;

use anyhow::Result;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::json;
use tokio::time::sleep;

use super::{
    common::{self, Pace},
    probes,
    t04::setting,
};
use crate::{
    client::Client,
    proxy::{Mode, Proxy, Wire},
    rig::{Base, Rig},
    scale::{Finding, Scale},
    types,
};

/// How soon work goes on after a link is back.
const RESUMED: Duration = Duration::from_secs(15);
/// Few places, so that one that is lost shows.
const POOL: i64 = 3;

/// Every link in turn, with both kinds of black hole.
pub async fn run(scale: &Scale) -> Result<Finding> {
    let (rounds, hold) = (scale.of(1, 3), Duration::from_millis(scale.of(1_500, 4_000)));
    let mut random = StdRng::seed_from_u64(scale.seed);
    let mut rig = Rig::start(scale, Base::PostgresAndRedis).await?;
    let (url, redis_url) = (setting(&rig, "DATABASE_URL")?, setting(&rig, "REDIS_URL")?);
    let (api_pg, api_url) =
        Proxy::before(&probes::named(&url, "faults-api"), Wire::Postgres, scale.seed).await?;
    let (worker_pg, worker_url) =
        Proxy::before(&probes::named(&url, "faults-worker"), Wire::Postgres, scale.seed).await?;
    let (api_redis, api_redis_url) = Proxy::before(&redis_url, Wire::Talk, scale.seed).await?;
    let (worker_redis, worker_redis_url) = Proxy::before(&redis_url, Wire::Talk, scale.seed).await?;
    rig.set("DATABASE_POOL_SIZE", &POOL.to_string());
    rig.set("WORKER_CONCURRENCY", "50");
    rig.set("DATABASE_URL", &api_url);
    rig.set("REDIS_URL", &api_redis_url);
    let _api = rig.front(0).await;
    let _worker = rig.worker(&[("DATABASE_URL", &worker_url), ("REDIS_URL", &worker_redis_url)]).await;
    let client = rig.client()?;

    let links = [
        ("api→pg", &api_pg),
        ("worker→pg", &worker_pg),
        ("api→redis", &api_redis),
        ("worker→redis", &worker_redis),
    ];
    let (mut slowest, mut violations, mut holes) = ((Duration::ZERO, String::new()), Vec::new(), 0);
    for round in 0..rounds {
        for (link, proxy) in links {
            for mode in [Mode::Forget, Mode::BlackHole] {
                if !scale.full && mode == Mode::BlackHole && !link.ends_with("redis") {
                    continue; // the small count has time for the nastier one only
                }
                holes += 1;
                let what = format!("{link} {mode:?} {round}");
                let seed = random.random();
                let pace = Pace { tasks: scale.of(50, 200), over: hold };
                let load = common::submit(rig.client()?, seed, pace, |random| {
                    (types::WORK, json!({ "sleep_ms": random.random_range(0..300) }))
                });
                sleep(hold.mul_f64(0.1)).await;
                proxy.set(mode);
                sleep(hold).await;
                proxy.set(Mode::Pass);
                match probes::until_a_task_ends(&url, &client, &format!("{seed}-after"), 4 * RESUMED).await {
                    Ok(took) => {
                        if took > RESUMED {
                            violations.push(("I8", format!("{what}: work went on only after {took:?}")));
                        }
                        slowest = slowest.max((took, what));
                    }
                    Err(error) => violations.push(("I8", format!("{what}: {error:#}"))),
                }
                load.end().await?;
            }
        }
        violations.extend(pools(&url, &client, random.random()).await?);
    }
    let done = format!("{holes} black holes of {hold:?} on the four links");
    let mut finished = common::finish(&rig, &done, scale.patience()).await?;
    let (took, what) = slowest;
    let note = format!(
        "work went on within {:.1} s ({what}), all {POOL} places of both pools were in use again",
        took.as_secs_f64()
    );
    probes::add(&mut finished, note, violations);
    Ok(finished.finding())
}

/// Whether every place of both pools can be used.
async fn pools(url: &str, client: &Client, seed: u64) -> Result<probes::Broken> {
    let mut violations = Vec::new();
    // A worker that works settles and asks for cancellations too, so that it has enough to say at the same time.
    let pace = Pace { tasks: 150, over: Duration::ZERO };
    let work = common::submit(client.clone(), seed, pace, |random| {
        (types::WORK, json!({ "sleep_ms": random.random_range(0..8_000) }))
    });
    work.end().await?;
    for name in ["faults-worker", "faults-api"] {
        // The worker's own loop claims and settles; the API has to be asked for something that touches `live`.
        let asked = client.clone();
        let calls = move || {
            let client = asked.clone();
            async move {
                // The task does not exist; whether the answer comes is not what is looked at.
                let _ = client.cancel(i64::MAX).await;
            }
        };
        let most = probes::pool_in_use(url, name, POOL, calls).await?;
        if most < POOL {
            violations
                .push(("pool", format!("only {most} of {POOL} connections of {name} could be used again")));
        }
    }
    Ok(violations)
}
