//! The store itself: one writer, a few readers.

use std::{fmt, path::Path, sync::Arc};

use application::{
    combine::{Combiner, Together},
    ports::{StoreError, Submitted},
};
use async_trait::async_trait;
use domain::{NewTask, Timestamp};
use sqlx::{SqliteConnection, SqlitePool};
use tokio::sync::Notify;

use crate::{
    clock::Clock,
    error::store_error,
    open::{self, OpenError, SqliteOptions},
    submit::Submit,
    writer::{Change, Writer},
};

/// Submissions that arrive while one is being stored are stored together in the next statement.
const TOGETHER: Together = Together { most: 500, calls: 1 };

/// The task store in one SQLite file, which belongs to this process while it is open. Share it in an `Arc`.
///
/// A call that is dropped half way is carried out all the same: a change lands whole or not at all.
pub struct SqliteStore {
    pub(crate) submissions: Combiner<NewTask, Submitted>,
    writer: Arc<Writer>,
    readers: SqlitePool,
    clock: Clock,
    /// Told when a needed task has ended.
    pub(crate) need_ended: Arc<Notify>,
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").finish_non_exhaustive()
    }
}

impl SqliteStore {
    /// Opens the database, makes it (and its folder) where there is none, and brings its tables up to date. Workers
    /// that an earlier process left behind are declared dead.
    pub async fn open(path: impl AsRef<Path>, options: SqliteOptions) -> Result<Self, OpenError> {
        Self::open_with(path.as_ref(), options, Clock::system()).await
    }

    /// For tests: a store that asks `now` for the time. Not for configuration, or two parts of an installation could
    /// judge one lease by two clocks.
    #[doc(hidden)]
    pub async fn with_clock(
        path: impl AsRef<Path>,
        options: SqliteOptions,
        now: impl Fn() -> Timestamp + Send + Sync + 'static,
    ) -> Result<Self, OpenError> {
        Self::open_with(path.as_ref(), options, Clock::given(now)).await
    }

    async fn open_with(path: &Path, options: SqliteOptions, clock: Clock) -> Result<Self, OpenError> {
        let opened = open::open(path, &options).await?;
        let need_ended = Arc::<Notify>::default();
        let flows = (opened.has_flows, Arc::clone(&need_ended));
        let writer =
            Arc::new(Writer::start(opened.writer, opened.lock, opened.last_task, clock.clone(), flows));
        let submissions = Combiner::new(TOGETHER, {
            let writer = writer.clone();
            move |tasks| {
                let writer = writer.clone();
                async move { writer.submit(Submit { tasks }).await }
            }
        });
        Ok(Self { submissions, writer, readers: opened.readers, clock, need_ended })
    }

    /// Carries out what has been asked for, and lets go of the file: after this, it can be opened again. Calls that
    /// come later are answered as unavailable.
    pub async fn close(&self) {
        self.readers.close().await;
        self.submissions.close().await;
        self.writer.close().await;
    }

    pub(crate) fn now(&self) -> i64 {
        self.clock.now()
    }

    /// Has a change carried out, and answers once it is durable.
    pub(crate) async fn write<C: Change>(&self, change: C) -> Result<C::Answer, StoreError> {
        self.writer.submit(change).await
    }

    /// Reads from one state of the database. It runs to its end even when the caller goes away, so that no connection
    /// is left in the middle of something.
    pub(crate) async fn query<Q: Query>(&self, query: Q) -> Result<Q::Answer, StoreError> {
        let readers = self.readers.clone();
        let reading = tokio::spawn(async move {
            let mut snapshot = readers.begin().await.map_err(store_error)?;
            let answer = query.run(&mut snapshot).await;
            snapshot.rollback().await.map_err(store_error)?;
            answer
        });
        reading
            .await
            .unwrap_or_else(|stopped| Err(StoreError::Unavailable(format!("a read stopped: {stopped}"))))
    }
}

/// A question to one state of the database.
#[async_trait]
pub(crate) trait Query: Send + 'static {
    /// What it finds.
    type Answer: Send + 'static;

    /// Asks.
    async fn run(self, snapshot: &mut SqliteConnection) -> Result<Self::Answer, StoreError>;
}
