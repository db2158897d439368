//! Which layer may know which: bin → adapters → application → domain. Read from the manifests; dependencies of tests
//! are free.

use serde_json::Value;

/// A package's place in the house, by the folder that its manifest is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layer {
    Domain,
    Application,
    Adapter,
    Bin,
    Tests,
    Xtask,
}

impl Layer {
    fn of(folder: &str) -> Option<Self> {
        Some(match folder.split('/').next()? {
            "domain" => Self::Domain,
            "application" => Self::Application,
            "adapters" => Self::Adapter,
            "bin" => Self::Bin,
            "tests" => Self::Tests,
            "xtask" => Self::Xtask,
            _ => return None,
        })
    }

    fn may_know(self, other: Self) -> bool {
        match self {
            Self::Domain | Self::Xtask => false,
            Self::Application => other == Self::Domain,
            Self::Adapter => matches!(other, Self::Domain | Self::Application),
            Self::Bin => matches!(other, Self::Domain | Self::Application | Self::Adapter),
            Self::Tests => other != Self::Xtask,
        }
    }
}

/// A family of third-party crates, by the first word of their names, and the folders that may use it.
const FAMILIES: [(&str, &[&str]); 8] = [
    ("tokio", &["application", "adapters", "bin", "tests"]),
    ("rand", &["application", "adapters", "bin", "tests"]),
    ("poem", &["adapters/http", "bin", "tests"]),
    ("sqlx", &["adapters/postgres", "adapters/sqlite", "bin", "tests"]),
    ("redis", &["adapters/redis", "bin", "tests"]),
    ("bb8", &["adapters/redis", "bin", "tests"]),
    ("reqwest", &["adapters/outbound", "adapters/providers", "bin", "tests"]),
    ("anyhow", &["bin", "tests", "xtask"]),
];

/// Every dependency that points the wrong way, as a sentence. `metadata` is `cargo metadata --no-deps`.
pub(crate) fn violations(metadata: &Value) -> Vec<String> {
    let root = metadata["workspace_root"].as_str().unwrap_or_default();
    let packages: Vec<(&str, &Value)> = metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|package| Some((folder(root, package["manifest_path"].as_str()?)?, package)))
        .collect();

    let mut violations = Vec::new();
    for (folder, package) in &packages {
        let Some(layer) = Layer::of(folder) else {
            violations.push(format!("{folder}: not a layer: docs/architecture.md names the folders"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            if dependency["kind"] == "dev" {
                continue;
            }
            let name = dependency["name"].as_str().unwrap_or_default();
            let other = packages.iter().find(|(_, other)| other["name"] == name);
            if let Some((other_folder, _)) = other {
                if !Layer::of(other_folder).is_some_and(|other| layer.may_know(other)) {
                    violations.push(format!(
                        "{folder}/Cargo.toml: {folder} must not depend on {other_folder} ({name})"
                    ));
                }
                continue;
            }
            let family = name.split(['-', '_']).next().unwrap_or_default();
            let rule = FAMILIES.iter().find(|(banned, _)| *banned == family);
            if let Some((_, allowed)) =
                rule.filter(|(_, allowed)| !allowed.iter().any(|at| is_in(folder, at)))
            {
                violations
                    .push(format!("{folder}/Cargo.toml: {name} belongs to {} only", allowed.join(", ")));
            }
        }
    }
    violations
}

/// `adapters/http` for the manifest `<root>/adapters/http/Cargo.toml`.
fn folder<'a>(root: &str, manifest: &'a str) -> Option<&'a str> {
    manifest.strip_prefix(root)?.strip_prefix('/')?.strip_suffix("/Cargo.toml")
}

fn is_in(folder: &str, at: &str) -> bool {
    folder == at || folder.strip_prefix(at).is_some_and(|rest| rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The name of a dependency and its kind.
    type Edge<'a> = (&'a str, Option<&'a str>);

    /// A workspace of these packages: folder, and what it depends on. A package's name is its folder with dashes.
    fn workspace(packages: &[(&str, &[Edge])]) -> Value {
        let packages: Vec<Value> = packages
            .iter()
            .map(|(folder, dependencies)| {
                let dependencies: Vec<Value> = dependencies
                    .iter()
                    .map(|(name, kind)| json!({"name": name.replace('/', "-"), "kind": kind}))
                    .collect();
                json!({
                    "name": folder.replace('/', "-"),
                    "manifest_path": format!("/house/{folder}/Cargo.toml"),
                    "dependencies": dependencies,
                })
            })
            .collect();
        json!({"workspace_root": "/house", "packages": packages})
    }

    const HOUSE: [&str; 7] =
        ["domain", "application", "adapters/http", "adapters/sqlite", "bin", "tests/e2e", "xtask"];

    /// What happens when `folder` depends on `other` in a house where nobody else depends on anything.
    fn edge(folder: &str, other: &str, kind: Option<&str>) -> Vec<String> {
        let dependencies = [(other, kind)];
        let packages: Vec<(&str, &[Edge])> =
            HOUSE.iter().map(|at| (*at, if *at == folder { &dependencies[..] } else { &[][..] })).collect();
        violations(&workspace(&packages))
    }

    #[test]
    fn what_points_inwards_is_allowed() {
        for (folder, other) in [
            ("application", "domain"),
            ("adapters/http", "domain"),
            ("adapters/http", "application"),
            ("bin", "adapters/sqlite"),
            ("bin", "domain"),
            ("tests/e2e", "bin"),
            ("tests/e2e", "adapters/http"),
            ("domain", "serde"),
            ("application", "tokio-util"),
            ("adapters/http", "poem-openapi"),
            ("adapters/sqlite", "sqlx"),
            ("xtask", "anyhow"),
        ] {
            assert_eq!(edge(folder, other, None), [""; 0], "{folder} → {other}");
        }
    }

    #[test]
    fn what_points_outwards_is_refused_with_both_names() {
        for (folder, other) in [
            ("domain", "application"),
            ("application", "adapters/http"),
            ("adapters/http", "adapters/sqlite"),
            ("adapters/http", "bin"),
            ("bin", "tests/e2e"),
            ("xtask", "domain"),
            ("tests/e2e", "xtask"),
            ("domain", "tokio"),
            ("domain", "rand"),
            ("domain", "anyhow"),
            ("application", "sqlx"),
            ("application", "poem-openapi"),
            ("application", "bb8-redis"),
            ("application", "reqwest"),
            ("adapters/http", "sqlx"),
            ("adapters/sqlite", "redis"),
            ("xtask", "tokio"),
        ] {
            let found = edge(folder, other, None);
            assert_eq!(found.len(), 1, "{folder} → {other}: {found:?}");
            assert!(found[0].contains(folder) && found[0].contains(&other.replace('/', "-")), "{found:?}");
        }
    }

    #[test]
    fn build_dependencies_count_and_dependencies_of_tests_do_not() {
        assert_eq!(edge("domain", "tokio", Some("build")).len(), 1);
        assert_eq!(edge("domain", "tokio", Some("dev")), [""; 0]);
        assert_eq!(edge("adapters/http", "adapters/sqlite", Some("dev")), [""; 0]);
    }

    #[test]
    fn a_package_outside_the_known_folders_is_named() {
        let found = violations(&workspace(&[("utilities/misc", &[])]));
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("utilities/misc"), "{found:?}");
    }
}
