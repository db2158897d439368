//! How this worker's attempts ran, until the store is told.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use domain::{AttemptOutcome, QueueName, RunLength, Runs};

use super::attempt::Ended;
use crate::ports::RunRecord;

/// Runs by queue and length. It stays as small as the number of queues.
#[derive(Debug, Default)]
pub(super) struct RunBook(Mutex<HashMap<(QueueName, RunLength), Runs>>);

impl RunBook {
    /// Notes attempts that ended by themselves: what was stopped or given back says nothing about its queue.
    pub(super) fn note<'e>(&self, ended: impl IntoIterator<Item = (&'e Ended, AttemptOutcome)>) {
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (ended, outcome) in ended {
            let failed = match outcome {
                AttemptOutcome::Completed => false,
                AttemptOutcome::Failed | AttemptOutcome::TimedOut | AttemptOutcome::Crashed => true,
                AttemptOutcome::Cancelled | AttemptOutcome::Released => continue,
            };
            let place = (ended.attempt.info.queue.clone(), RunLength::of(ended.took));
            let sum = book.entry(place).or_default();
            *sum = sum.and(Runs::one(failed, ended.took));
        }
    }

    /// Hands over what was noted since the last time.
    pub(super) fn take(&self) -> Vec<RunRecord> {
        let book = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let record = |((queue, length), runs)| RunRecord { queue, length, runs };
        book.into_iter().map(record).collect()
    }
}
