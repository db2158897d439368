//! Other people's queues on the same machine: a driver that is no part of this repository runs them and writes one JSON
//! object for each measurement.
//!
//! The driver is `DIR/run.py`: `run --peers a,b --tests drain,http --reps N` appends lines to `results.jsonl` in the folder
//! that `PEERS_DIR` names, with `peer`, `test`, settings and figures.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use serde_json::Value;

use crate::{
    report::{Goal, Line},
    stats,
};

/// How long Linux keeps a port from others after its connection was closed, and how often it is tried meanwhile.
const PORT_IS_FREE_AFTER: Duration = Duration::from_secs(60);
const PORT_TRIES: u32 = 4;

/// A peer that goals name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Peer {
    /// FastAPI, Celery and PostgreSQL
    Seeds,
    /// graphile-worker on Node, with its local queue
    Graphile,
    /// graphile_worker in Rust, with its local queue
    #[value(name = "gw_rust")]
    GwRust,
    /// pg-boss
    Pgboss,
    /// BullMQ, on Redis alone
    Bullmq,
}

impl Peer {
    /// What the driver calls it.
    fn key(self) -> &'static str {
        match self {
            Self::Seeds => "seed",
            Self::Graphile => "graphile_lq",
            Self::GwRust => "gw_rust_lq",
            Self::Pgboss => "pgboss",
            Self::Bullmq => "bullmq",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Seeds => "FastAPI + Celery",
            Self::Graphile => "graphile-worker (Node)",
            Self::GwRust => "graphile_worker (Rust)",
            Self::Pgboss => "pg-boss",
            Self::Bullmq => "BullMQ",
        }
    }
}

