//! The runs, one file per test of the table in `docs/reliability.md`. Each can be run alone.

pub mod common;
pub mod t01;

use std::{future::Future, pin::Pin};

use anyhow::Result;

use crate::scale::{Finding, Scale};

/// What a run answers.
pub type Running = Pin<Box<dyn Future<Output = Result<Finding>>>>;

/// A test of the table.
#[derive(Clone, Copy)]
pub struct Run {
    /// Such as `T1`.
    pub name: &'static str,
    /// What is done, in few words.
    pub what: &'static str,
    /// Does it.
    pub start: fn(Scale) -> Running,
}

macro_rules! runs {
    ($($name:literal $what:literal $module:ident),+ $(,)?) => {
        &[$(Run { name: $name, what: $what, start: |scale| Box::pin(async move { $module::run(&scale).await }) }),+]
    };
}

/// Every run, in the order of the table.
pub const ALL: &[Run] = runs![
    "T1" "kill -9 of workers, and of the one process on SQLite" t01,
];

/// The run of this name.
pub fn find(name: &str) -> Option<&'static Run> {
    ALL.iter().find(|run| run.name.eq_ignore_ascii_case(name))
}
