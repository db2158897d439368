//! The news bus inside a process. SQLite's base needs no other; on PostgreSQL without Redis it is half of one.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;
use domain::TaskId;
use tokio::sync::broadcast;

use crate::ports::{Signal, SignalStream, Signals};

/// Signals that a listener may fall behind by before it is told to look at the store.
const BACKLOG: usize = 1024;

/// Hands signals to the listeners in this process. Other processes hear nothing.
#[derive(Debug)]
pub struct InProcessSignals {
    work: broadcast::Sender<Signal>,
    tasks: Mutex<HashMap<TaskId, broadcast::Sender<Signal>>>,
    only_process: bool,
}

impl InProcessSignals {
    /// The whole bus of a product that is one process.
    pub fn new() -> Self {
        Self { work: broadcast::channel(BACKLOG).0, tasks: Mutex::default(), only_process: true }
    }

    /// The bus of one process among several that cannot hear each other: it counts as not connected, so that
    /// listeners look at the store often.
    pub fn one_of_many() -> Self {
        Self { only_process: false, ..Self::new() }
    }

    fn send(&self, signal: &Signal) {
        let task = match signal {
            // Nobody listening is no error: the store has the truth.
            Signal::Work { .. } | Signal::Cancel(_) | Signal::Command(_) => {
                let _ = self.work.send(signal.clone());
                return;
            }
            Signal::State { task, .. } | Signal::Progress { task, .. } => *task,
            Signal::Chunk(chunk) => chunk.task,
        };
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(listeners) = tasks.get(&task)
            && listeners.send(signal.clone()).is_err()
        {
            tasks.remove(&task);
        }
    }
}

impl Default for InProcessSignals {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Signals for InProcessSignals {
    async fn publish(&self, signals: &[Signal]) {
        signals.iter().for_each(|signal| self.send(signal));
    }

    fn work(&self) -> SignalStream {
        self.work.subscribe()
    }

    async fn task(&self, id: TaskId) -> SignalStream {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        // Listeners that left without a last signal are forgotten here, so that the map stays as small as its use.
        tasks.retain(|_, listeners| listeners.receiver_count() > 0);
        tasks.entry(id).or_insert_with(|| broadcast::channel(BACKLOG).0).subscribe()
    }

    fn connected(&self) -> bool {
        self.only_process
    }
}
