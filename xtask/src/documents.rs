//! What the documents promise about the sources: the tests that docs/coverage.md names exist, and links lead somewhere.

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::Path, process::Command};

    use crate::{process, workspace::Workspace};

    /// The files with this ending that git knows, with their texts.
    fn files(workspace: &Workspace, ending: &str) -> Vec<(String, String)> {
        let mut list = Command::new("git");
        list.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
        let files = process::output(list.current_dir(&workspace.root)).expect("git knows the files");
        let named = files.split('\0').filter(|file| file.ends_with(ending));
        named
            .filter_map(|file| {
                Some((file.to_owned(), std::fs::read_to_string(workspace.root.join(file)).ok()?))
            })
            .collect()
    }

    /// The texts between two marks of one line, outside of code that spans lines.
    fn between<'a>(text: &'a str, begin: &'a str, end: char) -> impl Iterator<Item = &'a str> {
        let mut fenced = false;
        let outside = text.lines().filter(move |line| {
            let fence = line.trim_start().starts_with("```");
            fenced ^= fence;
            !fenced && !fence
        });
        outside.flat_map(move |line| {
            line.split(begin).skip(1).filter_map(move |rest| Some(rest.split_once(end)?.0))
        })
    }

    #[test]
    fn every_test_that_the_coverage_names_exists() {
        let workspace = Workspace::find().expect("a workspace");
        let coverage =
            std::fs::read_to_string(workspace.root.join("docs/coverage.md")).expect("docs/coverage.md");
        let sources = files(&workspace, ".rs");
        let defined: BTreeSet<&str> =
            sources.iter().flat_map(|(_, text)| between(text, "fn ", '(')).collect();
        let is_function =
            |name: &str| name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        let is_test = |name: &&str| name.matches('_').count() >= 2 && is_function(name);
        let quoted = coverage.split('`').skip(1).step_by(2).filter(|name| !name.ends_with("_seconds"));
        let missing: Vec<_> = quoted.filter(is_test).filter(|name| !defined.contains(name)).collect();
        assert!(missing.is_empty(), "docs/coverage.md names tests that are gone: {missing:?}");
    }

    #[test]
    fn every_link_between_documents_leads_somewhere() {
        let workspace = Workspace::find().expect("a workspace");
        let mut broken = Vec::new();
        for (file, text) in files(&workspace, ".md") {
            let folder = Path::new(&file).parent().unwrap_or(Path::new(""));
            for link in between(&text, "](", ')') {
                let path = link.split('#').next().unwrap_or_default();
                let elsewhere = path.contains("://") || path.starts_with("mailto:") || path.is_empty();
                if !elsewhere && !workspace.root.join(folder).join(path).exists() {
                    broken.push(format!("{file}: {link}"));
                }
            }
        }
        assert!(broken.is_empty(), "links that lead nowhere:\n{}", broken.join("\n"));
    }
}
