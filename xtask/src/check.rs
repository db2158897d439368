//! `cargo xtask check`: what to run before every commit.

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::{
    layers, process,
    report::{Count, Report},
    sources,
    workspace::Workspace,
};

/// Runs every step, the quick ones first, whatever the earlier ones came to.
pub(crate) fn run(workspace: &Workspace) -> Result<ExitCode> {
    let mut report = Report::default();
    rules(workspace, &mut report);
    report.part("tests of domain and application", || {
        let mut command = process::cargo();
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

/// What holds for the sources without running them.
pub(crate) fn rules(workspace: &Workspace, report: &mut Report) {
    report.part("layers", || none(&layers::violations(&workspace.metadata)));
    report.part("sources", || none(&sources::violations(workspace)?));
    let lints =
        ["clippy", "--quiet", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"];
    for (name, component, arguments) in
        [("format", "rustfmt", &["fmt", "--all", "--check"][..]), ("lints", "clippy", &lints[..])]
    {
        if has_component(arguments[0]) {
            report.part(name, || {
                process::run(process::cargo().args(arguments).current_dir(&workspace.root))?;
                Ok(Count::ONE)
            });
        } else {
            // A toolchain of the minimal profile builds and tests the product all the same.
            println!(
                "\n{name}: NOT CHECKED, this toolchain has no {component} (rustup component add {component})"
            );
        }
    }
}

fn has_component(command: &str) -> bool {
    let version = process::cargo().args([command, "--version"]).output();
    version.is_ok_and(|output| output.status.success())
}

fn none(violations: &[String]) -> Result<Count> {
    if !violations.is_empty() {
        bail!("{}", violations.join("\n"));
    }
    Ok(Count::ONE)
}
