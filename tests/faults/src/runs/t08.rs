//! T8: requests dropped at random moments, in all operations: clients that close or reset their connection after half
//! a request, right after it, or a little later. No transaction sits idle for more than a second, every place in the
//! pool can be used afterwards, and what was stored is run.

use std::{collections::HashSet, time::Duration};

use anyhow::{Context as _, Result, bail};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{sleep, timeout},
};

use super::{common, probes, t04::setting};
use crate::{
    checker,
    history::HandlerEvent,
    rig::{Base, Rig},
    scale::{Finding, Scale},
    types,
};

/// The longest that a transaction may sit idle.
const IDLE: Duration = Duration::from_secs(1);
const POOL: i64 = 6;
/// Clients at the same time.
const CLIENTS: usize = 32;

/// What became of the requests.
#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    dropped: u32,
    answered: u32,
    /// Answers that say that the store is away, which it never was.
    unavailable: u32,
    /// Answers that say that the server is at fault.
    failed: u32,
}

/// Many clients without manners.
pub async fn run(scale: &Scale) -> Result<Finding> {
    let requests: u32 = scale.of(3_000, 112_000);
    let mut rig = Rig::start(scale, Base::PostgresAndRedis).await?;
    let url = setting(&rig, "DATABASE_URL")?;
    rig.set("WORKER_CONCURRENCY", "100");
    rig.set("DATABASE_POOL_SIZE", &POOL.to_string());
    rig.set("DATABASE_URL", &probes::named(&url, "faults-api"));
    let _api = rig.front(0).await;
    let _worker = rig.worker(&[("DATABASE_URL", &url)]).await;
    let client = rig.client()?;
    let first = client.submit(&format!("{}-first", scale.seed), types::WORK, json!({})).await?.task;
    let watch = probes::IdleWatch::start(&url).await?;
    let port = rig.ports[0];

    let each = requests / u32::try_from(CLIENTS)?;
    let clients: Vec<_> = (0..CLIENTS as u64)
        .map(|number| tokio::spawn(rude_client(port, scale.seed.wrapping_mul(1_000) + number, each, first)))
        .collect();
    let mut tally = Tally::default();
    for client in clients {
        let its = client.await.context("a client")??;
        tally.dropped += its.dropped;
        tally.answered += its.answered;
        tally.unavailable += its.unavailable;
        tally.failed += its.failed;
    }

    let mut violations = Vec::new();
    let asked = client.clone();
    let calls = move || {
        let client = asked.clone();
        async move { drop(client.cancel(i64::MAX).await) }
    };
    let most = probes::pool_in_use(&url, "faults-api", POOL, calls).await?;
    if most < POOL {
        violations
            .push(("pool", format!("only {most} of {POOL} connections of the API could be used again")));
    }
    let idle = watch.stop().await?;
    if idle > IDLE {
        violations.push(("T8", format!("a transaction sat idle for {idle:?}")));
    }
    if tally.unavailable + tally.failed > 0 {
        let Tally { unavailable, failed, .. } = tally;
        violations.push((
            "T8",
            format!("requests that waited were answered 503 ({unavailable}) or 500 ({failed})"),
        ));
    }
    let done =
        format!("{} requests dropped at random moments, {} answered beside", tally.dropped, tally.answered);
    let mut finished = common::finish(&rig, &done, scale.patience()).await?;
    // What a client has deleted leaves no fate to hold its history against.
    let evidence = &mut finished.evidence;
    let kept: HashSet<i64> = evidence.fates.iter().map(|fate| fate.task).collect();
    evidence.transitions.retain(|transition| transition.task.is_none_or(|task| kept.contains(&task)));
    evidence.handlers.retain(|event| match event {
        HandlerEvent::Start { task, .. } | HandlerEvent::End { task, .. } => kept.contains(task),
    });
    finished.verdict = checker::check(evidence);
    let note = format!("longest idle transaction {} ms, all {POOL} connections usable", idle.as_millis());
    probes::add(&mut finished, note, violations);
    Ok(finished.finding())
}

/// One client after the other on connections of their own.
async fn rude_client(port: u16, seed: u64, requests: u32, first: i64) -> Result<Tally> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut tally = Tally::default();
    for number in 0..requests {
        let task = random.random_range(first + 1..first + 500);
        let request = request(&mut random, seed, number, task);
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.context("the API listens")?;
        // Half of the clients reset, the others close.
        if random.random_bool(0.5) {
            stream.set_zero_linger()?;
        }
        match random.random_range(0..10) {
            0 => {
                let part = random.random_range(0..request.len());
                stream.write_all(&request[..part]).await?;
                tally.dropped += 1;
            }
            1 => {
                stream.write_all(&request).await?;
                let status = status_of(&mut stream).await?;
                tally.answered += 1;
                tally.unavailable += u32::from(status == 503);
                tally.failed += u32::from(status == 500);
            }
            2 => {
                stream.write_all(&request).await?;
                tally.dropped += 1;
            }
            _ => {
                stream.write_all(&request).await?;
                sleep(Duration::from_micros(random.random_range(0..12_000))).await;
                tally.dropped += 1;
            }
        }
    }
    Ok(tally)
}

/// The status of the answer; what follows is left unread.
async fn status_of(stream: &mut TcpStream) -> Result<u16> {
    let mut start = [0; 12];
    timeout(Duration::from_secs(30), stream.read_exact(&mut start)).await.context("an answer in time")??;
    match std::str::from_utf8(&start[9..]).ok().and_then(|code| code.parse().ok()) {
        Some(code) => Ok(code),
        None => bail!("no HTTP answer: {:?}", String::from_utf8_lossy(&start)),
    }
}

/// Any operation of the API.
fn request(random: &mut StdRng, seed: u64, number: u32, task: i64) -> Vec<u8> {
    let (method, path, body) = match random.random_range(0..14) {
        0..=3 => {
            let sleep_ms = random.random_range(0..20);
            let delay = random.random_range(0..3);
            let key = format!("rude-{seed}-{number}");
            let body = json!({ "type": types::WORK, "input": { "sleep_ms": sleep_ms }, "delay_seconds": delay,
                "metadata": { "key": key } });
            ("POST", "/tasks".to_owned(), body.to_string())
        }
        4 => ("GET", "/tasks?limit=100&status=pending,completed".to_owned(), String::new()),
        5 => ("GET", format!("/tasks/{task}"), String::new()),
        6 => ("GET", format!("/tasks/{task}?wait=1s"), String::new()),
        7 => ("DELETE", format!("/tasks/{task}"), String::new()),
        8 => ("GET", format!("/tasks/{task}/status"), String::new()),
        9 => ("GET", format!("/tasks/{task}/progress"), String::new()),
        10 => ("GET", format!("/tasks/{task}/attempts"), String::new()),
        11 => ("POST", format!("/tasks/{task}/cancel"), String::new()),
        12 => ("GET", format!("/tasks/{task}/events"), String::new()),
        _ => {
            let paths = ["/health", "/health/live", "/stats", "/task-types"];
            ("GET", paths[random.random_range(0..paths.len())].to_owned(), String::new())
        }
    };
    format!(
        "{method} /api/v1{path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}
