//! T17: many readers of live events, one in ten of which reads nothing. The API's memory rises by no more than 50 MB, and
//! the others hear what happens within a second.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use futures_util::StreamExt as _;
use reqwest::RequestBuilder;
use serde_json::json;
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpSocket, TcpStream},
    sync::mpsc::{self, UnboundedSender},
    task::JoinHandle,
    time::sleep,
};

use super::{common, probes};
use crate::{
    history,
    rig::{Base, Rig},
    scale::{Finding, Scale},
    types,
};

/// How much more memory the API may hold, in kilobytes.
const MEMORY: u64 = 50 * 1024;
/// How soon 99 % of the pieces arrive.
const SOON: Duration = Duration::from_secs(1);

/// What the readers have heard.
#[derive(Default)]
struct Heard {
    late: Mutex<Vec<Duration>>,
    /// Readers that heard the task's end.
    to_the_end: AtomicU64,
    pieces: AtomicU64,
}

/// Talkative tasks, and their readers.
pub async fn run(scale: &Scale) -> Result<Finding> {
    let (readers, stalled) = (scale.of(100_u64, 500), scale.of(10_u64, 50));
    let (tasks, every_ms, seconds) = (scale.of(5, 25), 100, scale.of(6, 120));
    let mut rig = Rig::start(scale, Base::PostgresAndRedis).await?;
    rig.set("WORKER_CONCURRENCY", "100");
    let api = rig.front(0).await;
    let worker = rig.worker(&[]).await;
    let client = rig.client()?;
    // What any API holds after its first requests.
    for number in 0..50 {
        let task =
            client.submit(&format!("{}-warm-{number}", scale.seed), types::WORK, json!({})).await?.task;
        client.watch(task, scale.patience()).await?;
    }
    let before = probes::memory_of(api.id())?;
    // The readers are there when it begins: one that joins later waits for the store to have what it missed.
    drop(worker);

    let input = json!({ "pieces": seconds * 1_000 / every_ms, "every_ms": every_ms, "bytes": 1_000 });
    let mut talks = Vec::new();
    for number in 0..tasks {
        let key = format!("{}-talk-{number}", scale.seed);
        talks.push(client.submit(&key, types::TALK, input.clone()).await?.task);
    }
    let heard = Arc::new(Heard::default());
    let (mut awake, mut asleep) = (Vec::new(), Vec::new());
    let http = reqwest::Client::builder().no_proxy().build()?;
    let (there, mut arrivals) = mpsc::unbounded_channel();
    for number in 0..readers {
        let task = talks[usize::try_from(number)? % talks.len()];
        if number % (readers / stalled) == 0 {
            asleep.push(stall(rig.ports[0], task).await?);
        } else {
            let url = format!("http://127.0.0.1:{}/api/v1/tasks/{task}/events", rig.ports[0]);
            awake.push(tokio::spawn(listen(http.get(url), there.clone(), Arc::clone(&heard))));
        }
    }
    drop(there);
    for _ in &awake {
        arrivals.recv().await.context("a reader")?;
    }
    let _worker = rig.worker(&[]).await;
    let most = highest_memory(api.id(), &awake).await?;
    for reader in awake {
        reader.await.context("a reader")??;
    }
    let awake = readers - asleep.len() as u64;
    drop(asleep);

    let mut late = std::mem::take(&mut *heard.late.lock().unwrap_or_else(PoisonError::into_inner));
    late.sort_unstable();
    let (half, nearly_all) = (probes::at_share(&late, 0.5), probes::at_share(&late, 0.99));
    let rise = most.saturating_sub(before);
    let mut violations = Vec::new();
    if rise > MEMORY {
        violations.push(("memory", format!("the API's rose by {rise} kB, from {before} kB to {most} kB")));
    }
    if nearly_all > SOON {
        violations.push(("lateness", format!("99 % of the pieces arrived within {nearly_all:?}")));
    }
    let ends = heard.to_the_end.load(Ordering::Relaxed);
    if ends != awake {
        violations.push(("I7", format!("{ends} of {awake} readers heard the end of their task")));
    }
    let (pieces, expected) = (heard.pieces.load(Ordering::Relaxed), awake * (seconds * 1_000 / every_ms));
    if pieces != expected {
        violations.push(("I7", format!("{pieces} pieces arrived where {expected} were told")));
    }
    let done = format!("{readers} readers of live events, {stalled} of them stalled, for {seconds} s");
    let mut finished = common::finish(&rig, &done, scale.patience()).await?;
    let note = format!(
        "memory +{:.1} MB, {pieces} pieces, within {} ms (half) and {} ms (99 %)",
        rise as f64 / 1024.0,
        half.as_millis(),
        nearly_all.as_millis()
    );
    probes::add(&mut finished, note, violations);
    Ok(finished.finding())
}

/// A reader that asks for the events of a task and then reads nothing; its small buffer bounds what the kernel takes in
/// for it.
async fn stall(port: u16, task: i64) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(4_096)?;
    let mut stream = socket.connect(([127, 0, 0, 1], port).into()).await?;
    let request = format!("GET /api/v1/tasks/{task}/events HTTP/1.1\r\nhost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    Ok(stream)
}

/// Says that it is there, reads to the end, and notes how late each piece is; the piece itself says when it was made.
async fn listen(events: RequestBuilder, there: UnboundedSender<()>, heard: Arc<Heard>) -> Result<()> {
    let mut body = events.send().await?.error_for_status()?.bytes_stream();
    there.send(()).context("nobody waits for this reader")?;
    let (mut unread, mut late, mut pieces, mut ended) = (Vec::new(), Vec::new(), 0, false);
    while let Some(bytes) = body.next().await {
        let now = history::now();
        unread.extend_from_slice(&bytes?);
        let Some(end) = unread.iter().rposition(|byte| *byte == b'\n') else { continue };
        let lines: Vec<u8> = unread.drain(..=end).collect();
        for line in String::from_utf8(lines)?.lines() {
            let Some(data) = line.strip_prefix("data:") else { continue };
            let data: serde_json::Value = serde_json::from_str(data).context("the data of an event")?;
            ended |= data["status"] == "COMPLETED";
            // The worker joins pieces that come close together.
            for piece in data["text"].as_str().unwrap_or_default().split_terminator('\n') {
                let made = piece.split(' ').next().and_then(|text| text.parse::<i64>().ok());
                let made = made.with_context(|| format!("a piece without its time: {piece:?}"))?;
                pieces += 1;
                late.push(Duration::from_micros(u64::try_from(now - made).unwrap_or_default()));
            }
        }
    }
    if ended {
        heard.to_the_end.fetch_add(1, Ordering::Relaxed);
    }
    heard.pieces.fetch_add(pieces, Ordering::Relaxed);
    heard.late.lock().unwrap_or_else(PoisonError::into_inner).extend(late);
    Ok(())
}

/// The most memory that was seen until the readers are done.
async fn highest_memory(pid: u32, readers: &[JoinHandle<Result<()>>]) -> Result<u64> {
    let mut most = 0;
    while readers.iter().any(|reader| !reader.is_finished()) {
        most = most.max(probes::memory_of(pid)?);
        sleep(Duration::from_millis(50)).await;
    }
    Ok(most.max(probes::memory_of(pid)?))
}
