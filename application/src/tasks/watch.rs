//! A task's live events: what is stored, then what happens, without gap or repeat.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use domain::{Progress, Status, Task, TaskId, Tenant};
use futures_util::Stream;
use tokio::sync::broadcast::error::RecvError;

use super::Tasks;
use crate::ports::{ChunkRecord, Signal, StoreError};

/// Chunks read from the store at once.
const PAGE: usize = 500;
/// How often a watcher looks at the store when news arrive, and when none do.
const LOOK_WHEN_CONNECTED: Duration = Duration::from_secs(3);
const LOOK_WHEN_ALONE: Duration = Duration::from_millis(500);
/// So many readers of one process look that often; more than these look less often, so that the store is asked as much.
const READERS_WHO_LOOK: u32 = 500;

/// How many readers this process has.
pub(super) type Readers = Arc<AtomicU32>;

/// One of them, until it is dropped.
struct Seat(Readers);

impl Seat {
    fn take(readers: &Readers) -> Self {
        readers.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(readers))
    }

    /// How often each reader looks at the store.
    fn look_every(&self, connected: bool) -> Duration {
        let look = if connected { LOOK_WHEN_CONNECTED } else { LOOK_WHEN_ALONE };
        look * self.0.load(Ordering::Relaxed).div_ceil(READERS_WHO_LOOK).max(1)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One event of a task.
#[derive(Debug, Clone, PartialEq)]
pub enum TaskEvent {
    /// Where it stands: first of all, at each change, and last when it has ended.
    State(Box<Task>),
    /// How far this attempt has come.
    Progress {
        /// Which attempt.
        attempt: u32,
        /// How far.
        progress: Progress,
    },
    /// A piece of output; `(attempt, seq)` is the point to resume after.
    Chunk(ChunkRecord),
    /// The text begins anew: this attempt starts over, and what was delivered of earlier ones is void. `(attempt, 0)` is
    /// the point to resume after.
    AttemptReset {
        /// The attempt whose text comes from now on.
        attempt: u32,
    },
    /// The store did not answer; the stream ends here and can be resumed.
    Interrupted(StoreError),
}

impl Tasks {
    /// Watches a task from `after` (attempt, seq) on; `None` for an unknown id. The stream ends after the state event
    /// of an ended task. A reader that stops reading holds up nobody: what it misses is read from the store.
    pub async fn watch(
        &self,
        tenant: &Tenant,
        id: TaskId,
        after: (u32, u64),
    ) -> Result<Option<impl Stream<Item = TaskEvent> + Send + 'static + use<>>, StoreError> {
        let signals = self.signals.task(id).await;
        let Some(task) = self.read(tenant, id).await? else { return Ok(None) };
        let watcher = Watcher {
            tasks: self.clone(),
            tenant: tenant.clone(),
            id,
            signals,
            seat: Seat::take(&self.readers),
            cursor: after,
            last: None,
            progress: None,
            ready: Vec::new(),
        };
        Ok(Some(futures_util::stream::unfold((watcher, Some(task)), |(mut watcher, mut first)| async move {
            let event = watcher.next(&mut first).await?;
            Some((event, (watcher, first)))
        })))
    }
}

struct Watcher {
    tasks: Tasks,
    tenant: Tenant,
    id: TaskId,
    signals: crate::ports::SignalStream,
    seat: Seat,
    /// The last chunk delivered.
    cursor: (u32, u64),
    /// The last state delivered.
    last: Option<Task>,
    /// The last progress delivered, with its attempt.
    progress: Option<(u32, Progress)>,
    /// Events to deliver, last first.
    ready: Vec<TaskEvent>,
}

impl Watcher {
    async fn next(&mut self, first: &mut Option<Task>) -> Option<TaskEvent> {
        loop {
            if let Some(event) = self.ready.pop() {
                return Some(event);
            }
            if self.last.as_ref().is_some_and(|task| task.status.is_terminal()) {
                return None;
            }
            let looked = match first.take() {
                Some(task) => self.deliver(Some(task)).await,
                None => match self.news().await {
                    News::Event(event) => return Some(event),
                    News::Look => match self.tasks.read(&self.tenant, self.id).await {
                        Ok(task) => self.deliver(task).await,
                        Err(error) => Err(error),
                    },
                },
            };
            match looked {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => {
                    self.ready.clear();
                    return Some(TaskEvent::Interrupted(error));
                }
            }
        }
    }

