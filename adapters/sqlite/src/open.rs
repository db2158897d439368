//! Opening a database: the file, the lock that keeps others out, the schema, the connections.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use sqlx::{
    ConnectOptions, SqliteConnection, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

/// What can be chosen about the connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqliteOptions {
    /// Connections that read; at least 1. Writing has one of its own.
    pub readers: u32,
    /// How long a call waits for a free connection or a lock before it answers "unavailable".
    pub timeout: Duration,
}

impl Default for SqliteOptions {
    /// Four readers, 10 s.
    fn default() -> Self {
        Self { readers: 4, timeout: Duration::from_secs(10) }
    }
}

/// Why a database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A SQLite database belongs to one process at a time.
    #[error(
        "the database {0} is in use by another process: stop that one first, or use another file \
         (several processes can share a PostgreSQL database)"
    )]
    InUse(PathBuf),
    /// The file or its folder could not be made, or may not be used.
    #[error("the database file {path} cannot be used: {source}")]
    File {
        /// Which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// SQLite refused it.
    #[error("the database {path} cannot be opened: {source}")]
    Database {
        /// Which file.
        path: PathBuf,
        /// What SQLite said.
        source: sqlx::Error,
    },
    /// Its tables could not be brought to this version's form.
    #[error(
        "the tables of {path} cannot be brought up to date: {source} (a database that a newer version has used \
         needs that version)"
    )]
    Migration {
        /// Which file.
        path: PathBuf,
        /// What went wrong.
        source: sqlx::migrate::MigrateError,
    },
}

/// What an open database consists of.
pub(crate) struct Opened {
    pub(crate) writer: SqliteConnection,
    pub(crate) readers: SqlitePool,
    pub(crate) lock: Lock,
    /// The highest task id that was ever given.
    pub(crate) last_task: i64,
    /// Whether tasks wait for others.
    pub(crate) has_flows: bool,
}

/// Keeps other processes out for as long as it lives.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

pub(crate) async fn open(path: &Path, options: &SqliteOptions) -> Result<Opened, OpenError> {
    make_file(path)?;
    let lock = lock(path)?;
    let database = |source| OpenError::Database { path: path.to_owned(), source };
    let connect = SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        // A submission is durable before it is answered.
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(options.timeout)
        // The log is carried over every 16 MB, and shrinks back to 64 MB after a burst.
        .pragma("wal_autocheckpoint", "4096")
        .pragma("journal_size_limit", "67108864")
        // 64 MB of pages at most: claims by priority touch pages all over the table.
        .pragma("cache_size", "-65536")
        .pragma("temp_store", "MEMORY");
    let mut writer = connect.connect().await.map_err(database)?;
    sqlx::migrate!("../../migrations/sqlite")
        .run(&mut writer)
        .await
        .map_err(|source| OpenError::Migration { path: path.to_owned(), source })?;
    bury_the_past(&mut writer).await.map_err(database)?;
    let last_task = last_task(&mut writer).await.map_err(database)?;
    let has_flows = has_flows(&mut writer).await.map_err(database)?;
    let readers = SqlitePoolOptions::new()
        .max_connections(options.readers.max(1))
        .acquire_timeout(options.timeout)
        // A local file has no connections that die: the check on each loan would only cost.
        .test_before_acquire(false)
        .connect_with(connect.pragma("query_only", "ON"))
        .await
        .map_err(database)?;
    Ok(Opened { writer, readers, lock, last_task, has_flows })
}

/// Only the owner may read what people submit; SQLite gives its other files the same rights.
fn make_file(path: &Path) -> Result<(), OpenError> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder).map_err(|source| OpenError::File { path: folder.to_owned(), source })?;
    }
    private_file(path).map(|_| ()).map_err(|source| OpenError::File { path: path.to_owned(), source })
}

fn private_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// An advisory lock on a file of its own, which the system lifts when the process ends, however it ends.
fn lock(database: &Path) -> Result<Lock, OpenError> {
    let mut path = database.as_os_str().to_owned();
    path.push(".lock");
    let path = PathBuf::from(path);
    let file = private_file(&path).map_err(|source| OpenError::File { path: path.clone(), source })?;
    match file.try_lock() {
        Ok(()) => Ok(Lock { _file: file }),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse(database.to_owned())),
        Err(TryLockError::Error(source)) => Err(OpenError::File { path, source }),
    }
}

/// We hold the lock, so whoever is said to be alive is not: what they held can be taken over at once.
async fn bury_the_past(writer: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    const SQL: &str = "
        UPDATE worker SET state = 'dead', heaviest = min(2, coalesce((
            SELECT max(l.crashes - l.forgiven_crashes) FROM live AS l WHERE l.worker = worker.id), 0))
        WHERE state = 'alive'";
    let buried = sqlx::query(SQL).execute(writer).await?.rows_affected();
    if buried > 0 {
        tracing::info!(
            workers = buried,
            "workers of an earlier process are gone: their tasks are taken over"
        );
    }
    Ok(())
}

async fn last_task(writer: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    const SQL: &str = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'task'";
    sqlx::query_scalar(SQL).fetch_one(writer).await
}

async fn has_flows(writer: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    const SQL: &str = "
        SELECT EXISTS (SELECT 1 FROM ended_need)
            OR EXISTS (SELECT 1 FROM task INDEXED BY task_flow WHERE needs IS NOT NULL AND id > 0)
            OR EXISTS (SELECT 1 FROM task INDEXED BY task_batch WHERE batch > 0)";
    sqlx::query_scalar(SQL).fetch_one(writer).await
}
