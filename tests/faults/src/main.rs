//! `faults`: runs tests of the table in `docs/reliability.md` and tells what each did and found. `cargo xtask faults`
//! builds and starts it.
#![allow(clippy::disallowed_methods)] // a command of the developers: it times its parts and writes files

mod kept;

use std::{panic::AssertUnwindSafe, process::ExitCode, time::Instant};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use faults_tests::{
    Finding, Scale,
    mutants::Mutant,
    runs::{self, Run},
};
use futures_util::FutureExt as _;

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

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    let good = if cli.mutants { find_mutants(&cli).await? } else { find_faults(&cli).await? };
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn find_faults(cli: &Cli) -> Result<bool> {
    let mut chosen: Vec<&Run> = Vec::new();
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
    let started = Instant::now();
    let mut broken = Vec::new();
    for run in chosen {
        if cli.resume
            && let Some(kept) = kept::read(run.name, &scale)?
        {
            tell(run.name, &kept.finding, kept.seconds, " (from an earlier run)");
            continue;
        }
        let began = Instant::now();
        let finding = safely(run, scale).await;
        let seconds = began.elapsed().as_secs_f64();
        tell(run.name, &finding, seconds, "");
        if finding.violations.is_empty() {
            kept::write(run.name, &scale, &finding, seconds)?;
        } else {
            broken.push(run.name);
        }
    }
    let minutes = started.elapsed().as_secs_f64() / 60.0;
    match &*broken {
        [] => println!("all promises held; {minutes:.1} min, seed {}", cli.seed),
        some => println!("promises were broken in {}; {minutes:.1} min, seed {}", some.join(", "), cli.seed),
    }
    Ok(broken.is_empty())
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
    let mut missed = 0;
    for mutant in &chosen {
        let run = runs::find(mutant.caught_by()).context("a mutant names a run")?;
        let began = Instant::now();
        let finding = safely(run, Scale { full: false, seed: cli.seed, mutant: Some(*mutant) }).await;
        let proof = finding.violations.iter().find(|violation| violation.starts_with(mutant.shows_as()));
        let (verdict, why) = match proof {
            Some(violation) => ("caught", violation.as_str()),
            None => ("MISSED", finding.violations.first().map_or("no violation", String::as_str)),
        };
        missed += usize::from(proof.is_none());
        let seconds = began.elapsed().as_secs_f64();
        println!("{verdict} {:<24} by {:<4} {seconds:>5.1} s  {}", mutant.name(), run.name, mutant.what());
        println!("       {}", why.lines().next().unwrap_or_default());
    }
    println!("{} of {} mutants caught", chosen.len() - missed, chosen.len());
    Ok(missed == 0)
}

/// Runs it; an error or a panic of the run is a violation like any other.
async fn safely(run: &Run, scale: Scale) -> Finding {
    let failure = |why: String| Finding {
        done: run.what.to_owned(),
        found: "the run did not end".to_owned(),
        violations: vec![why],
    };
    match AssertUnwindSafe((run.start)(scale)).catch_unwind().await {
        Ok(Ok(finding)) => finding,
        Ok(Err(error)) => failure(format!("error: {error:#}")),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            failure(format!("panic: {}", text.unwrap_or("(without a message)")))
        }
    }
}

fn tell(name: &str, finding: &Finding, seconds: f64, remark: &str) {
    let verdict = if finding.violations.is_empty() { "ok" } else { "BROKEN" };
    println!("{name:<4} {verdict:<6} {seconds:>6.1} s{remark}  {} → {}", finding.done, finding.found);
    for violation in &finding.violations {
        println!("       {violation}");
    }
}
