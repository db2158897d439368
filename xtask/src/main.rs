//! The project's own commands, `cargo xtask <command>`: one way to check, test and document on every machine.

// A command of the developers: it times its parts, reads the environment and waits for external processes.
#![allow(clippy::disallowed_methods)]

mod bench;
mod check;
mod clients;
mod documents;
mod faults;
mod layers;
mod openapi;
mod platforms;
mod process;
mod report;
mod servers;
mod sources;
mod supervised;
mod test;
mod tools;
mod workspace;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

/// The project's own commands.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The inner loop, under a minute: format, lints, layer rules, tests of the domain and the application
    Check,
    /// Every test: finds (or installs) PostgreSQL, Redis, Node and Python, starts private servers, runs all parts
    Test(test::Options),
    /// The fault rig of docs/reliability.md: kills, freezes and outages against every promise
    Faults(faults::Options),
    /// The benchmarks of docs/performance.md: the product, the plain-SQL limit and other queues in one run
    #[command(disable_help_flag = true)]
    Bench(bench::Options),
    /// Writes docs/openapi.json from the code
    Openapi {
        /// Only compare; fails when the file is stale
        #[arg(long)]
        check: bool,
    },
    /// Only the parts around the OpenAPI document: lint, generated clients, schemathesis
    Clients {
        /// A running server to test, e.g. http://127.0.0.1:8000; without it one is built and started
        #[arg(long)]
        url: Option<String>,
        /// The document to generate from; default docs/openapi.json
        #[arg(long)]
        document: Option<PathBuf>,
        /// Only this part; may be given several times
        #[arg(long, value_enum)]
        part: Vec<clients::Part>,
    },
}

fn main() -> ExitCode {
    let outcome = Workspace::find().and_then(|workspace| match Arguments::parse().command {
        Command::Check => check::run(&workspace),
        Command::Test(options) => test::run(&workspace, &options),
        Command::Faults(options) => faults::run(&workspace, &options),
        Command::Bench(options) => bench::run(&workspace, &options),
        Command::Openapi { check } => openapi::run(&workspace, check),
        Command::Clients { url, document, part } => clients::run(&workspace, url, document, &part),
    });
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
