//! `bench`: measures rows of the table in `docs/performance.md`. `cargo xtask bench` builds and starts it.
#![allow(clippy::disallowed_methods)] // a command of the developers: it measures time

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, bail};
use bench_tests::{
    Scale,
    machine::{Machine, flush_time},
    peers::{self, Peer},
    report::{self, Line},
    rig::Rig,
    rows::{Bench, Row},
};
use clap::{Parser, ValueEnum as _};
use serde_json::json;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::Instant,
};

/// Measures the product, the plain-SQL limit and, on request, other queues, in one run on one machine.
///
/// Starts private PostgreSQL and Redis servers on the loopback, with PostgreSQL's own durability and settings (fsync,
/// synchronous_commit and full_page_writes on; max_connections 400), and the product's release binaries with log level
/// `warn`. Each repetition has a fresh database. Prints a table of medians and spreads with the goals, and writes all
/// figures as JSON. TMPDIR says on which disk the databases lie: it should be a real one. Nothing else should run
/// meanwhile.
///
/// `cargo xtask bench pieces` measures the rules and codecs alone (state machine, routing, JSON, submission), in one
/// process and without servers.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask bench")]
struct Cli {
    /// Rows to measure, such as P1 P4 [default: all]
    #[arg(value_enum, ignore_case = true)]
    rows: Vec<Row>,
    /// Repetitions of each measurement; the median counts [default: 3, with --quick 1]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    reps: Option<u16>,
    /// Small counts: shows that everything works, not how fast it is
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// Also what takes long: 5 million waiting, 10 million ended, a snapshot held for ten minutes
    #[arg(long)]
    full: bool,
    /// Where the figures go as JSON
    #[arg(long, value_name = "FILE", default_value = "target/bench.json")]
    out: PathBuf,
    /// The folder of a driver that measures other queues (run.py); its state lies where PEERS_DIR says
    #[arg(long, value_name = "DIR")]
    peers: Option<PathBuf>,
    /// Which of them
    #[arg(long, value_enum, value_delimiter = ',', requires = "peers", default_values_t = Peer::value_variants().to_vec())]
    vs: Vec<Peer>,
}

/// One thread: the generator shares the machine with what it measures.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    let mut terminate = signal(SignalKind::terminate())?;
    // Whatever was started ends with what is dropped here.
    tokio::select! {
        outcome = measure(cli) => outcome,
        _ = tokio::signal::ctrl_c() => bail!("stopped by Ctrl-C"),
        _ = terminate.recv() => bail!("stopped by SIGTERM"),
    }
}

async fn measure(cli: Cli) -> Result<()> {
    let mut rows = cli.rows.clone();
    rows.sort_unstable();
    rows.dedup();
    if rows.is_empty() {
        rows = Row::value_variants().to_vec();
    }
    let reps = cli.reps.map_or(if cli.quick { 1 } else { 3 }, usize::from);
    let bench = Bench { rig: Rig::start()?, scale: Scale { reps, quick: cli.quick, full: cli.full } };
    let machine = Machine::look(&bench.rig).await?;
    println!("{}\n{reps} repetitions{}\n", machine.line(), if cli.quick { ", small counts" } else { "" });

    if let Some(warning) = machine.warning() {
        println!("{warning}\n");
    }

    let (started, mut lines, mut notes, mut failed) =
        (Instant::now(), Vec::<Line>::new(), Vec::new(), Vec::new());
    for row in rows {
        let began = Instant::now();
        let measured = row.measure(&bench).await;
        // A disk that others use meanwhile is the commonest reason for strange figures.
        let seconds = began.elapsed().as_secs_f64();
        let fsync_us = flush_time(bench.rig.folder())?.as_secs_f64() * 1e6;
        println!("{row:?} in {seconds:.0} s; 4 kB flushed in {fsync_us:.0} µs afterwards");
        let error = match measured {
            Ok(measured) => {
                println!("{}", report::table(&measured));
                lines.extend(measured);
                None
            }
            Err(error) => {
                println!("{row:?} could not be measured: {error:#}\n");
                failed.push(format!("{row:?}"));
                Some(format!("{error:#}"))
            }
        };
        let row = format!("{row:?}");
        notes.push(json!({ "row": row, "seconds": seconds, "fsync_us": fsync_us, "error": error }));
    }
    // Their servers are theirs.
    drop(bench);
    let results = match &cli.peers {
        // Ours were measured all the same.
        Some(driver) => peers::run(driver, &cli.vs, &lines, reps).unwrap_or_else(|error| {
            println!("the others could not be measured: {error:#}\n");
            failed.push("the others".to_owned());
            Vec::new()
        }),
        None => Vec::new(),
    };
    let compared = peers::compare(&lines, &results);
    lines.extend(compared);

    println!("{}\n\n{}", machine.line(), report::table(&lines));
    let document = json!({
        "machine": machine,
        "quick": cli.quick,
        "full": cli.full,
        "repetitions": reps,
        "rows": notes,
        "lines": lines.iter().map(Line::to_json).collect::<Vec<_>>(),
        "peers": results,
    });
    if let Some(folder) = cli.out.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(&cli.out, serde_json::to_string_pretty(&document)?)
        .with_context(|| format!("cannot write {}", cli.out.display()))?;
    println!("{} figures in {}; {:.0} s", lines.len(), cli.out.display(), started.elapsed().as_secs_f64());
    if !failed.is_empty() {
        bail!("not measured: {}", failed.join(", "));
    }
    Ok(())
}
