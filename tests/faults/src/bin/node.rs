//! `faults-node api|worker|standalone`: the product's own process with the rig's task types, and on request with one
//! rule broken.

use anyhow::Result;
use clap::{Parser, ValueEnum};
use faults_tests::{
    mutants::{self, Mutant},
    types,
};
use task_runner::{
    config::{Database, Layers},
    process::{Process, Role},
};

/// A process of the product under test.
#[derive(Debug, Parser)]
struct Cli {
    /// What it does.
    role: NodeRole,
    /// Which rule it breaks.
    #[arg(long)]
    mutant: Option<Mutant>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum NodeRole {
    /// The HTTP API and the upkeep.
    Api,
    /// A worker and the upkeep.
    Worker,
    /// Everything.
    Standalone,
}

#[tokio::main]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    let config = Layers::read(None)?.config()?;
    let role = match cli.role {
        NodeRole::Api => Role::Api,
        NodeRole::Worker => Role::Worker,
        NodeRole::Standalone => Role::Standalone,
    };
    let database = match &config.database {
        Database::Postgres(url) => Some(url.clone()),
        Database::Sqlite(_) => None,
    };
    let mut process = Process::new(config, role).with_types(types::types()?);
    if let Some(mutant) = cli.mutant {
        process = process.with_store(move |store| mutants::break_rule(mutant, store, database.as_deref()));
    }
    process.run().await
}
