//! The examples do what they say.
#![allow(clippy::disallowed_methods)] // tests look at the environment of the build

use std::{
    path::PathBuf,
    process::{Command, Output},
};

use contract_tests::servers::PostgresServer;

/// Built beside the binaries by `cargo test`.
fn example(name: &str) -> Command {
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_task-runner"));
    let path = binary.with_file_name("examples").join(name);
    assert!(path.exists(), "{} is not there: cargo build --examples -p task-runner", path.display());
    let mut command = Command::new(path);
    command.env_clear().env("RUST_LOG", "warn");
    command
}

fn said(output: Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn own_task_submits_and_waits_for_the_typed_result() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = example("own_task").arg("three is most").current_dir(&folder).output().expect("started");
    let said = said(output);
    assert!(said.contains("3 words, the longest is \"three\""), "{said}");
}

#[tokio::test]
async fn own_transaction_commits_the_task_with_its_order_or_not_at_all() {
    let folder = tempfile::tempdir().expect("a folder");
    let database = PostgresServer::shared().create_database().await;
    let mut command = example("own_transaction");
    command.env("DATABASE_URL", database).current_dir(&folder);
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
    let said = said(output.expect("started"));
    assert!(said.contains("was committed with its order, and has run"), "{said}");
    assert!(said.contains("was rolled back with its order, and never was"), "{said}");
}
