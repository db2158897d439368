//! Logs: text for people or JSON lines for machines, on standard error.

use anyhow::{Context, Result};
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::Config;

/// Starts logging as the configuration says.
pub fn start(config: &Config) -> Result<()> {
    let filter = EnvFilter::try_new(&config.log_filter).with_context(|| {
        format!("RUST_LOG = {:?} is not a log filter such as info or task_runner=debug", config.log_filter)
    })?;
    let registry = tracing_subscriber::registry().with(filter);
    if config.json_logs {
        registry.with(fmt::layer().json().flatten_event(true).with_writer(std::io::stderr)).try_init()
    } else {
        registry.with(fmt::layer().with_target(false).with_writer(std::io::stderr)).try_init()
    }
    .context("logging was started before")
}
