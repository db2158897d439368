//! Rules for the committed text that the compiler does not know: files short enough to read in one go, and no path of
//! somebody's machine.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result};

use crate::{process, workspace::Workspace};

/// Lines of a Rust file.
const LIMIT: usize = 600;

/// Longer files, each with the reason why it is better long.
const LONG: [(&str, &str); 0] = [];

/// What the home of a machine looks like. In two pieces, so that this file does not break its own rule.
const HOMES: [&str; 4] =
    [concat!("/ho", "me/"), concat!("/Us", "ers/"), concat!("/ro", "ot/"), concat!("/wo", "rk/")];

/// Every breach, as `file:line: sentence`. Looks at what git tracks and at what it would add.
pub(crate) fn violations(workspace: &Workspace) -> Result<Vec<String>> {
    let mut list = Command::new("git");
    list.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let files = process::output(list.current_dir(&workspace.root))
        .context("the source rules look at the files that git knows")?;
    let mut violations = Vec::new();
    for file in files.split('\0').filter(|file| !file.is_empty()) {
        // A file may be deleted and not yet committed; a picture is no text.
        if let Ok(text) = std::fs::read_to_string(workspace.root.join(file)) {
            violations.extend(breaches(file, &text));
        }
    }
    Ok(violations)
}

fn breaches(file: &str, text: &str) -> Vec<String> {
    let mut breaches = Vec::new();
    let lines = text.lines().count();
    let is_rust = Path::new(file).extension().is_some_and(|extension| extension == "rs");
    if is_rust && lines > LIMIT && !LONG.iter().any(|(long, _)| *long == file) {
        breaches.push(format!("{file}: {lines} lines; split it by verb (the limit is {LIMIT})"));
    }
    for (number, line) in text.lines().enumerate() {
        if let Some(home) = HOMES.iter().find(|home| starts_a_path(line, home)) {
            breaches.push(format!("{file}:{}: a path of one machine ({home}…)", number + 1));
        }
    }
    breaches
}

/// Whether `home` stands where an absolute path begins: `"/x/…`, `=/x/…`, but not `https://host/x/…`.
fn starts_a_path(line: &str, home: &str) -> bool {
    line.match_indices(home).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let within =
            |c: char| c.is_alphanumeric() || matches!(c, '/' | '.' | '-' | '_' | '~' | '$' | '}' | '>' | '*');
        !before.is_some_and(within)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rust_file_may_have_as_many_lines_as_the_limit_and_no_more() {
        assert_eq!(breaches("domain/src/a.rs", &"line\n".repeat(LIMIT)), [""; 0]);
        let found = breaches("domain/src/a.rs", &"line\n".repeat(LIMIT + 1));
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("domain/src/a.rs: 601 lines"), "{found:?}");
        assert_eq!(breaches("docs/openapi.json", &"line\n".repeat(9000)), [""; 0]);
    }

    #[test]
    fn paths_of_a_machine_are_found_and_parts_of_urls_are_not() {
        for home in HOMES {
            for text in [format!("cd {home}me/project"), format!("\"{home}x\""), format!("A={home}x")] {
                assert_eq!(breaches("README.md", &text).len(), 1, "{text}");
            }
            for text in [format!("https://example.org{home}x"), format!("~{home}"), format!("a{home}b")] {
                assert_eq!(breaches("README.md", &text), [""; 0], "{text}");
            }
        }
    }
}
