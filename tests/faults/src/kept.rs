//! What finished tests found, kept below the build folder so that a run can be resumed.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};
use faults_tests::{Finding, Scale};
use serde::{Deserialize, Serialize};

/// A test that passed.
#[derive(Serialize, Deserialize)]
pub(crate) struct Kept {
    /// What it found.
    pub(crate) finding: Finding,
    /// How long it took.
    pub(crate) seconds: f64,
}

/// Beside the built program, under scale and seed.
fn path(name: &str, scale: &Scale) -> Result<PathBuf> {
    let program = std::env::current_exe().context("where this program lies")?;
    let folder = program.parent().context("a program lies in a folder")?.join("faults-results");
    let size = if scale.full { "full" } else { "small" };
    Ok(folder.join(format!("{size}-{}", scale.seed)).join(format!("{name}.json")))
}

/// What this test found at this scale with this seed, if it has passed.
pub(crate) fn read(name: &str, scale: &Scale) -> Result<Option<Kept>> {
    let path = path(name, scale)?;
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).with_context(|| path.display().to_string()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

/// Keeps it.
pub(crate) fn write(name: &str, scale: &Scale, finding: &Finding, seconds: f64) -> Result<()> {
    let path = path(name, scale)?;
    let kept = Kept { finding: finding.clone(), seconds };
    fs::create_dir_all(path.parent().context("a file lies in a folder")?)?;
    fs::write(&path, serde_json::to_vec_pretty(&kept)?).with_context(|| path.display().to_string())
}