    /// Lines up what the store has and the reader has not seen; `false` when the task is gone.
    async fn deliver(&mut self, task: Option<Task>) -> Result<bool, StoreError> {
        let Some(task) = task else { return Ok(false) };
        let mut events = Vec::new();
        let known = |last: &Task| (last.status, last.attempt, last.cancel_requested);
        let is_news = self.last.as_ref().is_none_or(|last| known(last) != known(&task));
        if is_news && !task.status.is_terminal() {
            events.push(TaskEvent::State(Box::new(task.clone())));
        }
        // The task was read before its chunks: an ended task's are all there.
        loop {
            let chunks = self.tasks.store.chunks_after(self.id, self.cursor, PAGE).await?;
            let whole = chunks.len() < PAGE;
            for chunk in chunks {
                events.extend(self.come_to(chunk.attempt));
                self.cursor = (chunk.attempt, chunk.seq);
                events.push(TaskEvent::Chunk(chunk));
            }
            if whole {
                break;
            }
        }
        // What earlier attempts have written is delivered: nothing more comes of them once a later one was claimed.
        if task.status == Status::Processing {
            events.extend(self.come_to(task.attempt));
        }
        if let Some(report) = &task.progress {
            events.extend(self.come_on(task.attempt, &report.progress));
        }
        if is_news && task.status.is_terminal() {
            events.push(TaskEvent::State(Box::new(task.clone())));
        }
        self.last = Some(task);
        events.reverse();
        self.ready = events;
        Ok(true)
    }

    /// Waits for something that concerns this reader.
    async fn news(&mut self) -> News {
        let look_every = self.seat.look_every(self.tasks.signals.connected());
        let deadline = tokio::time::Instant::now() + look_every;
        loop {
            match tokio::time::timeout_at(deadline, self.signals.recv()).await {
                Ok(Ok(Signal::Chunk(chunk))) => {
                    let place = (chunk.attempt, chunk.seq);
                    if place <= self.cursor {
                        continue; // delivered from the store already
                    }
                    let follows = place == (self.cursor.0, self.cursor.1 + 1)
                        || (place.0 > self.cursor.0 && place.1 == 1 && self.knows_attempt(place.0));
                    if follows {
                        let reset = self.come_to(chunk.attempt);
                        self.cursor = place;
                        return match reset {
                            None => News::Event(TaskEvent::Chunk(chunk)),
                            Some(reset) => {
                                self.ready.push(TaskEvent::Chunk(chunk));
                                News::Event(reset)
                            }
                        };
                    }
                    // A gap: the worker stores chunks within the second, so look then rather than at once.
                    tokio::time::sleep(LOOK_WHEN_ALONE).await;
                    return News::Look;
                }
                Ok(Ok(Signal::Progress { attempt, progress, .. })) => {
                    if !self.knows_attempt(attempt) {
                        return News::Look;
                    }
                    if let Some(event) = self.come_on(attempt, &progress) {
                        return News::Event(event);
                    }
                }
                Ok(Ok(Signal::State { .. })) | Ok(Err(RecvError::Lagged(_))) | Err(_) => return News::Look,
                Ok(Ok(Signal::Work { .. } | Signal::Cancel(_) | Signal::Command(_))) => {}
                Ok(Err(RecvError::Closed)) => {
                    tokio::time::sleep_until(deadline).await;
                    return News::Look;
                }
            }
        }
    }

    /// The text of a later attempt than the reader's begins; `None` where the reader has no text of an earlier one.
    fn come_to(&mut self, attempt: u32) -> Option<TaskEvent> {
        let begins = self.cursor.0 != 0 && attempt > self.cursor.0;
        begins.then(|| {
            self.cursor = (attempt, 0);
            TaskEvent::AttemptReset { attempt }
        })
    }

    /// Progress that is new to the reader. What the store has may lag behind the news, and never goes back.
    fn come_on(&mut self, attempt: u32, progress: &Progress) -> Option<TaskEvent> {
        let is_news = self.progress.as_ref().is_none_or(|(known_attempt, known)| {
            attempt > *known_attempt
                || (attempt == *known_attempt && progress.percent() >= known.percent() && progress != known)
        });
        is_news.then(|| {
            self.progress = Some((attempt, progress.clone()));
            TaskEvent::Progress { attempt, progress: progress.clone() }
        })
    }

    /// Whether the reader was told of this attempt, so that its first chunk may follow.
    fn knows_attempt(&self, attempt: u32) -> bool {
        self.last.as_ref().is_some_and(|last| last.attempt == attempt)
    }
}

enum News {
    Event(TaskEvent),
    Look,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_readers_ask_the_store_no_more_than_some_do() {
        let readers = Readers::default();
        let mut seats: Vec<Seat> = (0..READERS_WHO_LOOK).map(|_| Seat::take(&readers)).collect();
        assert_eq!(seats[0].look_every(true), LOOK_WHEN_CONNECTED);
        assert_eq!(seats[0].look_every(false), LOOK_WHEN_ALONE);
        seats.extend((0..19 * READERS_WHO_LOOK).map(|_| Seat::take(&readers)));
        assert_eq!(seats[0].look_every(true), 20 * LOOK_WHEN_CONNECTED);
        seats.truncate(1);
        assert_eq!(seats[0].look_every(true), LOOK_WHEN_CONNECTED);
    }
}
