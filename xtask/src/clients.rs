//! The OpenAPI document as a client sees it: linted, turned into clients that run a task to its end, and fuzzed.
//! Everything generated goes below the target directory.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::{
    process,
    report::{Count, Report},
    servers::Product,
    tools::{self, Search, Tool, Tools},
    workspace::Workspace,
};

/// One part of the client tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// redocly lints the document
    Lint,
    /// A generated Python client: submit, watch, result
    Python,
    /// A generated TypeScript client: submit, watch, result
    Typescript,
    /// schemathesis looks for server errors and for answers that the document does not describe
    Schemathesis,
}

impl Part {
    /// All, in the order in which they run: schemathesis last, because it leaves tasks behind.
    pub(crate) const ALL: [Self; 4] = [Self::Lint, Self::Python, Self::Typescript, Self::Schemathesis];

    /// What the report calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Lint => "openapi document, linted",
            Self::Python => "python client",
            Self::Typescript => "typescript client",
            Self::Schemathesis => "schemathesis",
        }
    }

    /// What it needs on the machine.
    pub(crate) fn tools(self) -> &'static [Tool] {
        match self {
            Self::Lint | Self::Typescript => &[Tool::Node, Tool::Npm],
            Self::Python | Self::Schemathesis => &[Tool::Python],
        }
    }

    /// Whether it talks to a running server.
    pub(crate) fn needs_server(self) -> bool {
        self != Self::Lint
    }
}

/// `cargo xtask clients`: these parts alone, against a server that is given or started here.
pub(crate) fn run(
    workspace: &Workspace,
    url: Option<String>,
    document: Option<PathBuf>,
    parts: &[Part],
) -> Result<ExitCode> {
    let parts = if parts.is_empty() { &Part::ALL[..] } else { parts };
    let wanted = wanted_tools(parts);
    let tools = match tools::find(&wanted, false, &workspace.tools())? {
        Search::Complete(tools) => tools,
        Search::Incomplete(advice) => {
            eprintln!("{advice}");
            return Ok(ExitCode::from(2));
        }
    };
    let document = match document {
        Some(path) => fs::canonicalize(&path).with_context(|| format!("cannot read {}", path.display()))?,
        None => workspace.document(),
    };
    let clients = Clients { workspace, tools: &tools, document };
    clients.install(parts)?;
    let mut report = Report::default();
    if url.is_none() && parts.iter().any(|part| part.needs_server()) {
        workspace.build_binaries()?;
    }
    clients.run_parts(&mut report, parts, url);
    Ok(report.finish())
}

/// The tools of several parts, each once.
pub(crate) fn wanted_tools(parts: &[Part]) -> Vec<Tool> {
    let mut wanted = Vec::new();
    for tool in parts.iter().flat_map(|part| part.tools()) {
        if !wanted.contains(tool) {
            wanted.push(*tool);
        }
    }
    wanted
}

/// What the parts work with.
pub(crate) struct Clients<'a> {
    /// This checkout.
    pub(crate) workspace: &'a Workspace,
    /// The machine's tools.
    pub(crate) tools: &'a Tools,
    /// The OpenAPI document.
    pub(crate) document: PathBuf,
}

