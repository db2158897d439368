//! `cargo xtask check`: what to run before every commit.

use std::process::{Command, ExitCode};

use anyhow::{Result, bail};

use crate::{
    layers, process,
    report::{Count, Report},
    sources,
    workspace::Workspace,
};

/// Runs every step, the quick ones first, whatever the earlier ones came to.
pub(crate) fn run(workspace: &Workspace) -> Result<ExitCode> {
    let cargo = |arguments: &[&str]| -> Result<Count> {
        process::run(Command::new("cargo").args(arguments).current_dir(&workspace.root))?;
        Ok(Count::ONE)
    };
    let mut report = Report::default();
    report.part("layers", || none(&layers::violations(&workspace.metadata)));
    report.part("sources", || none(&sources::violations(workspace)?));
    report.part("format", || cargo(&["fmt", "--all", "--check"]));
    report.part("lints", || {
        cargo(&["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"])
    });
    report.part("tests of domain and application", || {
        let mut command = Command::new("cargo");
        command.args(["test", "--quiet", "-p", "task-runner-domain", "-p", "task-runner-application"]);
        let mut count = Count::default();
        let command = command.arg("--all-features").current_dir(&workspace.root);
        if !process::watch(command, |line| count.add_line(line))? && count.failed == 0 {
            count.failed = 1;
        }
        Ok(count)
    });
    Ok(report.finish())
}

fn none(violations: &[String]) -> Result<Count> {
    if !violations.is_empty() {
        bail!("{}", violations.join("\n"));
    }
    Ok(Count::ONE)
}
