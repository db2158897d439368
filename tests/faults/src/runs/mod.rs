//! The runs, one file per test of the table in `docs/reliability.md`. Each can be run alone.

pub mod common;
pub mod t01;
pub mod t02;
pub mod t03;
pub mod t13;
pub mod t14;
pub mod t15;

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
    "T2" "SIGSTOP for three leases, then CONT, on 8 workers at once" t02,
    "T3" "kill -9 of the API during submissions, and of the one process on SQLite" t03,
    "T13" "cancel against complete against take-over" t13,
    "T14" "a task that kills its process, among innocents" t14,
    "T15" "rolling restarts under load" t15,
];

/// The run of this name.
pub fn find(name: &str) -> Option<&'static Run> {
    ALL.iter().find(|run| run.name.eq_ignore_ascii_case(name))
}
