//! The one writer. Changes that are asked for while a transaction commits are applied together in the next one: the
//! disk is waited for once for all of them, and a caller is answered when its change is durable.

use std::sync::{Arc, Mutex};

use application::ports::StoreError;
use async_trait::async_trait;
use sqlx::{Connection, SqliteConnection};
use tokio::{
    sync::{Notify, mpsc, oneshot},
    task::JoinHandle,
};

use crate::{claim::Turns, clock::Clock, error::store_error, follow::any_ends, open::Lock, tally::Tally};

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
    /// Whether tasks wait, or have waited, for others: only then is looked whether one of these has ended.
    pub(crate) has_flows: bool,
}

/// The way to the writer.
#[derive(Debug)]
pub(crate) struct Writer {
    queue: Mutex<Option<mpsc::Sender<Box<dyn Job>>>>,
    running: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    /// Starts writing. The lock is given up after the last change.
    pub(crate) fn start(
        conn: SqliteConnection,
        lock: Lock,
        last_task: i64,
        clock: Clock,
        (has_flows, need_ended): (bool, Arc<Notify>),
    ) -> Self {
        let (sender, queue) = mpsc::channel(QUEUE);
        let memory = Memory { last_task, turns: Turns::default(), has_flows };
        let running = tokio::spawn(run(Group { conn, memory, clock }, queue, lock, need_ended));
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

/// The answer to whoever comes after the end.
pub(crate) fn closed() -> StoreError {
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

async fn run(mut group: Group, mut queue: mpsc::Receiver<Box<dyn Job>>, lock: Lock, need_ended: Arc<Notify>) {
    let mut jobs = Vec::with_capacity(GROUP);
    while queue.recv_many(&mut jobs, GROUP).await > 0 {
        let committed = group.commit(&mut jobs).await;
        if let Err(error) = &committed {
            tracing::error!(%error, changes = jobs.len(), "the database took back a transaction");
        }
        if group.memory.has_flows && any_ends(&mut group.conn).await.unwrap_or(false) {
            need_ended.notify_one();
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
            // Some errors, such as a full disk, end the transaction by themselves; then there is nothing to take back.
            let _ = self.run("ROLLBACK").await;
        }
        committed
    }

    async fn transact(&mut self, jobs: &mut [Box<dyn Job>]) -> Result<(), StoreError> {
        self.run("BEGIN IMMEDIATE").await?;
        let mut tally = Tally::default();
        for job in jobs {
            self.run("SAVEPOINT change").await?;
            let now = self.clock.now();
            let mut write =
                Write { conn: &mut self.conn, now, tally: Tally::default(), memory: &mut self.memory };
            if job.apply(&mut write).await {
                tally.add(write.tally);
            } else {
                self.run("ROLLBACK TO change").await?;
            }
            self.run("RELEASE change").await?;
        }
        tally.write(&mut self.conn).await.map_err(store_error)?;
        self.run("COMMIT").await
    }

    /// A step of the transaction. Where it fails, nothing has been applied, and another try may succeed.
    async fn run(&mut self, step: &'static str) -> Result<(), StoreError> {
        let done = sqlx::query(step).execute(&mut self.conn).await;
        done.map(drop).map_err(|error| StoreError::Unavailable(format!("{step}: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sqlx::{SqlitePool, sqlite::SqliteConnectOptions};
    use tempfile::TempDir;
    use tokio::sync::Notify;

    use super::*;
    use crate::open::{SqliteOptions, open};

    /// Writes a note; then it may wait for the test, and may fail.
    #[derive(Default)]
    struct Note {
        text: &'static str,
        gate: Option<std::sync::Arc<(Notify, Notify)>>,
        fails: bool,
    }

    #[async_trait]
    impl Change for Note {
        type Answer = &'static str;

        async fn apply(&self, write: &mut Write<'_>) -> Result<Self::Answer, StoreError> {
            let insert = "INSERT INTO tally (tenant, queue, status, count) VALUES (?1, 'q', 'PENDING', 1)";
            sqlx::query(insert).bind(self.text).execute(&mut *write.conn).await.map_err(store_error)?;
            if let Some(gate) = &self.gate {
                gate.0.notify_one();
                gate.1.notified().await;
            }
            if self.fails { Err(StoreError::Corrupt(self.text.to_owned())) } else { Ok(self.text) }
        }
    }

    struct Bench {
        writer: std::sync::Arc<Writer>,
        reader: SqlitePool,
        _folder: TempDir,
    }

    impl Bench {
        async fn new() -> Self {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let path = folder.path().join("tasks.db");
            let opened = open(&path, &SqliteOptions::default()).await.expect("it opens");
            let writer = Writer::start(
                opened.writer,
                opened.lock,
                opened.last_task,
                Clock::system(),
                Default::default(),
            );
            let reader = SqlitePool::connect_with(SqliteConnectOptions::new().filename(path)).await;
            Self { writer: std::sync::Arc::new(writer), reader: reader.expect("it opens"), _folder: folder }
        }

        fn ask(&self, note: Note) -> JoinHandle<Result<&'static str, StoreError>> {
            let writer = self.writer.clone();
            tokio::spawn(async move { writer.submit(note).await })
        }

        async fn notes(&self) -> Vec<String> {
            let sql = "SELECT tenant FROM tally ORDER BY tenant";
            sqlx::query_scalar(sql).fetch_all(&self.reader).await.expect("notes")
        }

        /// Until so many changes wait behind the one that is being applied.
        async fn until_queued(&self, n: usize) {
            let sender = self.writer.lock_queue().clone().expect("open");
            while sender.max_capacity() - sender.capacity() < n {
                tokio::task::yield_now().await;
            }
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_queues_up_shares_a_transaction_and_is_answered_after_it() {
        let bench = Bench::new().await;
        let (first_gate, last_gate) =
            (std::sync::Arc::<(Notify, Notify)>::default(), std::sync::Arc::<(Notify, Notify)>::default());
        let first = bench.ask(Note { text: "a", gate: Some(first_gate.clone()), ..Note::default() });
        first_gate.0.notified().await;
        let second = bench.ask(Note { text: "b", ..Note::default() });
        bench.until_queued(1).await;
        let bad = bench.ask(Note { text: "bad", fails: true, ..Note::default() });
        bench.until_queued(2).await;
        let last = bench.ask(Note { text: "c", gate: Some(last_gate.clone()), ..Note::default() });
        bench.until_queued(3).await;
        first_gate.1.notify_one();
        assert_eq!(first.await.expect("no panic").expect("applied"), "a");

        // The last one is being applied; the second has been, in the same transaction, and nobody sees it yet.
        last_gate.0.notified().await;
        assert!(!second.is_finished() && !bad.is_finished());
        assert_eq!(bench.notes().await, ["a"]);
        last_gate.1.notify_one();
        assert_eq!(second.await.expect("no panic").expect("applied"), "b");
        assert!(matches!(bad.await.expect("no panic"), Err(StoreError::Corrupt(text)) if text == "bad"));
        assert_eq!(last.await.expect("no panic").expect("applied"), "c");
        assert_eq!(bench.notes().await, ["a", "b", "c"], "the bad one took back its own work, and only that");
    }

    #[tokio::test]
    async fn what_was_asked_for_is_done_before_the_writer_closes() {
        let bench = Bench::new().await;
        let gate = std::sync::Arc::<(Notify, Notify)>::default();
        let first = bench.ask(Note { text: "a", gate: Some(gate.clone()), ..Note::default() });
        gate.0.notified().await;
        let second = bench.ask(Note { text: "b", ..Note::default() });
        bench.until_queued(1).await;
        // Whoever asked has gone away meanwhile; the change is carried out all the same.
        second.abort();
        let closing = bench.writer.clone();
        let closing = tokio::spawn(async move { closing.close().await });
        while bench.writer.lock_queue().is_some() {
            tokio::task::yield_now().await;
        }
        gate.1.notify_one();
        tokio::time::timeout(Duration::from_secs(30), closing).await.expect("it closes").expect("no panic");
        assert_eq!(first.await.expect("no panic").expect("applied"), "a");
        assert_eq!(bench.notes().await, ["a", "b"]);
        let late = bench.writer.submit(Note { text: "c", ..Note::default() }).await;
        assert!(matches!(late, Err(StoreError::Unavailable(text)) if text.contains("closed")));
    }

    #[tokio::test]
    async fn a_transaction_that_breaks_is_taken_back_and_the_next_one_works() {
        let bench = Bench::new().await;
        // A change that ends the transaction behind the writer's back, as a full disk would.
        struct Breaks;
        #[async_trait]
        impl Change for Breaks {
            type Answer = ();
            async fn apply(&self, write: &mut Write<'_>) -> Result<Self::Answer, StoreError> {
                sqlx::query("ROLLBACK").execute(&mut *write.conn).await.map_err(store_error)?;
                Err(StoreError::Unavailable("disk full".to_owned()))
            }
        }
        let broken = bench.writer.submit(Breaks).await;
        assert!(matches!(broken, Err(StoreError::Unavailable(_))), "{broken:?}");
        assert_eq!(bench.writer.submit(Note { text: "a", ..Note::default() }).await.expect("applied"), "a");
        assert_eq!(bench.notes().await, ["a"]);
    }
}
