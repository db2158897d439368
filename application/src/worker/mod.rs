//! The worker: claim what can be run → run → record → settle, with one loop that also sends the heartbeat, so that a
//! deaf worker cannot look healthy.
//!
//! [`engine`] is the loop, [`attempt`] runs one handler inside its limits, [`settle`] turns an ending into a decision of the domain and applies it.

mod attempt;
mod engine;
mod fetch;
mod runs;
mod settle;
mod suspects;

use std::{sync::Arc, time::Duration};

use domain::{LeaseTerms, QueueName, QueueOrder, Routes, TimeCaps, WorkerName};
use tokio_util::sync::CancellationToken;

use crate::{
    fleet::About,
    ports::{Chance, Order, Signals, Store},
    registry::Registry,
};

/// How a worker process behaves.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// For people; need not be unique.
    pub name: WorkerName,
    /// What it serves; empty means every queue, also later ones.
    pub queues: Vec<QueueName>,
    /// What it does not serve, whatever else.
    pub except: Vec<QueueName>,
    /// In which order it serves them.
    pub order: QueueOrder,
    /// Slots: tasks in flight at once.
    pub concurrency: usize,
    /// Its lease and all that follows from it.
    pub lease: LeaseTerms,
    /// How long a drain waits for running tasks before it gives them back.
    pub grace: Duration,
    /// After so many tasks the worker drains by itself, for its supervisor to start a fresh one; `None` for no limit.
    pub max_tasks: Option<u64>,
    /// The longest that attempts may take here, whatever their tasks allow.
    pub time_caps: TimeCaps,
    /// What it says of its process; the task types are added.
    pub about: About,
    /// How many bytes of memory the process holds, where that can be told.
    pub memory: fn() -> Option<u64>,
    /// The largest result, and the largest details of one, in bytes.
    pub largest_result: usize,
}

impl Default for WorkerConfig {
    /// A worker of every queue with a thousand slots.
    fn default() -> Self {
        Self {
            name: WorkerName::unnamed(),
            queues: Vec::new(),
            except: Vec::new(),
            order: QueueOrder::default(),
            concurrency: 1000,
            lease: LeaseTerms::default(),
            grace: Duration::from_secs(10),
            max_tasks: None,
            time_caps: TimeCaps::default(),
            about: About::default(),
            memory: || None,
            largest_result: LARGEST_RESULT,
        }
    }
}

/// The largest result, in bytes, unless the configuration says otherwise.
pub const LARGEST_RESULT: usize = 4 * 1_048_576;

/// What a worker, and the upkeep, need from outside.
#[derive(Clone)]
pub struct WorkerPorts {
    /// The truth.
    pub store: Arc<dyn Store>,
    /// Who goes next; without one, the store says.
    pub order: Option<Arc<dyn Order>>,
    /// News.
    pub signals: Arc<dyn Signals>,
    /// What can be run.
    pub registry: Arc<Registry>,
    /// Which queues are known from the start.
    pub routes: Arc<Routes>,
    /// For back-off jitter.
    pub chance: Arc<dyn Chance>,
}

/// How to stop a worker.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Stop claiming, finish what the grace time allows, give back the rest.
    pub drain: CancellationToken,
    /// Stop at once; others take over when the lease has run out.
    pub halt: CancellationToken,
}

/// A worker process's working half.
pub struct Worker {
    config: WorkerConfig,
    ports: WorkerPorts,
}

impl Worker {
    /// A worker that [`Worker::run`] starts.
    pub fn new(config: WorkerConfig, ports: WorkerPorts) -> Self {
        Self { config, ports }
    }

    /// Works until it is told to stop, through outages of the store and of the order.
    pub async fn run(self, shutdown: Shutdown) {
        engine::Engine::new(self.config, self.ports).run(shutdown).await;
    }
}

#[cfg(test)]
mod tests;
