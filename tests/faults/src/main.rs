//! `faults`: runs tests of the table in `docs/reliability.md` and tells what each did and found. `cargo xtask faults`
//! builds and starts it.
#![allow(clippy::disallowed_methods)] // a command of the developers: it times its parts and writes files

mod kept;

use std::{process::ExitCode, time::Instant};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use faults_tests::{
    Finding, Scale,
    mutants::Mutant,
    runs::{self, Hunt, Run},
};
use futures_util::{StreamExt as _, TryStreamExt as _, future::try_join, stream};

/// The fault rig.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask faults")]
struct Cli {
    /// The counts of the table; else counts of seconds
    #[arg(long)]
    full: bool,
    /// Where every random number comes from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only these tests, such as T1,T4
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Show that the rig finds products with a broken rule (--only names mutants)
    #[arg(long, conflicts_with = "full")]
    mutants: bool,
    /// Skip tests that an earlier run with this seed has passed
    #[arg(long)]
    resume: bool,
}

/// At full count it mostly waits, for half an hour: the others run beside it.
const BESIDE_OTHERS: &str = "T18";

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    let good = if cli.mutants { find_mutants(&cli).await? } else { find_faults(&cli).await? };
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn find_faults(cli: &Cli) -> Result<bool> {
    let mut chosen: Vec<&'static Run> = Vec::new();
    for name in &cli.only {
        chosen.push(runs::find(name).with_context(|| {
            let known: Vec<_> = runs::ALL.iter().map(|run| run.name).collect();
            format!("there is no test {name:?}; there are {}", known.join(", "))
        })?);
    }
    if chosen.is_empty() {
        chosen.extend(runs::ALL);
    }
    let scale = Scale { full: cli.full, seed: cli.seed, mutant: None };
    let (started, resume) = (Instant::now(), cli.resume);
    let (beside, others): (Vec<_>, Vec<_>) =
        chosen.into_iter().partition(|run| scale.full && run.name == BESIDE_OTHERS);
    let in_turn = async |runs: Vec<&'static Run>| {
        let mut broken = Vec::new();
        for run in runs {
            if !find_in(run, scale, resume).await? {
                broken.push(run.name);
            }
        }
        anyhow::Ok(broken)
    };
    let (mut broken, beside) = try_join(in_turn(others), in_turn(beside)).await?;
    broken.extend(beside);
    let minutes = started.elapsed().as_secs_f64() / 60.0;
    match &*broken {
        [] => println!("all promises held; {minutes:.1} min, seed {}", cli.seed),
        some => println!("promises were broken in {}; {minutes:.1} min, seed {}", some.join(", "), cli.seed),
    }
    Ok(broken.is_empty())
}

/// Does one run, unless an earlier one has passed it, and tells what it found; answers whether all promises held.
async fn find_in(run: &'static Run, scale: Scale, resume: bool) -> Result<bool> {
    if resume && let Some(kept) = kept::read(run.name, &scale)? {
        tell(run.name, &kept.finding, kept.seconds, " (from an earlier run)");
        return Ok(true);
    }
    let began = Instant::now();
    let finding = run.finding(scale).await;
    let seconds = began.elapsed().as_secs_f64();
    tell(run.name, &finding, seconds, "");
    let held = finding.violations.is_empty();
    if held {
        kept::write(run.name, &scale, &finding, seconds)?;
    }
    Ok(held)
}

async fn find_mutants(cli: &Cli) -> Result<bool> {
    let mut chosen: Vec<Mutant> = Mutant::all().to_vec();
    if !cli.only.is_empty() {
        chosen.retain(|mutant| cli.only.contains(&mutant.name()));
        if chosen.len() != cli.only.len() {
            let known: Vec<_> = Mutant::all().iter().map(|mutant| mutant.name()).collect();
            bail!("--only names mutants here: {}", known.join(", "));
        }
    }
    let hunts: Vec<Hunt> = stream::iter(chosen.iter().map(|mutant| async {
        let hunt = runs::hunt(*mutant, cli.seed).await;
        if let Ok(Hunt { mutant, caught, proof }) = &hunt {
            let verdict = if *caught { "caught" } else { "MISSED" };
            println!("{verdict} {:<18} by {:<4} {}", mutant.name(), mutant.caught_by(), mutant.what());
            println!("       {proof}");
        }
        hunt
    }))
    // A hunt mostly waits.
    .buffer_unordered(3)
    .try_collect()
    .await?;
    let caught = hunts.iter().filter(|hunt| hunt.caught).count();
    println!("{caught} of {} mutants caught", hunts.len());
    Ok(caught == hunts.len())
}

fn tell(name: &str, finding: &Finding, seconds: f64, remark: &str) {
    let verdict = if finding.violations.is_empty() { "ok" } else { "BROKEN" };
    println!("{name:<4} {verdict:<6} {seconds:>6.1} s{remark}  {} → {}", finding.done, finding.found);
    for violation in &finding.violations {
        println!("       {violation}");
    }
}
