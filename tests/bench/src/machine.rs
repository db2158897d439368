//! What the figures were measured on.

use std::{
    fs::{self, File},
    io::{Seek as _, Write as _},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use sqlx::{Connection as _, PgConnection};
use tokio::time::Instant;

use crate::{rig::Rig, stats};

/// How often a 4 kB block is written and flushed.
const FLUSHES: usize = 50;

/// The machine and the server's settings.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// Processors that this process may use.
    pub cores: usize,
    /// As the kernel calls them.
    pub processor: String,
    /// Of the kernel.
    pub kernel: String,
    /// In megabytes.
    pub memory_mb: u64,
    /// Median time to write and flush 4 kB beside the database, in microseconds.
    pub fsync_us: f64,
    /// Such as `15.18`.
    pub postgres: String,
    /// Such as `7.0.15`; it keeps nothing on disk.
    pub redis: String,
    /// Settings that decide about durability and size.
    pub settings: Vec<(String, String)>,
}

const SETTINGS: [&str; 6] =
    ["fsync", "synchronous_commit", "full_page_writes", "shared_buffers", "max_wal_size", "max_connections"];

impl Machine {
    /// Looks. Refuses a server that does not wait for the disk.
    pub async fn look(rig: &Rig) -> Result<Self> {
        let mut connection = PgConnection::connect(rig.postgres_url()).await?;
        let postgres = sqlx::query_scalar("SHOW server_version").fetch_one(&mut connection).await?;
        let mut settings = Vec::new();
        for name in SETTINGS {
            let value: String = sqlx::query_scalar("SELECT current_setting($1)")
                .bind(name)
                .fetch_one(&mut connection)
                .await?;
            if SETTINGS[..3].contains(&name) && value != "on" {
                bail!("PostgreSQL runs with {name} = {value}: such figures would say nothing");
            }
            settings.push((name.to_owned(), value));
        }
        connection.close().await?;
        let first = |path: &str, name: &str| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix(name).map(str::to_owned));
            line.map(|line| line.trim_matches([':', ' ', '\t']).to_owned()).unwrap_or_default()
        };
        let kilobytes = first("/proc/meminfo", "MemTotal");
        Ok(Self {
            cores: std::thread::available_parallelism()?.get(),
            processor: first("/proc/cpuinfo", "model name"),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            memory_mb: kilobytes.split(' ').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) / 1024,
            fsync_us: flush_time(rig.folder())?.as_secs_f64() * 1e6,
            postgres,
            redis: rig.redis_version().await?,
            settings,
        })
    }

    /// What is wrong with the disk for measuring, if anything.
    pub fn warning(&self) -> Option<String> {
        let too_fast = self.fsync_us < TOO_FAST.as_secs_f64() * 1e6;
        too_fast.then(|| "the databases lie in memory: set TMPDIR to a folder on a disk".to_owned())
    }

    /// For people.
    pub fn line(&self) -> String {
        let settings: Vec<_> = self.settings.iter().map(|(name, value)| format!("{name} {value}")).collect();
        format!(
            "{} cores ({}), {} MB, Linux {}; 4 kB written and flushed in {:.0} µs; Redis {}, nothing on disk; PostgreSQL {}: {}",
            self.cores,
            self.processor,
            self.memory_mb,
            self.kernel,
            self.fsync_us,
            self.redis,
            self.postgres,
            settings.join(", ")
        )
    }
}

/// A disk that is faster than this is none, or does not keep what it says it has kept.
const TOO_FAST: Duration = Duration::from_micros(10);

/// The median time to write and flush a block in this folder.
pub fn flush_time(folder: &Path) -> Result<Duration> {
    let path = folder.join("flush-probe");
    let mut file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut times = Vec::with_capacity(FLUSHES);
    for _ in 0..FLUSHES {
        let began = Instant::now();
        file.rewind()?;
        file.write_all(&[7; 4096])?;
        file.sync_data()?;
        times.push(began.elapsed());
    }
    fs::remove_file(path)?;
    stats::percentile(&mut times, 0.5).context("nothing was flushed")
}
