//! `cargo xtask faults`: builds the fault rig and starts it.

use std::process::{Command, ExitCode};

use anyhow::Result;
use clap::Args;

use crate::{process, workspace::Workspace};

/// What to run; see `docs/reliability.md`.
#[derive(Args)]
pub(crate) struct Options {
    /// The counts of the table, with a release build; else counts of seconds
    #[arg(long)]
    full: bool,
    /// Where every random number comes from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only these tests, such as T1,T4; with --mutants, only these mutants
    #[arg(long, value_name = "T1,T4")]
    only: Option<String>,
    /// Show that the rig finds products with a broken rule
    #[arg(long, conflicts_with = "full")]
    mutants: bool,
    /// Skip tests that an earlier run with this seed has passed
    #[arg(long)]
    resume: bool,
}

/// Prints one line per test; fails when a promise was broken.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    let (profile, folder) = if options.full { ("release", "release") } else { ("dev", "debug") };
    let mut build = process::cargo();
    build.args(["build", "--quiet", "-p", "faults-tests", "--bins", "--profile", profile]);
    process::run(build.current_dir(&workspace.root))?;
    let mut rig = Command::new(workspace.target.join(folder).join("faults"));
    rig.current_dir(&workspace.root).args(arguments(options));
    let good = process::watch(&rig, |_| ())?;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn arguments(options: &Options) -> Vec<String> {
    let mut arguments = vec!["--seed".to_owned(), options.seed.to_string()];
    for (set, flag) in
        [(options.full, "--full"), (options.mutants, "--mutants"), (options.resume, "--resume")]
    {
        arguments.extend(set.then(|| flag.to_owned()));
    }
    if let Some(only) = &options.only {
        arguments.extend(["--only".to_owned(), only.clone()]);
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_is_passed_on() {
        let options =
            Options { full: true, seed: 7, only: Some("T1,T4".into()), mutants: false, resume: true };
        assert_eq!(arguments(&options), ["--seed", "7", "--full", "--resume", "--only", "T1,T4"]);
    }
}
