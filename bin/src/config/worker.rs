//! What concerns the worker alone.

use std::time::Duration;

use anyhow::Result;
use domain::{Limits, TimeCaps, WorkerName};

use super::{Config, Database, Layers, without_password};

impl Layers {
    pub(super) fn worker_name(&self) -> Result<WorkerName> {
        let name =
            self.text("worker_name").replace("%h", &host()).replace("%p", &std::process::id().to_string());
        WorkerName::new(name).map_err(|error| self.bad("worker_name", error))
    }

    pub(super) fn worker_time_caps(&self) -> Result<TimeCaps> {
        let cap = |name| {
            let Some(_) = self.optional(name) else { return Ok(None) };
            let cap = self.duration(name)?;
            if cap.is_zero() || cap > Limits::LONGEST {
                return Err(self.bad(name, "not above zero and at most a week"));
            }
            Ok(Some(cap))
        };
        let caps = TimeCaps { soft: cap("worker_soft_time_limit")?, hard: cap("worker_time_limit")? };
        if caps.soft.zip(caps.hard).is_some_and(|(soft, hard)| soft >= hard) {
            return Err(self.bad("worker_soft_time_limit", "not shorter than WORKER_TIME_LIMIT"));
        }
        Ok(caps)
    }
}

impl Config {
    /// What a worker says of its settings; nothing secret.
    pub fn worker_settings(&self) -> Vec<(String, String)> {
        let seconds = |time: Duration| format!("{}s", time.as_secs_f64());
        let mut settings = vec![
            ("lease_seconds", self.lease.length().as_secs_f64().to_string()),
            ("shutdown_grace", seconds(self.shutdown_grace)),
        ];
        settings.extend(self.worker_max_tasks.map(|most| ("worker_max_tasks", most.to_string())));
        settings.extend(self.worker_max_memory.map(|most| ("worker_max_memory", most.to_string())));
        settings.extend(self.worker_time_caps.soft.map(|cap| ("worker_soft_time_limit", seconds(cap))));
        settings.extend(self.worker_time_caps.hard.map(|cap| ("worker_time_limit", seconds(cap))));
        let store = match &self.database {
            Database::Sqlite(path) => format!("sqlite://{}", path.display()),
            Database::Postgres(url) => without_password(url),
        };
        settings.push(("database_url", store));
        settings.extend(self.redis_url.as_ref().map(|url| ("redis_url", without_password(url))));
        settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// The machine's name.
pub(super) fn host() -> String {
    let host = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
    let host = match host.trim() {
        "" => std::env::var_os("HOSTNAME").or_else(|| std::env::var_os("COMPUTERNAME")),
        name => Some(name.into()),
    };
    host.map_or("localhost".to_owned(), |name| name.to_string_lossy().into_owned())
}
