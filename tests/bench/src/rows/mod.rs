//! One file for each row of the table.

mod p01;
mod p02;
mod p03;
mod p04;
mod p05;
mod p06;
mod p07;
mod p08;
mod p09;
mod p10;
mod p11;

use anyhow::Result;
use clap::ValueEnum;

use crate::{Scale, report::Line, rig::Rig};

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Row {
    /// End to end over HTTP: the first request sent → all completed in the store
    #[value(name = "P1")]
    P1,
    /// Drain of 200,000 waiting no-op tasks by one worker process
    #[value(name = "P2")]
    P2,
    /// The same drain against plain SQL
    #[value(name = "P3")]
    P3,
    /// Submit latency against a bare single-row INSERT
    #[value(name = "P4")]
    P4,
    /// Pick-up on an idle system: request sent → handler starts
    #[value(name = "P5")]
    P5,
    /// 10,000, 20,000 and 50,000 tasks of 5 s in flight in one worker process
    #[value(name = "P6")]
    P6,
    /// Drain rate with 1,000 to 5,000,000 waiting, beside an old snapshot, after much history, with and without Redis
    #[value(name = "P7")]
    P7,
    /// Bytes of a waiting and of a finished task, by table and index
    #[value(name = "P8")]
    P8,
    /// Idle memory, and time from start to ready
    #[value(name = "P9")]
    P9,
    /// End to end over HTTP on the embedded base, SQLite
    #[value(name = "P10")]
    P10,
    /// Live events to 1,000 readers, and what they cost P1
    #[value(name = "P11")]
    P11,
}

impl Row {
    /// Measures it.
    pub async fn measure(self, bench: &Bench) -> Result<Vec<Line>> {
        match self {
            Self::P1 => p01::measure(bench).await,
            Self::P2 => p02::measure(bench).await,
            Self::P3 => p03::measure(bench).await,
            Self::P4 => p04::measure(bench).await,
            Self::P5 => p05::measure(bench).await,
            Self::P6 => p06::measure(bench).await,
            Self::P7 => p07::measure(bench).await,
            Self::P8 => p08::measure(bench).await,
            Self::P9 => p09::measure(bench).await,
            Self::P10 => p10::measure(bench).await,
            Self::P11 => p11::measure(bench).await,
        }
    }
}

/// What rows are measured with.
#[derive(Debug)]
pub struct Bench {
    /// The servers.
    pub rig: Rig,
    /// How much is done.
    pub scale: Scale,
}

/// Does something once for each repetition.
async fn repeat<T>(bench: &Bench, mut once: impl AsyncFnMut() -> Result<T>) -> Result<Vec<T>> {
    let mut results = Vec::with_capacity(bench.scale.reps);
    for _ in 0..bench.scale.reps {
        results.push(once().await?);
    }
    Ok(results)
}

/// One value of each repetition.
fn column<T>(repetitions: &[T], value: impl Fn(&T) -> f64) -> Vec<f64> {
    repetitions.iter().map(value).collect()
}

/// In megabytes of 1,048,576 bytes, as tools show memory.
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1_048_576.0
}
