//! Every change of a task's state as the database saw it: triggers write each into a table, in the transaction that
//! makes it. Writes to one task follow each other, because each locks the task's row until it commits; so the order of
//! `seq` is the order of commits as far as one task is concerned.

use std::path::Path;

use anyhow::{Context as _, Result};
use sqlx::{Connection as _, FromRow, PgConnection, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::checker::{Fate, Kind, Transition};

#[derive(FromRow)]
struct Row {
    at: i64,
    kind: String,
    task: Option<i64>,
    was_state: Option<String>,
    was_worker: Option<i64>,
    was_attempt: Option<i32>,
    state: Option<String>,
    worker: Option<i64>,
    attempt: Option<i32>,
    held: Option<i64>,
    lease_left: Option<i64>,
}

#[derive(FromRow)]
struct FateRow {
    task: i64,
    metadata: Option<String>,
    status: Option<String>,
    attempt: Option<i32>,
    failures: Option<i32>,
    crashes: Option<i32>,
    result: Option<String>,
    error: Option<String>,
}

/// Where the tasks are.
#[derive(Debug, Clone)]
pub enum Database {
    /// The URL.
    Postgres(String),
    /// The file. It is opened for each question anew: a connection that stayed would keep the log's index alive when
    /// the product is killed, and so spare it the recovery.
    Sqlite(std::path::PathBuf),
}

macro_rules! transitions {
    ($at:literal) => {
        concat!(
            "SELECT ",
            $at,
            " AS at, kind, task, was_state, was_worker, was_attempt, state, worker, attempt, held, lease_left
             FROM faults_transition ORDER BY seq"
        )
    };
}

macro_rules! fates {
    ($error:literal) => {
        concat!(
            "SELECT t.id AS task, t.metadata, o.status, o.attempt, o.failures, o.crashes, o.result, ",
            $error,
            " AS error FROM task t LEFT JOIN outcome o ON o.task = t.id ORDER BY t.id"
        )
    };
}

impl Database {
    /// Adds the triggers to a database that has the product's tables.
    pub async fn watch(&self) -> Result<()> {
        match self {
            Self::Postgres(url) => {
                let mut connection = PgConnection::connect(url).await?;
                sqlx::raw_sql(include_str!("transitions/postgres.sql")).execute(&mut connection).await?;
            }
            Self::Sqlite(path) => {
                let mut connection = open(path).await?;
                sqlx::raw_sql(include_str!("transitions/sqlite.sql")).execute(&mut connection).await?;
                connection.close().await?;
            }
        }
        Ok(())
    }

    /// How many tasks have not ended.
    pub async fn unfinished(&self) -> Result<i64> {
        self.number("SELECT count(*) FROM live").await
    }

    /// The answer to a question that is one number.
    pub async fn number(&self, sql: &'static str) -> Result<i64> {
        Ok(match self {
            Self::Postgres(url) => {
                let mut connection = PgConnection::connect(url).await?;
                sqlx::query_scalar(sql).fetch_one(&mut connection).await?
            }
            Self::Sqlite(path) => {
                let mut connection = open(path).await?;
                let number = sqlx::query_scalar(sql).fetch_one(&mut connection).await?;
                connection.close().await?;
                number
            }
        })
    }

    /// All that the triggers wrote.
    pub async fn transitions(&self) -> Result<Vec<Transition>> {
        let rows: Vec<Row> = match self {
            Self::Postgres(url) => {
                let sql = transitions!("(extract(epoch FROM at) * 1000000)::bigint");
                let mut connection = PgConnection::connect(url).await?;
                sqlx::query_as(sql).fetch_all(&mut connection).await?
            }
            Self::Sqlite(path) => {
                let mut connection = open(path).await?;
                sqlx::query_as(transitions!("at")).fetch_all(&mut connection).await?
            }
        };
        rows.into_iter().map(Row::read).collect()
    }

    /// Every task that is stored, and how it ended.
    pub async fn fates(&self) -> Result<Vec<Fate>> {
        let rows: Vec<FateRow> = match self {
            Self::Postgres(url) => {
                let mut connection = PgConnection::connect(url).await?;
                sqlx::query_as(fates!("o.error")).fetch_all(&mut connection).await?
            }
            Self::Sqlite(path) => {
                let sql = fates!("o.error_code || ': ' || o.error_message");
                let mut connection = open(path).await?;
                sqlx::query_as(sql).fetch_all(&mut connection).await?
            }
        };
        rows.into_iter().map(FateRow::read).collect()
    }
}

async fn open(path: &Path) -> Result<SqliteConnection> {
    let options = SqliteConnectOptions::new().filename(path).busy_timeout(std::time::Duration::from_secs(30));
    SqliteConnection::connect_with(&options).await.with_context(|| format!("cannot open {}", path.display()))
}

fn count(number: Option<i32>) -> Option<u32> {
    number.and_then(|number| u32::try_from(number).ok())
}

impl Row {
    fn read(self) -> Result<Transition> {
        let kind = match &*self.kind {
            "live" => Kind::Live,
            "outcome" => Kind::Outcome,
            "attempt" => Kind::Attempt,
            "worker" => Kind::Worker,
            other => anyhow::bail!("the triggers write no {other:?}"),
        };
        Ok(Transition {
            at: self.at,
            kind,
            task: self.task,
            was_state: self.was_state,
            was_worker: self.was_worker,
            was_attempt: count(self.was_attempt),
            state: self.state,
            worker: self.worker,
            attempt: count(self.attempt),
            held: self.held.and_then(|held| u64::try_from(held).ok()),
            lease_left: self.lease_left,
        })
    }
}

impl FateRow {
    fn read(self) -> Result<Fate> {
        let key = match self.metadata {
            Some(text) => {
                let metadata: serde_json::Value =
                    serde_json::from_str(&text).with_context(|| format!("metadata of task {}", self.task))?;
                metadata["key"].as_str().map(str::to_owned)
            }
            None => None,
        };
        Ok(Fate {
            task: self.task,
            key,
            status: self.status,
            attempt: count(self.attempt),
            failures: count(self.failures).unwrap_or_default(),
            crashes: count(self.crashes).unwrap_or_default(),
            result: self.result,
            error: self.error,
        })
    }
}