impl Clients<'_> {
    /// Fetches the pinned generators and checkers that the parts need.
    pub(crate) fn install(&self, parts: &[Part]) -> Result<()> {
        let wanted = wanted_tools(parts);
        if wanted.contains(&Tool::Npm) {
            npm_install(self.tools, &self.workspace.clients())?;
        }
        if wanted.contains(&Tool::Python) {
            self.install_python()?;
        }
        Ok(())
    }

    /// Runs the parts, those that need a server against `url` or against one that is started here for them together.
    pub(crate) fn run_parts(&self, report: &mut Report, parts: &[Part], url: Option<String>) {
        for part in parts.iter().filter(|part| !part.needs_server()) {
            report.part(part.name(), || self.lint());
        }
        let parts: Vec<Part> = parts.iter().copied().filter(|part| part.needs_server()).collect();
        if parts.is_empty() {
            return;
        }
        let own = match &url {
            Some(_) => None,
            None => match Product::start(&self.workspace.binary("task-runner")) {
                Ok(product) => Some(product),
                Err(error) => {
                    for part in parts {
                        report.part(part.name(), || bail!("the server did not start: {error:#}"));
                    }
                    return;
                }
            },
        };
        let Some(url) = url.as_deref().or(own.as_ref().map(|product| product.url.as_str())) else { return };
        for part in parts {
            let held = report.part(part.name(), || match part {
                Part::Python => self.python(url),
                Part::Typescript => self.typescript(url),
                Part::Schemathesis => self.schemathesis(url),
                Part::Lint => self.lint(),
            });
            if let (false, Some(product)) = (held, &own) {
                println!("the server said last:\n{}", product.log_tail());
            }
        }
    }

    fn lint(&self) -> Result<Count> {
        let mut command = self.node_program("redocly");
        command.arg("lint").arg(&self.document).arg("--config").arg("redocly.yaml");
        // It reports usage to its makers otherwise.
        command.env("REDOCLY_TELEMETRY", "off").env("REDOCLY_SUPPRESS_UPDATE_NOTICE", "true");
        process::run(&command)?;
        Ok(Count::ONE)
    }

    fn python(&self, url: &str) -> Result<Count> {
        let generated = self.fresh_directory("python")?;
        let mut generate = self.python_program("openapi-python-client");
        generate.arg("generate").arg("--path").arg(&self.document);
        generate.args(["--meta", "none", "--output-path"]).arg(generated.join("task_runner_client"));
        process::output(&mut generate)?;
        let mut test = self.python_program("python");
        test.arg(self.workspace.clients().join("python/submit_watch_result.py"));
        test.env("PYTHONPATH", &generated).env("TASK_RUNNER_URL", url);
        process::run(&test)?;
        Ok(Count::ONE)
    }

    fn typescript(&self, url: &str) -> Result<Count> {
        let directory = self.fresh_directory("typescript")?;
        let mut generate = self.node_program("openapi-ts");
        generate.arg("-i").arg(&self.document).arg("-o").arg(directory.join("generated"));
        generate.args(["-c", "@hey-api/client-fetch", "--silent"]);
        process::output(&mut generate)?;
        // Compiled beside the generated client, so that both sides of the import are checked together.
        let source = self.workspace.clients().join("typescript");
        for name in ["submit_watch_result.ts", "tsconfig.json", "package.json"] {
            fs::copy(source.join(name), directory.join(name))
                .with_context(|| format!("cannot copy {name} from {}", source.display()))?;
        }
        let types = self.workspace.clients().join("node_modules/@types");
        let mut compile = self.node_program("tsc");
        compile.arg("-p").arg(&directory).arg("--typeRoots").arg(types);
        process::output(&mut compile)?;
        let mut test = Command::new(self.tools.path(Tool::Node)?);
        test.arg(directory.join("out/submit_watch_result.js")).env("TASK_RUNNER_URL", url);
        process::run(&test)?;
        Ok(Count::ONE)
    }

    fn schemathesis(&self, url: &str) -> Result<Count> {
        let directory = self.fresh_directory("schemathesis")?;
        let mut command = self.python_program("schemathesis");
        command.current_dir(&directory).arg("run").arg(&self.document).args(["--url", url]);
        command.args(["--checks", CHECKS, "--phases", "examples,coverage,fuzzing,stateful"]);
        // The same inputs on every run: a failure here is a change of ours, not of the dice.
        command.args(["--max-examples", "30", "--seed", "20261123", "--generation-database", "none"]);
        command.args(["--workers", "1", "--request-timeout", "30", "--suppress-health-check", "all"]);
        // An event stream lasts as long as its task: the generated clients read it instead. Lines of JSON it cannot
        // write. What ends the server is left out, and what never ends.
        let left_out = "/(events|drain|shutdown|lines)$";
        command.args(["--exclude-path-regex", left_out, "--warnings", "off", "--no-color"]);
        process::run(&command)?;
        Ok(Count::ONE)
    }

    /// A proxy to test the openai provider against.
    pub(crate) fn install_litellm(&self) -> Result<()> {
        self.install_venv("litellm", &self.litellm_venv())
    }

    /// The proxy's program, once it is installed.
    pub(crate) fn litellm(&self) -> PathBuf {
        self.litellm_venv().join("bin/litellm")
    }

    fn litellm_venv(&self) -> PathBuf {
        self.workspace.target.join("clients/litellm-venv")
    }

    fn install_python(&self) -> Result<()> {
        self.install_venv("python", &self.venv())
    }

    /// What `requirements.txt` of a folder of `tests/clients` names.
    fn install_venv(&self, folder: &str, venv: &Path) -> Result<()> {
        let requirements = self.workspace.clients().join(folder).join("requirements.txt");
        let stamp = Stamp { of: requirements.clone(), at: venv.join("installed-requirements.txt") };
        if stamp.is_current() {
            return Ok(());
        }
        process::output(
            Command::new(self.tools.path(Tool::Python)?).args(["-m", "venv", "--clear"]).arg(venv),
        )?;
        let mut pip = Command::new(venv.join("bin/python"));
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"]).arg(&requirements);
        process::output(&mut pip)?;
        stamp.set()
    }

    fn venv(&self) -> PathBuf {
        self.workspace.target.join("clients/venv")
    }

    fn fresh_directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.workspace.target.join("clients").join(name);
        if path.exists() {
            fs::remove_dir_all(&path).with_context(|| format!("cannot empty {}", path.display()))?;
        }
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(path)
    }

    fn node_program(&self, name: &str) -> Command {
        let directory = self.workspace.clients();
        let mut command = Command::new(directory.join("node_modules/.bin").join(name));
        command.current_dir(directory).env("PATH", path_with(self.tools.path(Tool::Node).ok()));
        command
    }

    fn python_program(&self, name: &str) -> Command {
        let program = self.venv().join("bin").join(name);
        let mut command = Command::new(&program);
        command.env("PATH", path_with(Some(&program)));
        command
    }
}

