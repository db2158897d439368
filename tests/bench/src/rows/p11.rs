//! P11: tasks that talk all the time, and 1,000 readers of their live events: how many events arrive, and what they cost.
//! The same with 10,000 readers of calmer tasks. Then P1 beside 1,000 of those, against P1 without readers on the same
//! processes.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    Bench, column,
    p01::{self, WARM_UP},
    repeat,
};
use crate::{
    load::{self, Connection},
    process,
    report::{Goal, Line, counted},
    rig::{self, NOOP_BODY, Order},
    stats, types,
};

/// How many tasks talk.
const TALKS: usize = 10;
/// The worker joins pieces that come closer together than this.
const OFTEN: Duration = Duration::from_millis(50);
/// Pieces of the calmer tasks.
const SELDOM: Duration = Duration::from_secs(1);
/// Bytes of a piece.
const PIECE: usize = 100;
/// With each piece come its chunk and the progress.
const EVENTS: usize = 2;
/// Connections that submit beside the readers.
const CONNECTIONS: usize = 256;
/// Until the readers have what was said before they came.
const SETTLE: Duration = Duration::from_secs(1);
/// How many readers come at once: fewer than the requests that an API lets in.
const AT_THE_DOOR: u64 = 500;
/// How long a task talks: longer than anybody listens.
const LONG: Duration = Duration::from_secs(1_800);

/// One repetition of the talking.
#[derive(Debug)]
struct Talking {
    /// Events that arrived, per second.
    events: f64,
    /// Processor time of the API, in µs per event.
    api: f64,
    /// Processor time of the worker, in µs per piece that a handler reported.
    worker: f64,
    /// Processor time of the readers, in µs per event.
    readers: f64,
    /// Of the API, in MB.
    memory: f64,
}

/// One repetition of P1 with and without readers.
#[derive(Debug)]
struct Beside {
    /// The mean of the time before they came and the time after they left: processes and tables change with their age.
    without: f64,
    with: f64,
}

pub(super) async fn measure(bench: &Bench) -> Result<Vec<Line>> {
    let readers = bench.scale.of(100, 1_000);
    let mut lines = listening(bench, readers, OFTEN).await?;
    lines.extend(listening(bench, bench.scale.of(300, 10_000), SELDOM).await?);
    let count = bench.scale.of(2_000, 30_000);
    let all = repeat(bench, async || beside(bench, readers, count).await).await?;
    let name = format!(
        "{} tasks over {CONNECTIONS} connections beside {} readers, end to end",
        counted(count),
        counted(readers)
    );
    let line = Line::new("P11", name, "tasks/s", column(&all, |one| one.with));
    let without = column(&all, |one| one.without);
    lines.push(line.against("without readers", &without).goal(Goal::TimesAtLeast(0.9)));
    Ok(lines)
}

/// So many readers of tasks that say something so often.
async fn listening(bench: &Bench, readers: usize, every: Duration) -> Result<Vec<Line>> {
    let all = repeat(bench, async || talking(bench, readers, every).await).await?;
    let who = format!("{} readers, a piece every {} ms", counted(readers), every.as_millis());
    let line = |name: &str, unit, value: fn(&Talking) -> f64| {
        Line::new("P11", format!("{who}, {name}"), unit, column(&all, value))
    };
    let offered = (readers * EVENTS) as f64 / every.as_secs_f64();
    Ok(vec![
        line("events received", "per s", |one| one.events).against("reported", &[offered]),
        line("processor time of the API", "µs/event", |one| one.api),
        line("processor time of the worker", "µs/report", |one| one.worker),
        line("processor time of the readers", "µs/event", |one| one.readers),
        line("memory of the API", "MB", |one| one.memory),
    ])
}

async fn talking(bench: &Bench, readers: usize, every: Duration) -> Result<Talking> {
    let length = Duration::from_secs(bench.scale.of(2, 10));
    let database = bench.rig.database().await?;
    let places = [("MAX_CONNECTIONS", "20000")];
    let api = bench.rig.measuring_api(&database, Order::Redis, &places).await?;
    let worker = bench.rig.measuring_worker(&database, Order::Redis, &[]).await?;
    let talks = talk(api.server, every).await?;
    let mut audience = Audience::seat(api.server, &talks, readers).await?;

    let spent = || -> Result<[f64; 3]> {
        let ids = [api.program.id(), worker.program.id(), std::process::id()];
        Ok([process::processor(ids[0])?, process::processor(ids[1])?, process::processor(ids[2])?])
    };
    let (before, heard, began) = (spent()?, audience.heard(), Instant::now());
    sleep(length).await;
    let (after, heard, took) = (spent()?, audience.heard() - heard, began.elapsed());
    let memory = process::memory(api.program.id())?.now;
    audience.all_listen()?;
    if heard == 0 {
        bail!("the readers heard nothing");
    }
    let reports = TALKS as f64 * took.as_secs_f64() / every.as_secs_f64();
    let per_event = |place: usize| (after[place] - before[place]) * 1e6 / heard as f64;
    Ok(Talking {
        events: stats::rate(usize::try_from(heard)?, took),
        api: per_event(0),
        worker: (after[1] - before[1]) * 1e6 / reports,
        readers: per_event(2),
        memory: super::megabytes(memory),
    })
}

