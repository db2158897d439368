//! Live output on its way out: to readers within some milliseconds, to the store within the second.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use domain::{Progress, TaskId, WorkerId};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::running::RunningAttempt;
use crate::ports::{ChunkRecord, ProgressRecord, Signal, Signals, Store};

/// Pieces of output that come within this time are joined into one chunk.
const JOIN: Duration = Duration::from_millis(50);
/// Output reaches the store at least this often while it comes.
const STORE_EVERY: Duration = Duration::from_secs(1);
/// A chunk is not made longer than about this.
const CHUNK_BYTES: usize = 4096;

/// Collects what the handlers of one worker report.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    open: Mutex<HashMap<TaskId, Open>>,
    /// Told of every report.
    unannounced: Notify,
    unstored: Notify,
    /// Held while reports are written to the store: a settlement waits for it, because once the task is settled its
    /// late reports would be refused by the fence.
    writing: tokio::sync::Mutex<()>,
}

/// One running attempt's reports.
#[derive(Debug)]
struct Open {
    attempt: u32,
    worker: WorkerId,
    text: String,
    next_seq: u64,
    unannounced: Vec<ChunkRecord>,
    unstored: Vec<ChunkRecord>,
    progress: Option<Progress>,
    progress_unannounced: bool,
    progress_unstored: bool,
}

/// What an ended attempt has reported and the store does not have yet.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Leftover {
    pub(crate) progress: Vec<ProgressRecord>,
    pub(crate) chunks: Vec<ChunkRecord>,
    /// Whether the attempt reported anything at all: if not, no write of its reports can be under way.
    pub(crate) ever_reported: bool,
}