/// A figure of ours, whose it is held against, and where that stands in the driver's results.
struct Comparison {
    ours: &'static str,
    peer: Peer,
    test: &'static str,
    /// Only results with this setting.
    only: Option<(&'static str, i64)>,
    figure: &'static str,
    /// Whether more is better: where a peer was measured in several settings, its best one counts.
    more: bool,
    goal: Goal,
}

const fn comparison(
    ours: &'static str,
    peer: Peer,
    test: &'static str,
    figure: &'static str,
    goal: Goal,
) -> Comparison {
    let more = matches!(goal, Goal::TimesAtLeast(_));
    Comparison { ours, peer, test, only: None, figure, more, goal }
}

const fn at(setting: (&'static str, i64), comparison: Comparison) -> Comparison {
    Comparison { only: Some(setting), ..comparison }
}

const AHEAD: Goal = Goal::TimesAtMost(1.0);

const COMPARISONS: &[Comparison] = &[
    at(("conns", 256), comparison("p1_256", Peer::Seeds, "http", "e2e_tasks_s", Goal::TimesAtLeast(60.0))),
    at(("conns", 32), comparison("p1_32", Peer::Seeds, "http", "e2e_tasks_s", Goal::TimesAtLeast(60.0))),
    comparison("p2", Peer::GwRust, "drain", "jobs_s", Goal::TimesAtLeast(1.3)),
    comparison("p2", Peer::Graphile, "drain", "jobs_s", Goal::TimesAtLeast(1.5)),
    comparison("p2", Peer::Pgboss, "drain", "jobs_s", Goal::TimesAtLeast(2.3)),
    comparison("p2", Peer::Bullmq, "drain", "jobs_s", Goal::TimesAtLeast(3.0)),
    at(("conns", 32), comparison("p4_32_p99", Peer::Seeds, "http", "p99_ms", Goal::TimesAtMost(0.05))),
    at(("conns", 32), comparison("p1_32_p99", Peer::Seeds, "http", "p99_ms", Goal::TimesAtMost(0.05))),
    comparison("p5_p50", Peer::Seeds, "pickup", "to_start_p50_ms", AHEAD),
    comparison("p5_p50", Peer::Graphile, "pickup", "p50_ms", AHEAD),
    comparison("p5_p50", Peer::GwRust, "pickup", "p50_ms", AHEAD),
    comparison("p5_p50", Peer::Pgboss, "pickup", "p50_ms", AHEAD),
    comparison("p5_p50", Peer::Bullmq, "pickup", "p50_ms", AHEAD),
    comparison("p5_p99", Peer::Seeds, "pickup", "to_start_p99_ms", AHEAD),
    comparison("p5_p99", Peer::Graphile, "pickup", "p99_ms", AHEAD),
    comparison("p5_p99", Peer::GwRust, "pickup", "p99_ms", AHEAD),
    comparison("p5_p99", Peer::Pgboss, "pickup", "p99_ms", AHEAD),
    comparison("p5_p99", Peer::Bullmq, "pickup", "p99_ms", AHEAD),
    at(("n", 10_000), comparison("p6_memory", Peer::Graphile, "inflight", "peak_rss", AHEAD)),
    at(("n", 10_000), comparison("p6_memory", Peer::GwRust, "inflight", "peak_rss", AHEAD)),
    at(("n", 10_000), comparison("p6_memory", Peer::Pgboss, "inflight", "peak_rss", AHEAD)),
    at(("n", 10_000), comparison("p6_memory", Peer::Bullmq, "inflight", "peak_rss", AHEAD)),
    comparison("p10_256", Peer::Seeds, "http", "e2e_tasks_s", Goal::TimesAtLeast(20.0)),
];

/// Which of the driver's tests each of our figures needs.
fn tests_for(lines: &[Line], peers: &[Peer]) -> Vec<&'static str> {
    let mut tests: Vec<&'static str> = Vec::new();
    for wanted in COMPARISONS {
        let needed = peers.contains(&wanted.peer) && lines.iter().any(|line| line.id == Some(wanted.ours));
        let test = if wanted.test == "inflight" { "inflight10k" } else { wanted.test };
        if needed && !tests.contains(&test) {
            tests.push(test);
        }
    }
    tests
}

/// Runs the driver for what our lines are held against, and answers its results.
pub fn run(driver: &Path, peers: &[Peer], lines: &[Line], reps: usize) -> Result<Vec<Value>> {
    let tests = tests_for(lines, peers);
    if tests.is_empty() {
        return Ok(Vec::new());
    }
    let state = env::var_os("PEERS_DIR").map_or_else(|| env::temp_dir().join("peers"), PathBuf::from);
    let results = state.join("results.jsonl");
    let before = fs::read_to_string(&results).unwrap_or_default().len();
    let names: Vec<_> = peers.iter().map(|peer| peer.key()).collect();
    let (names, tests, reps) = (names.join(","), tests.join(","), reps.to_string());
    // It starts servers where none run and leaves them to whoever comes next: those are ours to stop.
    let ran_before = state.join("pg/data/postmaster.pid").exists();
    let measured = start_servers(driver, &state).and_then(|()| {
        drive(driver, &state, &["run", "--peers", &names, "--tests", &tests, "--reps", &reps])
    });
    let stopped = if ran_before { Ok(()) } else { drive(driver, &state, &["servers", "stop"]) };
    measured.and(stopped)?;
    let all = fs::read_to_string(&results).with_context(|| format!("no {}", results.display()))?;
    let new = all.get(before..).context("the driver has rewritten its results meanwhile")?;
    let results = new
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("not JSON: {line}")))
        .collect::<Result<Vec<Value>>>()?;
    for failed in results.iter().filter(|result| result["test"] == "ERROR") {
        println!("{} could not be measured: {}", failed["peer"], failed["error"]);
    }
    Ok(results)
}

/// Its servers have fixed ports, one of which a connection of our own may have held until lately.
#[allow(clippy::disallowed_methods)] // they are another program's: there is no signal to wait for
fn start_servers(driver: &Path, state: &Path) -> Result<()> {
    let mut started = drive(driver, state, &["servers", "start"]);
    for _ in 0..PORT_TRIES {
        if started.is_ok() {
            break;
        }
        thread::sleep(PORT_IS_FREE_AFTER / PORT_TRIES);
        started = drive(driver, state, &["servers", "start"]);
    }
    started
}

fn drive(driver: &Path, state: &Path, arguments: &[&str]) -> Result<()> {
    let script = driver.join("run.py");
    let status = Command::new("python3")
        .arg(&script)
        .args(arguments)
        .env("PEERS_DIR", state)
        .status()
        .with_context(|| format!("cannot start python3 {}", script.display()))?;
    if !status.success() {
        bail!(
            "{} {} failed ({status}); does its `setup` have to run first?",
            script.display(),
            arguments.join(" ")
        );
    }
    Ok(())
}

