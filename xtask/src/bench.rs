//! `cargo xtask bench`: builds the product and the benchmarks for release, and starts them.

use std::process::{Command, ExitCode};

use anyhow::Result;
use clap::Args;

use crate::{process, workspace::Workspace};

/// All of them are passed on; `cargo xtask bench --help` tells what there is.
#[derive(Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Options {
    /// Rows such as P1 P4, and options; --help tells them. Or only `pieces`: the rules and codecs, without servers
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
    arguments: Vec<String>,
}

/// Prints the table; fails when something could not be measured.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    if options.arguments == ["pieces"] {
        return pieces(workspace);
    }
    let mut build = process::cargo();
    build.args(["build", "--quiet", "--release", "-p", "task-runner", "-p", "bench-tests", "--bins"]);
    process::run(build.current_dir(&workspace.root))?;
    let mut bench = Command::new(workspace.target.join("release").join("bench"));
    bench.current_dir(&workspace.root).args(&options.arguments);
    let good = process::watch(&bench, |_| ())?;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What is measured inside one process.
fn pieces(workspace: &Workspace) -> Result<ExitCode> {
    let mut bench = process::cargo();
    bench.args(["bench", "--quiet", "--features", "task-runner-application/memory-store"]);
    bench.args(["-p", "task-runner-domain", "--bench", "decisions"]);
    bench.args(["-p", "task-runner-application", "--bench", "submissions"]);
    process::run(bench.current_dir(&workspace.root))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn every_argument_is_passed_on() {
        for arguments in [&["P1", "--quick", "--reps", "3"][..], &["--help"], &["--vs", "seeds", "p2"], &[]] {
            let cli = Cli::try_parse_from([&["bench"], arguments].concat()).unwrap();
            assert_eq!(cli.options.arguments, arguments);
        }
    }
}
