//! The product compiles for the platforms that no test runs on.

use std::{env, process::Command};

use anyhow::{Context as _, Result};

use crate::{
    process,
    report::{Count, Report},
    workspace::Workspace,
};

/// One for each platform; which processor and which linker makes no difference to the sources.
const TARGETS: [(&str, &str); 2] = [("windows", "x86_64-pc-windows-gnu"), ("macos", "aarch64-apple-darwin")];

/// Those of other platforms than this one: here everything is compiled in earnest, C included.
fn others() -> impl Iterator<Item = &'static str> {
    TARGETS.into_iter().filter(|(platform, _)| *platform != env::consts::OS).map(|(_, target)| target)
}

/// Checks the binaries for each of them, where rustup has or can get their standard library.
pub(crate) fn run(workspace: &Workspace, report: &mut Report) {
    let mut install = Command::new("rustup");
    install.args(["target", "add"]).args(others()).current_dir(&workspace.root);
    if let Err(error) = process::output(&mut install) {
        println!("\nWindows and macOS: NOT CHECKED, {error:#}");
        return;
    }
    report.part("compiles for Windows and macOS", || compiles_for_windows_and_macos(workspace));
}

fn compiles_for_windows_and_macos(workspace: &Workspace) -> Result<Count> {
    let mut command = process::cargo();
    command.args(["check", "--quiet", "-p", "task-runner", "--bins"]).current_dir(&workspace.root);
    command.env("RUSTFLAGS", "-D warnings");
    for target in others() {
        command.args(["--target", target]);
        // A check links nothing, so what SQLite and ring have in C is not looked at: `true` does for its compiler.
        for tool in ["CC", "AR"] {
            command.env(format!("{tool}_{}", target.replace('-', "_")), "true");
        }
    }
    process::run(&command).context("the sources do not compile for another platform")?;
    Ok(Count { passed: others().count() as u64, failed: 0 })
}