/// Our figures against those of the peers; where a peer was not measured, its line says so.
pub fn compare(ours: &[Line], results: &[Value]) -> Vec<Line> {
    let mut lines = Vec::new();
    for wanted in COMPARISONS {
        let Some(line) = ours.iter().find(|line| line.id == Some(wanted.ours)) else { continue };
        let values = best(wanted, results);
        lines.push(Line { goal: Some(wanted.goal), ..line.clone().against(wanted.peer.name(), &values) });
    }
    lines
}

/// The figures of the peer's best setting.
fn best(wanted: &Comparison, results: &[Value]) -> Vec<f64> {
    let mut settings: Vec<(String, Vec<f64>)> = Vec::new();
    for result in results {
        let is_wanted = result["peer"] == wanted.peer.key()
            && result["test"] == wanted.test
            && wanted.only.is_none_or(|(key, value)| result[key] == value);
        let Some(figure) = result[wanted.figure].as_f64().filter(|_| is_wanted) else { continue };
        let keys = ["conc", "conns", "n", "uvicorn", "celery_c"];
        let setting = keys.map(|key| result[key].to_string()).join(" ");
        match settings.iter_mut().find(|(known, _)| *known == setting) {
            Some((_, figures)) => figures.push(figure),
            None => settings.push((setting, vec![figure])),
        }
    }
    let by_median = |(_, a): &(String, Vec<f64>), (_, b): &(String, Vec<f64>)| {
        let median = |figures: &[f64]| stats::median(figures).unwrap_or(f64::NAN);
        let order = median(a).total_cmp(&median(b));
        if wanted.more { order } else { order.reverse() }
    };
    settings.into_iter().max_by(by_median).map(|(_, figures)| figures).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::report::Verdict;

    fn drain(rate: f64) -> Line {
        Line::new("P2", "drain", "tasks/s", vec![rate]).id("p2")
    }

    #[test]
    fn a_peer_counts_with_the_median_of_its_best_setting() {
        let results = [(24, 40.0), (24, 60.0), (24, 50.0), (500, 70.0), (500, 80.0)]
            .map(|(conc, rate)| json!({"peer": "gw_rust_lq", "test": "drain", "conc": conc, "jobs_s": rate}));
        let lines = compare(&[drain(97.5)], &results);
        assert_eq!(lines.len(), 4, "one for each peer with a goal");
        let ours = &lines[0];
        assert_eq!(ours.against.as_ref().unwrap().median, Some(75.0));
        assert_eq!(ours.verdict(), Verdict::Met, "1.3 ×");
        assert_eq!(lines[1].verdict(), Verdict::Unknown, "not measured");
    }

    #[test]
    fn of_latencies_the_lowest_is_the_best() {
        let line = Line::new("P5", "pick-up", "ms", vec![2.0]).id("p5_p50");
        let results = [3.0, 1.5]
            .map(|p50| json!({"peer": "bullmq", "test": "pickup", "conc": p50 as i64, "p50_ms": p50}));
        let bullmq = compare(&[line], &results);
        let bullmq = bullmq.iter().find(|line| line.against.as_ref().unwrap().name == "BullMQ").unwrap();
        assert_eq!(bullmq.against.as_ref().unwrap().median, Some(1.5));
        assert_eq!(bullmq.verdict(), Verdict::Missed);
    }

    #[test]
    fn results_of_other_settings_tests_and_failures_do_not_count() {
        let line = Line::new("P1", "end to end", "tasks/s", vec![6_000.0]).id("p1_256");
        let results = [
            json!({"peer": "seed", "test": "http", "conns": 32, "e2e_tasks_s": 500.0}),
            json!({"peer": "seed", "test": "http", "conns": 256, "e2e_tasks_s": 100.0}),
            json!({"peer": "seed", "test": "ERROR", "error": "broken"}),
            json!({"peer": "bullmq", "test": "http", "conns": 256, "e2e_tasks_s": 900.0}),
        ];
        assert_eq!(compare(&[line], &results)[0].ratio(), Some(60.0));
    }

    #[test]
    fn only_what_is_compared_is_run() {
        assert_eq!(tests_for(&[drain(1.0)], &[Peer::Bullmq]), ["drain"]);
        assert_eq!(tests_for(&[drain(1.0)], &[Peer::Seeds]), [""; 0]);
        let memory = Line::new("P6", "memory", "MB", vec![1.0]).id("p6_memory");
        assert_eq!(tests_for(&[memory], &[Peer::Pgboss]), ["inflight10k"]);
    }
}
