//! The programs that tests need: found on this machine, or installed where that is one command.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{process, servers, supervised};

/// A program that tests need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tool {
    /// `initdb`, `postgres` and `pg_isready`, version 15 or later.
    Postgres,
    /// `redis-server`, version 7 or later.
    Redis,
    /// `node`, version 20.15 or later.
    Node,
    /// `npm`
    Npm,
    /// `chromedriver`, and the Chromium that it drives.
    Browser,
    /// `python3`, version 3.11 or later, with its module venv.
    Python,
}

impl Tool {
    fn debian_package(self) -> &'static str {
        match self {
            Self::Postgres => "postgresql",
            Self::Redis => "redis-server",
            Self::Node => "nodejs",
            Self::Npm => "npm",
            Self::Browser => "chromium-driver",
            Self::Python => "python3-venv",
        }
    }

    fn brew_package(self) -> &'static str {
        match self {
            Self::Postgres => "postgresql@17",
            Self::Redis => "redis",
            Self::Node | Self::Npm => "node",
            Self::Browser => "chromedriver",
            Self::Python => "python",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Postgres => "PostgreSQL 15 or later",
            Self::Redis => "redis-server 7 or later",
            Self::Node => "Node 20.15 or later",
            Self::Npm => "npm",
            Self::Browser => "chromedriver with Chromium or Chrome",
            Self::Python => "Python 3.11 or later with venv",
        }
    }

    /// Where it is: the program, or for PostgreSQL the directory of its programs.
    fn find(self, home: &Path) -> Option<PathBuf> {
        match self {
            Self::Postgres => postgres_directories().into_iter().find(|bin| {
                ["initdb", "postgres", "pg_isready"].iter().all(|name| bin.join(name).is_file())
                    && version(&bin.join("postgres"), "--version").is_some_and(|found| found >= (15, 0))
                    && (supervised::is_open_to_all(bin) || !servers::is_root().unwrap_or(false))
            }),
            Self::Redis => on_path("redis-server", |program| {
                version(program, "--version").is_some_and(|found| found >= (7, 0))
            }),
            Self::Node => {
                let suits = |program: &Path| version(program, "--version").is_some_and(|at| at >= NODE);
                on_path("node", suits).or_else(|| Some(own_node(home)).filter(|program| suits(program)))
            }
            Self::Npm => on_path("npm", |program| version(program, "--version").is_some()),
            Self::Browser => on_path("chromedriver", |program| version(program, "--version").is_some()),
            Self::Python => on_path("python3", |program| {
                let modules = ["-c", "import ensurepip, venv"];
                version(program, "--version").is_some_and(|found| found >= (3, 11))
                    && process::output(Command::new(program).args(modules)).is_ok()
            }),
        }
    }
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Tools {
    found: Vec<(Tool, PathBuf)>,
}

impl Tools {
    /// Where a tool is that was asked for.
    pub(crate) fn path(&self, tool: Tool) -> Result<&Path> {
        let found = self.found.iter().find(|(found, _)| *found == tool);
        found.map(|(_, path)| path.as_path()).with_context(|| format!("{} was not looked for", tool.name()))
    }
}

/// What a search for tools came to.
pub(crate) enum Search {
    /// All are there.
    Complete(Tools),
    /// Some are not, and a person has to do something about it: the text says what.
    Incomplete(String),
}

/// What the OpenAI-compatible test server runs on.
const NODE: (u32, u32) = (20, 15);

/// What is fetched where the system's Node is older than that, as Debian 12's is: npm has it as a package.
const NODE_PACKAGE: &str = "node@22.23.3";

/// Finds `wanted`; installs what is missing with apt as root (or, when `install` says so, through sudo). `home` keeps
/// what is not installed on the machine but for this checkout alone.
pub(crate) fn find(wanted: &[Tool], install: bool, home: &Path) -> Result<Search> {
    let mut missing = missing(wanted, home);
    if missing.contains(&Tool::Node) && fetch_node(home)? {
        missing.retain(|tool| *tool != Tool::Node);
    }
    if !missing.is_empty() {
        let apt = on_path("apt-get", |_| true).is_some();
        let root = servers::is_root()?;
        if !(apt && (root || install)) {
            return Ok(Search::Incomplete(advice(&missing, apt)));
        }
        apt_install(&missing, root)?;
        if Tool::Node.find(home).is_none() && wanted.contains(&Tool::Node) {
            fetch_node(home)?;
        }
    }
    let mut tools = Tools::default();
    for tool in wanted {
        let Some(path) = tool.find(home) else {
            return Ok(Search::Incomplete(format!(
                "this machine's packages have no {}: install it by hand",
                tool.name()
            )));
        };
        tools.found.push((*tool, path));
    }
    Ok(Search::Complete(tools))
}

fn missing(wanted: &[Tool], home: &Path) -> Vec<Tool> {
    wanted.iter().copied().filter(|tool| tool.find(home).is_none()).collect()
}

