//! What the configuration names: can it be reached from here, and is it ready?

use std::path::Path;

use super::{Finding, ahead_of_here, doubtful, good, judge_clock, wrong};
use crate::{
    config::{Config, Database, without_password},
    wiring::Wiring,
};

pub(super) async fn look(config: &Config) -> Vec<Finding> {
    match &config.database {
        Database::Sqlite(path) => vec![file(path)],
        Database::Postgres(url) => servers(config, url).await,
    }
}

/// The file belongs to the server that has it open; it is not opened here.
fn file(path: &Path) -> Finding {
    let shown = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    match std::fs::metadata(path) {
        Ok(found) if found.is_file() => {
            let kilobytes = found.len() / 1_000;
            good("store", format!("the SQLite file {} is there ({kilobytes} kB)", shown.display()))
        }
        Ok(_) => wrong(
            "store",
            format!("{} is not a file", shown.display()),
            "name another file with DATABASE_URL=sqlite://PATH",
        ),
        Err(error) => wrong(
            "store",
            format!("the SQLite file {} cannot be read: {error}", shown.display()),
            "start `task-runner`, which makes it, or name another with DATABASE_URL (is this the folder that the server runs in?)",
        ),
    }
}

async fn servers(config: &Config, url: &str) -> Vec<Finding> {
    let shown = without_password(url);
    let wiring = match Wiring::connect(config, false, Vec::new()).await {
        Ok(wiring) => wiring,
        Err(error) => {
            let remedy =
                "start PostgreSQL or correct DATABASE_URL; where it is the schema, run `task-runner migrate`";
            return vec![wrong("store", format!("{shown}: {error:#}"), remedy)];
        }
    };
    let mut findings = Vec::new();
    let dependencies = wiring.tasks(config).health().await;
    for one in &dependencies {
        let error = one.error.clone().unwrap_or_else(|| "it does not answer".to_owned());
        let part = if one.required { "store" } else { "order" };
        findings.push(match (one.healthy, one.required) {
            (true, true) => good(part, format!("{shown} answers, and its schema is recent enough")),
            (true, false) => good(part, format!("{} answers", one.name)),
            (false, true) => {
                wrong(part, format!("{shown}: {error}"), "start PostgreSQL or correct DATABASE_URL")
            }
            (false, false) => doubtful(
                part,
                format!("{} does not answer: {error}", one.name),
                "tasks run without it, started some tenths of a second later; start it or correct REDIS_URL",
            ),
        });
    }
    if config.redis_url.is_none() {
        findings.push(doubtful(
            "order",
            "REDIS_URL is not set: workers look into PostgreSQL for tasks",
            "set it for live events between processes and quicker starts",
        ));
    }
    if let Ok(now) = wiring.store_clock().await {
        findings.extend(judge_clock("store", "the store's", ahead_of_here(now)));
    }
    findings
}