async fn beside(bench: &Bench, readers: usize, count: usize) -> Result<Beside> {
    let database = bench.rig.database().await?;
    let api = bench.rig.measuring_api(&database, Order::Redis, &[]).await?;
    let _worker = bench.rig.measuring_worker(&database, Order::Redis, &[]).await?;
    let mut connection = database.connect().await?;
    let warm = load::submit(api.server, &load::submission(NOOP_BODY), WARM_UP, CONNECTIONS).await?;
    database.drained(&mut connection, warm.last).await?;
    let before = p01::flood(&database, &mut connection, api.server, count, CONNECTIONS).await?;
    let talks = talk(api.server, SELDOM).await?;
    let mut audience = Audience::seat(api.server, &talks, readers).await?;
    let with = p01::flood(&database, &mut connection, api.server, count, CONNECTIONS).await?;
    audience.all_listen()?;
    if audience.heard() == 0 {
        bail!("the readers heard nothing");
    }
    drop(audience);
    let after = p01::flood(&database, &mut connection, api.server, count, CONNECTIONS).await?;
    Ok(Beside { without: f64::midpoint(before.rate, after.rate), with: with.rate })
}

/// Submits the tasks that talk; answers their numbers.
async fn talk(server: SocketAddr, every: Duration) -> Result<Vec<i64>> {
    let input = format!(
        r#"{{"pieces":{},"every_ms":{},"bytes":{PIECE}}}"#,
        LONG.as_millis() / every.as_millis(),
        every.as_millis()
    );
    let request = load::submission(&format!(r#"{{"type":"{}","input":{input}}}"#, types::TALK));
    let mut client = Connection::open(server).await?;
    let mut tasks = Vec::with_capacity(TALKS);
    for _ in 0..TALKS {
        let (status, body) = client.ask(&request).await?;
        let task = load::task_id(body).filter(|_| status == 201);
        tasks.push(task.with_context(|| format!("{status} {}", String::from_utf8_lossy(body)))?);
    }
    Ok(tasks)
}

/// Readers of live events; they leave with this value.
struct Audience {
    heard: Arc<AtomicU64>,
    readers: JoinSet<Result<()>>,
}

impl Audience {
    /// Connects the readers, evenly over the tasks, some at a time, and waits until each has heard something.
    async fn seat(server: SocketAddr, tasks: &[i64], seats: usize) -> Result<Self> {
        let (heard, arrived) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (mut readers, mut came, began) = (JoinSet::new(), 0, Instant::now());
        loop {
            let seated = arrived.load(Ordering::Relaxed);
            if seated == seats as u64 {
                break;
            }
            while came < seats && came as u64 - seated < AT_THE_DOOR {
                let task = tasks[came % tasks.len()];
                readers.spawn(listen(server, task, Arc::clone(&heard), Arc::clone(&arrived)));
                came += 1;
            }
            if let Some(ended) = readers.try_join_next() {
                ended??;
            }
            rig::in_time(began, "not every reader has heard something")?;
            sleep(Duration::from_millis(10)).await;
        }
        sleep(SETTLE).await;
        Ok(Self { heard, readers })
    }

    fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// Fails when a reader has been sent away.
    fn all_listen(&mut self) -> Result<()> {
        match self.readers.try_join_next() {
            Some(ended) => ended?.context("a reader"),
            None => Ok(()),
        }
    }
}

/// Reads the events of a task for ever and counts them.
async fn listen(server: SocketAddr, task: i64, heard: Arc<AtomicU64>, arrived: Arc<AtomicU64>) -> Result<()> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(&load::get(&format!("/api/v1/tasks/{task}/events"))).await?;
    let (mut counter, mut bytes, mut all) = (Counter::default(), vec![0; 4_096], 0);
    loop {
        let count = stream.read(&mut bytes).await?;
        if count == 0 {
            bail!("the events of task {task} ended");
        }
        let events = counter.feed(&bytes[..count]);
        if all == 0 && events > 0 {
            arrived.fetch_add(1, Ordering::Relaxed);
        }
        all += events;
        heard.fetch_add(events, Ordering::Relaxed);
    }
}

/// Counts events in a stream that arrives in pieces: each has one line of data.
#[derive(Debug, Default)]
struct Counter {
    /// How much of [`Counter::MARK`] the last piece ended with.
    matched: usize,
}

impl Counter {
    const MARK: &[u8] = b"\ndata:";

    fn feed(&mut self, bytes: &[u8]) -> u64 {
        let mut events = 0;
        for byte in bytes {
            if *byte == Self::MARK[self.matched] {
                self.matched += 1;
                if self.matched == Self::MARK.len() {
                    (self.matched, events) = (0, events + 1);
                }
            } else {
                // Only its first byte begins the mark anew.
                self.matched = usize::from(*byte == Self::MARK[0]);
            }
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_counted_wherever_the_stream_is_cut() {
        let stream =
            b"event: state\ndata: {}\n\nevent: chunk\nid: 1.1\ndata: {\"text\":\"data:\"}\n\n\n\ndata:";
        for cut in 0..stream.len() {
            let mut counter = Counter::default();
            assert_eq!(counter.feed(&stream[..cut]) + counter.feed(&stream[cut..]), 3, "{cut}");
        }
    }
}