fn own_node(home: &Path) -> PathBuf {
    home.join("node_modules/node/bin/node")
}

/// Gets a Node of our own where there is an npm to get it with; answers whether there is one now.
fn fetch_node(home: &Path) -> Result<bool> {
    let Some(npm) = Tool::Npm.find(home) else { return Ok(false) };
    println!(
        "this machine's Node is too old for the tests: fetching {NODE_PACKAGE} into the target directory"
    );
    std::fs::create_dir_all(home).with_context(|| format!("cannot create {}", home.display()))?;
    let mut command = Command::new(npm);
    command.args(["install", "--no-audit", "--no-fund", "--prefix"]).arg(home).arg(NODE_PACKAGE);
    process::output(&mut command).context("cannot fetch a Node from npm")?;
    Ok(Tool::Node.find(home).is_some())
}

/// What is missing and the one line that installs it.
fn advice(missing: &[Tool], apt: bool) -> String {
    let mut names: Vec<&str> = missing.iter().map(|tool| tool.name()).collect();
    names.dedup();
    let missing_names = names.join(", ");
    let line = if apt {
        let packages: Vec<&str> = missing.iter().map(|tool| tool.debian_package()).collect();
        let line = format!("sudo apt-get update && sudo apt-get install -y {}", packages.join(" "));
        format!("{line}\nor let `cargo xtask test --install` do it")
    } else if on_path("brew", |_| true).is_some() {
        let mut packages: Vec<&str> = missing.iter().map(|tool| tool.brew_package()).collect();
        packages.dedup();
        format!("brew install {}", packages.join(" "))
    } else {
        return format!("the tests need {missing_names}: install them with this system's package manager");
    };
    format!("the tests need {missing_names}; run\n  {line}")
}

fn apt_install(missing: &[Tool], root: bool) -> Result<()> {
    let packages: Vec<&str> = missing.iter().map(|tool| tool.debian_package()).collect();
    println!("installing {}", packages.join(", "));
    let apt = |arguments: &[&str]| -> Result<()> {
        let mut command = Command::new(if root { "env" } else { "sudo" });
        if !root {
            command.arg("env");
        }
        command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]).args(arguments);
        process::output(&mut command).map(drop)
    };
    apt(&["update"]).context("cannot read the package lists")?;
    let mut arguments = vec!["install", "-y", "--no-install-recommends"];
    arguments.extend(packages);
    apt(&arguments).context("cannot install what the tests need")
}

fn on_path(name: &str, suits: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|directory| directory.join(name)).find(|file| file.is_file() && suits(file))
}

/// Where PostgreSQL's server programs may be: Debian, Red Hat and Homebrew keep them off the PATH. Newest first.
fn postgres_directories() -> Vec<PathBuf> {
    let mut directories: Vec<PathBuf> = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect();
    for (parent, prefix) in [
        ("/usr/lib/postgresql", ""),
        ("/usr", "pgsql-"),
        ("/opt/homebrew/opt", "postgresql"),
        ("/usr/local/opt", "postgresql"),
    ] {
        let Ok(entries) = std::fs::read_dir(parent) else { continue };
        let mut found: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)))
            .map(|path| path.join("bin"))
            .collect();
        found.sort();
        directories.extend(found.into_iter().rev());
    }
    directories
}

fn version(program: &Path, flag: &str) -> Option<(u32, u32)> {
    parse_version(&process::output(Command::new(program).arg(flag)).ok()?)
}

/// The first number, as `15.18` in `postgres (PostgreSQL) 15.18 (Debian 15.18-0)`.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    text.split(|c: char| !c.is_ascii_digit() && c != '.').find_map(|number| {
        let mut parts = number.split('.');
        let major = parts.next()?.parse().ok()?;
        Some((major, parts.next().and_then(|minor| minor.parse().ok()).unwrap_or(0)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_the_programs_print() {
        for (text, expected) in [
            ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", Some((15, 18))),
            ("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64", Some((7, 0))),
            ("v20.20.2\n", Some((20, 20))),
            ("10.8.2\n", Some((10, 8))),
            ("Python 3.11.7\n", Some((3, 11))),
            ("postgres (PostgreSQL) 19beta1", Some((19, 0))),
            ("no version here", None),
        ] {
            assert_eq!(parse_version(text), expected, "{text}");
        }
    }

    #[test]
    fn the_advice_is_one_line_to_run() {
        let text = advice(&[Tool::Postgres, Tool::Node], true);
        let line = "\n  sudo apt-get update && sudo apt-get install -y postgresql nodejs\n";
        assert!(text.contains("PostgreSQL 15 or later, Node 20.15 or later"), "{text}");
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn a_tool_that_was_not_looked_for_is_an_error_that_names_it() {
        let error = Tools::default().path(Tool::Redis).unwrap_err().to_string();
        assert!(error.contains("redis-server"), "{error}");
    }
}
