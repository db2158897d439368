//! `bench-node api|worker`: the product's own process with the task types that measure ([`bench_tests::types`]).

use anyhow::Result;
use bench_tests::types;
use clap::{Parser, ValueEnum};
use task_runner::{
    config::Layers,
    process::{Process, Role},
};

/// A process of the product under measurement.
#[derive(Debug, Parser)]
struct Cli {
    /// What it does.
    role: NodeRole,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum NodeRole {
    /// The HTTP API and the upkeep.
    Api,
    /// A worker and the upkeep.
    Worker,
}

#[tokio::main]
async fn main() -> Result<()> {
    let role = match Cli::parse().role {
        NodeRole::Api => Role::Api,
        NodeRole::Worker => Role::Worker,
    };
    Process::new(Layers::read(None)?.config()?, role).with_types(types::types()).run().await
}