/// Everything but what only says that the server is lenient: a client that follows the document is not hurt by that.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
                      response_headers_conformance,response_schema_conformance";

/// Installs the packages of `directory` as its lock file names them, unless they are installed.
pub(crate) fn npm_install(tools: &Tools, directory: &Path) -> Result<()> {
    let stamp = Stamp {
        of: directory.join("package-lock.json"),
        at: directory.join("node_modules/installed-package-lock.json"),
    };
    if stamp.is_current() {
        return Ok(());
    }
    let npm = |verb: &str| {
        let mut command = Command::new(tools.path(Tool::Npm)?);
        command.arg(verb).current_dir(directory);
        process::output(&mut command)
    };
    if let Err(error) = npm("ci") {
        println!("npm ci failed, trying npm install: {error:#}");
        npm("install")?;
    }
    stamp.set()
}

/// The PATH with the directory of `program` before all others: its scripts find it, and not an older one.
pub(crate) fn path_with(program: Option<&Path>) -> OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let Some(directory) = program.and_then(Path::parent) else { return path };
    let directories = std::iter::once(directory.to_path_buf()).chain(std::env::split_paths(&path));
    std::env::join_paths(directories).unwrap_or(path)
}

/// A copy of a list of packages, left where they were installed: equal means that nothing is to do.
struct Stamp {
    of: PathBuf,
    at: PathBuf,
}

impl Stamp {
    fn is_current(&self) -> bool {
        matches!((fs::read(&self.of), fs::read(&self.at)), (Ok(wanted), Ok(installed)) if wanted == installed)
    }

    fn set(&self) -> Result<()> {
        fs::copy(&self.of, &self.at)
            .map(drop)
            .with_context(|| format!("cannot copy {} to {}", self.of.display(), self.at.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_tool_is_wanted_once_and_only_where_a_part_needs_it() {
        assert_eq!(wanted_tools(&Part::ALL), [Tool::Node, Tool::Npm, Tool::Python]);
        assert_eq!(wanted_tools(&[Part::Schemathesis, Part::Python]), [Tool::Python]);
    }

    #[test]
    fn packages_are_installed_again_when_their_list_changed() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let stamp = Stamp { of: directory.path().join("list"), at: directory.path().join("installed") };
        assert!(!stamp.is_current(), "nothing is installed without a list");
        fs::write(&stamp.of, "a==1")?;
        assert!(!stamp.is_current());
        stamp.set()?;
        assert!(stamp.is_current());
        fs::write(&stamp.of, "a==2")?;
        assert!(!stamp.is_current());
        Ok(())
    }
}
