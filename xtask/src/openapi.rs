//! docs/openapi.json is written by the code and checked in; a stale one fails the tests.

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};

use crate::{process, workspace::Workspace};

/// Writes the document, or only checks that it is current.
pub(crate) fn run(workspace: &Workspace, check: bool) -> Result<ExitCode> {
    if check {
        self::check(workspace)?;
        println!("docs/openapi.json is current");
    } else {
        let path = workspace.document();
        std::fs::write(&path, generate(workspace)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
        println!("wrote docs/openapi.json");
    }
    Ok(ExitCode::SUCCESS)
}

/// Fails when the checked-in document is not what the code says, naming the first line that differs.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let path = workspace.document();
    let checked_in = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}: `cargo xtask openapi` writes it", path.display()))?;
    match first_difference(&checked_in, &generate(workspace)?) {
        None => Ok(()),
        Some(difference) => {
            bail!("docs/openapi.json is stale: run `cargo xtask openapi` and commit it.\n{difference}")
        }
    }
}

fn generate(workspace: &Workspace) -> Result<String> {
    let mut command = Command::new("cargo");
    command.args(["run", "--quiet", "-p", "task-runner", "--bin", "task-runner", "--", "openapi"]);
    let text = process::output(command.current_dir(&workspace.root))?;
    serde_json::from_str::<serde_json::Value>(&text).context("`task-runner openapi` did not print JSON")?;
    Ok(format!("{}\n", text.trim_end()))
}

/// `None` when both hold the same lines.
fn first_difference(checked_in: &str, generated: &str) -> Option<String> {
    if checked_in == generated {
        return None;
    }
    let (mut old, mut new) = (checked_in.lines(), generated.lines());
    for number in 1.. {
        let pair = (old.next(), new.next());
        if pair.0 != pair.1 || pair.0.is_none() {
            let show = |line: Option<&str>| line.unwrap_or("(end of the document)").to_owned();
            return Some(format!(
                "first difference, line {number}:\n  checked in: {}\n  generated:  {}",
                show(pair.0),
                show(pair.1)
            ));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_differing_line_is_named() {
        assert_eq!(first_difference("a\nb\n", "a\nb\n"), None);
        let text = first_difference("a\nb\nc\n", "a\nx\nc\n").unwrap();
        assert!(text.contains("line 2") && text.contains("checked in: b") && text.contains("generated:  x"));
        let text = first_difference("a\n", "a\nb\n").unwrap();
        assert!(text.contains("line 2") && text.contains("(end of the document)"), "{text}");
        assert!(first_difference("a", "a\n").is_some(), "a missing line end at the end of the file counts");
    }
}