impl Recorder {
    fn open(&self) -> MutexGuard<'_, HashMap<TaskId, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn progress(&self, attempt: &RunningAttempt, progress: Progress) {
        self.report(attempt, |open| {
            open.progress = Some(progress);
            open.progress_unannounced = true;
            open.progress_unstored = true;
        });
    }

    pub(crate) fn chunk(&self, attempt: &RunningAttempt, text: &str) {
        self.report(attempt, |open| {
            open.text.extend(text.chars().filter(|c| *c != '\0'));
            if open.text.len() >= CHUNK_BYTES {
                open.close_chunk(attempt.info.id);
            }
        });
    }

    /// Takes a report. Most attempts never make one, so that their place is made with the first.
    fn report(&self, attempt: &RunningAttempt, report: impl FnOnce(&mut Open)) {
        let number = attempt.info.attempt;
        let mut all = self.open();
        if !attempt.may_report() {
            return;
        }
        let open = all.entry(attempt.info.id).or_insert_with(|| Open::new(number, attempt.worker));
        if open.attempt < number {
            *open = Open::new(number, attempt.worker);
        }
        if open.attempt == number {
            report(open);
            self.unannounced.notify_one();
            self.unstored.notify_one();
        }
    }

    /// An attempt ends: nothing more is taken from it. Answers what is left to announce and to store.
    pub(crate) fn finish(&self, attempt: &RunningAttempt) -> (Vec<Signal>, Leftover) {
        attempt.end();
        if !attempt.has_reported() {
            return (Vec::new(), Leftover::default());
        }
        let (task, number) = (attempt.info.id, attempt.info.attempt);
        let mut all = self.open();
        if all.get(&task).is_none_or(|open| open.attempt != number) {
            return (Vec::new(), Leftover::default());
        }
        let Some(mut open) = all.remove(&task) else { return (Vec::new(), Leftover::default()) };
        open.close_chunk(task);
        let signals = open.announce(task);
        let leftover = Leftover {
            progress: open.progress_to_store(task).into_iter().collect(),
            chunks: std::mem::take(&mut open.unstored),
            ever_reported: true,
        };
        (signals, leftover)
    }

    /// Waits until reports that are being written have arrived.
    pub(crate) async fn writes_done(&self) {
        drop(self.writing.lock().await);
    }

    /// Carries reports out until the worker stops. Readers do not wait for the store, however slow it is.
    pub(crate) async fn run(
        self: Arc<Self>,
        store: Arc<dyn Store>,
        signals: Arc<dyn Signals>,
        stop: CancellationToken,
    ) {
        let carrying =
            async { tokio::join!(self.announce_all(signals.as_ref()), self.store_all(store.as_ref())) };
        stop.run_until_cancelled(carrying).await;
    }

    async fn announce_all(&self, signals: &dyn Signals) {
        loop {
            self.unannounced.notified().await;
            tokio::time::sleep(JOIN).await;
            let news = self.take_news();
            if !news.is_empty() {
                signals.publish(&news).await;
            }
        }
    }

    async fn store_all(&self, store: &dyn Store) {
        loop {
            self.unstored.notified().await;
            tokio::time::sleep(JOIN).await;
            let next = tokio::time::Instant::now() + STORE_EVERY;
            self.write(store).await;
            tokio::time::sleep_until(next).await;
        }
    }

    fn take_news(&self) -> Vec<Signal> {
        let mut news = Vec::new();
        for (task, open) in self.open().iter_mut() {
            open.close_chunk(*task);
            news.extend(open.announce(*task));
        }
        news
    }

    /// Writes what the store does not have yet. What fails stays for the next time.
    async fn write(&self, store: &dyn Store) {
        let _writing = self.writing.lock().await;
        let mut by_worker: HashMap<WorkerId, Leftover> = HashMap::new();
        for (task, open) in self.open().iter_mut() {
            open.close_chunk(*task);
            if open.progress_unstored || !open.unstored.is_empty() {
                let batch = by_worker.entry(open.worker).or_default();
                batch.progress.extend(open.progress_to_store(*task));
                batch.chunks.append(&mut open.unstored);
            }
        }
        for (worker, batch) in by_worker {
            if let Err(error) = store.record(worker, &batch.progress, &batch.chunks).await {
                tracing::warn!(%error, "progress and output could not be stored yet");
                self.put_back(batch);
                // Come back for them even if the handlers fall silent.
                self.unstored.notify_one();
            }
        }
    }

    fn put_back(&self, batch: Leftover) {
        let mut all = self.open();
        for record in batch.progress {
            if let Some(open) = all.get_mut(&record.task).filter(|open| open.attempt == record.attempt) {
                open.progress_unstored = true;
            }
        }
        let mut returned: HashMap<TaskId, Vec<ChunkRecord>> = HashMap::new();
        for chunk in batch.chunks {
            returned.entry(chunk.task).or_default().push(chunk);
        }
        for (task, mut chunks) in returned {
            if let Some(open) =
                all.get_mut(&task).filter(|open| chunks.first().is_some_and(|c| c.attempt == open.attempt))
            {
                chunks.append(&mut open.unstored);
                open.unstored = chunks;
            }
        }
    }
}

impl Open {
    fn new(attempt: u32, worker: WorkerId) -> Self {
        Self {
            attempt,
            worker,
            text: String::new(),
            next_seq: 1,
            unannounced: Vec::new(),
            unstored: Vec::new(),
            progress: None,
            progress_unannounced: false,
            progress_unstored: false,
        }
    }

    fn close_chunk(&mut self, task: TaskId) {
        if self.text.is_empty() {
            return;
        }
        let text = std::mem::take(&mut self.text);
        let chunk = ChunkRecord { task, attempt: self.attempt, seq: self.next_seq, text };
        self.next_seq += 1;
        self.unannounced.push(chunk.clone());
        self.unstored.push(chunk);
    }

    fn announce(&mut self, task: TaskId) -> Vec<Signal> {
        let mut signals: Vec<Signal> = self.unannounced.drain(..).map(Signal::Chunk).collect();
        if std::mem::take(&mut self.progress_unannounced)
            && let Some(progress) = self.progress.clone()
        {
            signals.push(Signal::Progress { task, attempt: self.attempt, progress });
        }
        signals
    }

    fn progress_to_store(&mut self, task: TaskId) -> Option<ProgressRecord> {
        let unstored = std::mem::take(&mut self.progress_unstored);
        let progress = self.progress.clone().filter(|_| unstored)?;
        Some(ProgressRecord { task, attempt: self.attempt, progress })
    }
}
