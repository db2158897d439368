//! Where things are: what `cargo metadata` says about this checkout.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::process;

/// This checkout.
pub(crate) struct Workspace {
    /// The repository's root.
    pub(crate) root: PathBuf,
    /// Cargo's target directory; everything that a run generates goes below it.
    pub(crate) target: PathBuf,
    /// The answer of `cargo metadata --no-deps`.
    pub(crate) metadata: Value,
}

impl Workspace {
    /// Asks cargo, from the directory of this package when cargo started us, else from the current one.
    pub(crate) fn find() -> Result<Self> {
        let mut command = process::cargo();
        command.args(["metadata", "--no-deps", "--offline", "--format-version", "1"]);
        if let Some(directory) = std::env::var_os("CARGO_MANIFEST_DIR") {
            command.current_dir(directory);
        }
        let output = command.output().context("cannot start cargo: is it on the PATH?")?;
        if !output.status.success() {
            bail!("cargo metadata failed:\n{}", String::from_utf8_lossy(&output.stderr).trim_end());
        }
        let metadata: Value =
            serde_json::from_slice(&output.stdout).context("cargo metadata did not answer JSON")?;
        let directory = |key: &str| -> Result<PathBuf> {
            let text = metadata[key].as_str().with_context(|| format!("cargo metadata has no {key}"))?;
            Ok(PathBuf::from(text))
        };
        Ok(Self { root: directory("workspace_root")?, target: directory("target_directory")?, metadata })
    }

    /// The checked-in OpenAPI document.
    pub(crate) fn document(&self) -> PathBuf {
        self.root.join("docs/openapi.json")
    }

    /// The page with everything on it.
    pub(crate) fn reference(&self) -> PathBuf {
        self.root.join("docs/reference.md")
    }

    /// Where the packages of the client tests are described.
    pub(crate) fn clients(&self) -> PathBuf {
        self.root.join("tests/clients")
    }

    /// Where the tests keep tools of their own.
    pub(crate) fn tools(&self) -> PathBuf {
        self.target.join("tools")
    }

    /// Builds what tests start, in the debug profile, and with the features of the tests, or all would be compiled twice. The
    /// examples as well: `cargo test` builds them only where it is given no name.
    pub(crate) fn build_binaries(&self) -> Result<()> {
        let mut command = process::cargo();
        command.args(["build", "--workspace", "--all-features", "--bins", "--examples"]);
        process::run(command.current_dir(&self.root))
    }

    /// A binary that was built.
    pub(crate) fn binary(&self, name: &str) -> PathBuf {
        self.target.join("debug").join(name)
    }
}
