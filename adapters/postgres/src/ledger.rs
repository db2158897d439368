//! What this process knows of its workers' claims: which batches are settled, so that their rows can go, and whether a
//! claim may have taken tasks that nobody was told of.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use domain::{TaskId, WorkerId};
use tokio::{sync::RwLock, time::Instant};

/// The ledgers of this process's workers.
#[derive(Debug, Default)]
pub(crate) struct Ledgers(Mutex<HashMap<WorkerId, Arc<Ledger>>>);

/// One worker's.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Read while a claim is on its way until it is noted here; written while lost claims are looked for.
    pub(crate) claims: Arc<RwLock<()>>,
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    /// Batches with tasks that are not settled, and how many.
    open: HashMap<i64, usize>,
    /// The batch and the attempt of each task that is held.
    held: HashMap<TaskId, (i64, u32)>,
    /// Batches without such tasks, whose rows are still there.
    done: Vec<i64>,
    doubt_until: Option<Instant>,
}

impl Ledgers {
    /// The worker's ledger, opened at its first claim.
    pub(crate) fn of(&self, worker: WorkerId) -> Arc<Ledger> {
        self.all().entry(worker).or_default().clone()
    }

    /// The ledger of a worker of this process.
    pub(crate) fn get(&self, worker: WorkerId) -> Option<Arc<Ledger>> {
        self.all().get(&worker).cloned()
    }

    /// The worker is gone.
    pub(crate) fn close(&self, worker: WorkerId) {
        self.all().remove(&worker);
    }

    fn all(&self) -> MutexGuard<'_, HashMap<WorkerId, Arc<Ledger>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ledger {
    /// A claim has taken these as one batch.
    pub(crate) fn note(&self, batch: i64, tasks: impl IntoIterator<Item = (TaskId, u32)>) {
        let mut book = self.book();
        let mut size = 0;
        for (task, attempt) in tasks {
            book.settle(task, attempt); // taken again: whatever was known of it is over
            book.held.insert(task, (batch, attempt));
            size += 1;
        }
        book.open.insert(batch, size);
    }

    /// These attempts are no longer in the worker's hand.
    pub(crate) fn settled(&self, attempts: impl IntoIterator<Item = (TaskId, u32)>) {
        let mut book = self.book();
        attempts.into_iter().for_each(|(task, attempt)| book.settle(task, attempt));
    }

    /// Hands over the batches whose rows can be deleted.
    pub(crate) fn take_done(&self) -> Vec<i64> {
        std::mem::take(&mut self.book().done)
    }

    /// Takes back what could not be deleted.
    pub(crate) fn put_back_done(&self, done: Vec<i64>) {
        self.book().done.extend(done);
    }

    /// Every batch that was noted and whose row may still be there.
    pub(crate) fn known(&self) -> Vec<i64> {
        let book = self.book();
        book.open.keys().chain(&book.done).copied().collect()
    }

    /// Begins a claim: unless it is [`Doubt::settled`], it may have taken tasks that nobody was told of, and may still
    /// do so for as long as a statement can run on unheard.
    pub(crate) fn doubt(self: &Arc<Self>, window: Duration) -> Doubt {
        Doubt { ledger: Some(self.clone()), window }
    }

    /// Whether a claim went wrong lately, and nobody has looked since the last moment at which something of it could
    /// have happened.
    pub(crate) fn in_doubt(&self) -> bool {
        self.book().doubt_until.is_some()
    }

    /// What the worker holds was compared with what is known here, by a look that began at this moment.
    pub(crate) fn looked(&self, began: Instant) {
        let mut book = self.book();
        if book.doubt_until.is_some_and(|until| began > until) {
            book.doubt_until = None;
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    fn settle(&mut self, task: TaskId, attempt: u32) {
        let Some((batch, held)) = self.held.get(&task).copied() else { return };
        if held > attempt {
            return; // an old attempt; a later one runs
        }
        self.held.remove(&task);
        let Some(left) = self.open.get_mut(&batch) else { return };
        *left -= 1;
        if *left == 0 {
            self.open.remove(&batch);
            self.done.push(batch);
        }
    }
}

/// See [`Ledger::doubt`].
#[derive(Debug)]
pub(crate) struct Doubt {
    ledger: Option<Arc<Ledger>>,
    window: Duration,
}

impl Doubt {
    /// The claim's answer has arrived.
    pub(crate) fn settled(mut self) {
        self.ledger = None;
    }
}

impl Drop for Doubt {
    fn drop(&mut self) {
        if let Some(ledger) = self.ledger.take() {
            ledger.book().doubt_until = Some(Instant::now() + self.window);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_done_when_its_last_task_is_settled() {
        let ledger = Ledger::default();
        ledger.note(7, [(TaskId(1), 1), (TaskId(2), 1)]);
        ledger.note(8, [(TaskId(3), 1)]);
        ledger.settled([(TaskId(1), 1), (TaskId(3), 1), (TaskId(99), 1)]);
        assert_eq!(ledger.take_done(), [8]);
        ledger.settled([(TaskId(1), 1)]);
        assert!(ledger.take_done().is_empty(), "settling twice counts once");
        ledger.note(9, [(TaskId(2), 2)]);
        assert_eq!(ledger.take_done(), [7], "a task that is taken again has left its old batch");
        ledger.settled([(TaskId(2), 1)]);
        assert!(
            ledger.take_done().is_empty(),
            "a late answer about an old attempt says nothing of the new one"
        );
        ledger.put_back_done(vec![7]);
        let mut known = ledger.known();
        known.sort_unstable();
        assert_eq!(known, [7, 9]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_without_an_answer_leaves_doubt_for_a_while() {
        let ledger = Arc::new(Ledger::default());
        let window = Duration::from_secs(12);
        ledger.doubt(window).settled();
        assert!(!ledger.in_doubt());
        drop(ledger.doubt(window));
        ledger.looked(Instant::now());
        assert!(ledger.in_doubt(), "it may still happen");
        tokio::time::advance(window * 2).await;
        assert!(ledger.in_doubt(), "one last look");
        ledger.looked(Instant::now());
        assert!(!ledger.in_doubt());
    }
}
