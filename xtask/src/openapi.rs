//! docs/openapi.json is written by the code and checked in, and so is the table of endpoints in docs/reference.md; stale
//! ones fail the tests.

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};

use crate::{process, workspace::Workspace};

/// Writes the document, or only checks that it is current.
pub(crate) fn run(workspace: &Workspace, check: bool) -> Result<ExitCode> {
    if check {
        self::check(workspace)?;
        println!("docs/openapi.json is current");
    } else {
        let document = generate(workspace)?;
        let reference = reference(workspace, &document)?;
        for (path, text) in [(workspace.document(), document), (workspace.reference(), reference)] {
            std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        println!("wrote docs/openapi.json and the table in docs/reference.md");
    }
    Ok(ExitCode::SUCCESS)
}

/// Fails when the checked-in document is not what the code says, naming the first line that differs.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let path = workspace.document();
    let checked_in = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}: `cargo xtask openapi` writes it", path.display()))?;
    let document = generate(workspace)?;
    if let Some(difference) = first_difference(&checked_in, &document) {
        bail!("docs/openapi.json is stale: run `cargo xtask openapi` and commit it.\n{difference}")
    }
    let checked_in =
        std::fs::read_to_string(workspace.reference()).context("cannot read docs/reference.md")?;
    if let Some(difference) = first_difference(&checked_in, &reference(workspace, &document)?) {
        bail!("docs/reference.md is stale: run `cargo xtask openapi` and commit it.\n{difference}")
    }
    Ok(())
}

/// The reference with every endpoint of this document.
fn reference(workspace: &Workspace, document: &str) -> Result<String> {
    let text = std::fs::read_to_string(workspace.reference()).context("cannot read docs/reference.md")?;
    let document: serde_json::Value = serde_json::from_str(document)?;
    let mut table = String::from("| | |\n|---|---|\n");
    for (path, operations) in document["paths"].as_object().into_iter().flatten() {
        for (method, operation) in operations.as_object().into_iter().flatten() {
            let summary = operation["summary"].as_str().unwrap_or_default();
            table.push_str(&format!("| `{} {path}` | {summary} |\n", method.to_uppercase()));
        }
    }
    with_table(&text, &table).context("docs/reference.md has no place for the endpoints")
}

/// The text with this table between its two marks.
fn with_table(text: &str, table: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}{table}{END}{after}"))
}

const BEGIN: &str = "<!-- endpoints: `cargo xtask openapi` writes this table -->\n";
const END: &str = "<!-- end of endpoints -->";

fn generate(workspace: &Workspace) -> Result<String> {
    workspace.build_binaries()?;
    let mut command = Command::new(workspace.binary("task-runner"));
    let text = process::output(command.arg("openapi").current_dir(&workspace.root))?;
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
    fn the_table_is_put_between_its_marks() {
        let text = format!("a\n{BEGIN}old\n{END}\nz\n");
        assert_eq!(with_table(&text, "new\n"), Some(format!("a\n{BEGIN}new\n{END}\nz\n")));
        assert_eq!(with_table("no marks", "new\n"), None);
    }

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
