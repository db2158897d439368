//! `cargo xtask test`: every test there is, against servers of this run's own.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;

use crate::{
    check,
    clients::{self, Clients, Part},
    openapi, platforms, process,
    report::{Count, Report},
    servers::{Postgres, Redis},
    tools::{self, Search, Tool, Tools},
    workspace::Workspace,
};

/// What to run.
#[derive(Args)]
pub(crate) struct Options {
    /// Install what is missing with apt, through sudo (as root that happens without asking)
    #[arg(long)]
    install: bool,
    /// Also the tests marked as ignored because they take long, or fetch a LiteLLM proxy (0.7 GB)
    #[arg(long)]
    all: bool,
    /// Only Rust tests whose name contains this, and no other parts
    filter: Option<String>,
}

/// What the Rust tests need: the provider tests speak to an OpenAI-compatible server that runs on Node, the example page is
/// opened in a browser.
const RUST_TOOLS: [Tool; 5] = [Tool::Postgres, Tool::Redis, Tool::Node, Tool::Npm, Tool::Browser];

/// Runs the parts one after the other, whatever the earlier ones came to.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    let parts: &[Part] = if options.filter.is_some() { &[] } else { &Part::ALL };
    let mut wanted = RUST_TOOLS.to_vec();
    if options.all {
        wanted.push(Tool::Python);
    }
    wanted.extend(clients::wanted_tools(parts).into_iter().filter(|tool| !RUST_TOOLS.contains(tool)));
    wanted.dedup();
    let tools = match tools::find(&wanted, options.install, &workspace.tools())? {
        Search::Complete(tools) => tools,
        Search::Incomplete(advice) => {
            eprintln!("{advice}");
            return Ok(ExitCode::from(2));
        }
    };

    let mut report = Report::default();
    let clients = Clients { workspace, tools: &tools, document: workspace.document() };
    // The packages come over the network while the compiler uses the processors.
    let (built, installed) = std::thread::scope(|scope| {
        let installing = scope.spawn(|| {
            clients::npm_install(&tools, &workspace.clients().join("aimock"))?;
            clients.install(parts)?;
            if options.all { clients.install_litellm() } else { Ok(()) }
        });
        let built = report.part("build", || build(workspace));
        (built, installing.join().unwrap_or_else(|_| bail!("installing packages panicked")))
    });
    if let Err(error) = installed {
        report.part("packages of npm and PyPI", || Err(error));
    }
    if options.filter.is_none() {
        check::rules(workspace, &mut report);
        platforms::run(workspace, &mut report);
    }
    report.part("rust tests", || rust_tests(workspace, &tools, &clients, options));
    if options.filter.is_none() {
        report.part("openapi document, current", || openapi::check(workspace).map(|()| Count::ONE));
        if built {
            clients.run_parts(&mut report, parts, None);
        } else {
            for part in parts {
                report.part(part.name(), || bail!("not run: the build failed"));
            }
        }
    }
    Ok(report.finish())
}

/// The binaries first: the end-to-end tests start them.
fn build(workspace: &Workspace) -> Result<Count> {
    workspace.build_binaries()?;
    Ok(Count::default())
}

fn rust_tests(
    workspace: &Workspace,
    tools: &Tools,
    clients: &Clients<'_>,
    options: &Options,
) -> Result<Count> {
    let postgres = Postgres::start(tools.path(Tool::Postgres)?)?;
    let redis = Redis::start(tools.path(Tool::Redis)?)?;
    let mut command = process::cargo();
    command.args(["test", "--workspace", "--all-features", "--no-fail-fast"]);
    command.args(options.filter.iter());
    if options.all {
        command.args(["--", "--include-ignored"]);
    }
    command.current_dir(&workspace.root);
    command.env("TASK_RUNNER_TEST_POSTGRES_URL", &postgres.url);
    command.env("TASK_RUNNER_TEST_REDIS_URL", &redis.url);
    command.env("TASK_RUNNER_AIMOCK", workspace.clients().join("aimock/node_modules/.bin/llmock"));
    command.env("TASK_RUNNER_LITELLM", clients.litellm());
    command.env("PATH", clients::path_with(Some(tools.path(Tool::Node)?)));

    let mut count = Count::default();
    let succeeded = process::watch(&command, |line| count.add_line(line))?;
    if !succeeded && count.failed == 0 {
        // Something did not compile, or a test process died before it could count.
        count.failed = 1;
    }
    if let (Count { passed: 0, failed: 0 }, Some(filter)) = (count, &options.filter) {
        bail!("no test has `{filter}` in its name");
    }
    Ok(count)
}
