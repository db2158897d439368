//! The one writer. Changes that are asked for while a transaction commits are applied together in the next one: the
//! disk is waited for once for all of them, and a caller is answered when its change is durable.

use std::sync::Mutex;

use application::ports::StoreError;
use async_trait::async_trait;
use sqlx::{Connection, SqliteConnection};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use crate::{claim::Turns, clock::Clock, error::store_error, open::Lock, tally::Tally};

/// So many changes may wait; callers beyond that wait for a place.
const QUEUE: usize = 1_024;
/// So many share a transaction at most, so that the first of them is not kept waiting for long.
const GROUP: usize = 256;

/// A change to the database that is applied whole or not at all.
#[async_trait]
pub(crate) trait Change: Send + Sync + 'static {
    /// What the caller is told once it is durable.
    type Answer: Send + Sync + 'static;

    /// Applies it. An error takes back all that it did, and nothing else.
    async fn apply(&self, write: &mut Write<'_>) -> Result<Self::Answer, StoreError>;
}

/// What a change works with.
pub(crate) struct Write<'w> {
    /// Inside a transaction; nobody else writes meanwhile.
    pub(crate) conn: &'w mut SqliteConnection,
    /// The store's clock.
    pub(crate) now: i64,
    /// What the change does to the counts.
    pub(crate) tally: Tally,
    /// What the writer remembers from change to change.
    pub(crate) memory: &'w mut Memory,
}

/// What the writer remembers.
#[derive(Debug)]
pub(crate) struct Memory {
    /// The highest task id that was given.
    pub(crate) last_task: i64,
    /// Whose turn it is among the queues.
    pub(crate) turns: Turns,
}

/// The way to the writer.
#[derive(Debug)]
pub(crate) struct Writer {
    queue: Mutex<Option<mpsc::Sender<Box<dyn Job>>>>,
    running: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    /// Starts writing. The lock is given up after the last change.
    pub(crate) fn start(conn: SqliteConnection, lock: Lock, last_task: i64, clock: Clock) -> Self {
        let (sender, queue) = mpsc::channel(QUEUE);
        let memory = Memory { last_task, turns: Turns::default() };
        let running = tokio::spawn(run(Group { conn, memory, clock }, queue, lock));
        Self { queue: Mutex::new(Some(sender)), running: tokio::sync::Mutex::new(Some(running)) }
    }

    pub(crate) async fn submit<C: Change>(&self, change: C) -> Result<C::Answer, StoreError> {
        let (reply, answer) = oneshot::channel();
        let sender = self.lock_queue().clone().ok_or_else(closed)?;
        sender.send(Box::new(Asked { change, answer: None, reply })).await.map_err(|_| closed())?;
        // The writer needs nothing of this handle any more, and must see the queue end when the store is closed.
        drop(sender);
        answer.await.map_err(|_| closed())?
    }

    /// Takes no more changes and waits until those that were asked for are done.
    pub(crate) async fn close(&self) {
        drop(self.lock_queue().take());
        if let Some(running) = self.running.lock().await.take()
            && let Err(stopped) = running.await
        {
            tracing::error!(error = %stopped, "the database writer had stopped");
        }
    }

    fn lock_queue(&self) -> std::sync::MutexGuard<'_, Option<mpsc::Sender<Box<dyn Job>>>> {
        self.queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable("the database has been closed".to_owned())
}

/// A change with the caller who waits for it.
struct Asked<C: Change> {
    change: C,
    answer: Option<Result<C::Answer, StoreError>>,
    reply: oneshot::Sender<Result<C::Answer, StoreError>>,
}

#[async_trait]
trait Job: Send {
    /// Applies the change; tells whether to keep what it did.
    async fn apply(&mut self, write: &mut Write<'_>) -> bool;

    /// Answers the caller, now that the transaction is over.
    fn answer(self: Box<Self>, committed: Result<(), StoreError>);
}

#[async_trait]
impl<C: Change> Job for Asked<C> {
    async fn apply(&mut self, write: &mut Write<'_>) -> bool {
        let answer = self.change.apply(write).await;
        let keep = answer.is_ok();
        self.answer = Some(answer);
        keep
    }

    fn answer(self: Box<Self>, committed: Result<(), StoreError>) {
        let Self { answer, reply, .. } = *self;
        // A caller that went away does not need the answer.
        let _ = reply.send(committed.and_then(|()| answer.unwrap_or_else(|| Err(closed()))));
    }
}

async fn run(mut group: Group, mut queue: mpsc::Receiver<Box<dyn Job>>, lock: Lock) {
    let mut jobs = Vec::with_capacity(GROUP);
    while queue.recv_many(&mut jobs, GROUP).await > 0 {
        let committed = group.commit(&mut jobs).await;
        if let Err(error) = &committed {
            tracing::error!(%error, changes = jobs.len(), "the database took back a transaction");
        }
        for job in jobs.drain(..) {
            job.answer(committed.clone());
        }
    }
    if let Err(error) = group.conn.close().await {
        tracing::warn!(%error, "the database could not be closed in good order; the next start repairs it");
    }
    drop(lock);
}

/// The transaction that several changes share.
struct Group {
    conn: SqliteConnection,
    memory: Memory,
    clock: Clock,
}

impl Group {
    async fn commit(&mut self, jobs: &mut [Box<dyn Job>]) -> Result<(), StoreError> {
        let committed = self.transact(jobs).await;
        if committed.is_err() {
            // Some errors end the transaction by themselves; then there is nothing to take back.
            let _ = sqlx::query("ROLLBACK").execute(&mut self.conn).await;
        }
        committed.map_err(store_error)
    }

    async fn transact(&mut self, jobs: &mut [Box<dyn Job>]) -> Result<(), sqlx::Error> {
        sqlx::query("BEGIN IMMEDIATE").execute(&mut self.conn).await?;
        let mut tally = Tally::default();
        for job in jobs {
            sqlx::query("SAVEPOINT change").execute(&mut self.conn).await?;
            let now = self.clock.now();
            let mut write =
                Write { conn: &mut self.conn, now, tally: Tally::default(), memory: &mut self.memory };
            if job.apply(&mut write).await {
                tally.add(write.tally);
            } else {
                sqlx::query("ROLLBACK TO change").execute(&mut self.conn).await?;
            }
            sqlx::query("RELEASE change").execute(&mut self.conn).await?;
        }
        tally.write(&mut self.conn).await?;
        sqlx::query("COMMIT").execute(&mut self.conn).await?;
        Ok(())
    }
}
