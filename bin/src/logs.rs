//! Logs: text for people or JSON lines for machines, on standard error.

use std::io::IsTerminal;

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
        // Colours are for people at a terminal: in a file or a pipe they break every search.
        let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let layer = fmt::layer().with_target(false).with_ansi(colours).with_writer(std::io::stderr);
        registry.with(layer).try_init()
    }
    .context("logging was started before")
}
