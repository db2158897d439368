//! Queues: who waits for long grows more urgent, and a queue that nobody serves is told of.

use std::{collections::BTreeMap, time::Duration};

use domain::QueueName;
use tokio::time::Instant;

use super::STEP;
use crate::{ordering::announce_waiting, ports::StoreError, queues::workers_of, worker::WorkerPorts};

/// Waiting is looked at four times in the time that makes a difference, within these bounds.
const SOONEST_LOOK: Duration = Duration::from_millis(250);
const LATEST_LOOK: Duration = Duration::from_secs(10);
/// How often it is looked for queues that nobody serves. A worker that is just being restarted comes back in between.
const LOOK_FOR_UNSERVED: Duration = Duration::from_secs(15);

/// What the upkeep of one process remembers of queues.
pub(super) struct QueueCare {
    /// When those with ageing are looked at next.
    next_ageing: BTreeMap<QueueName, Instant>,
    next_look_for_unserved: Instant,
    /// Queues that nobody served at the last look, and whether that was told.
    unserved: BTreeMap<QueueName, bool>,
}

impl QueueCare {
    pub(super) fn new(now: Instant) -> Self {
        let next_look_for_unserved = now + LOOK_FOR_UNSERVED;
        Self { next_ageing: BTreeMap::new(), next_look_for_unserved, unserved: BTreeMap::new() }
    }

    /// Raises those who have waited for long, in the store and in the order; answers how many.
    pub(super) async fn age(&mut self, ports: &WorkerPorts) -> Result<usize, StoreError> {
        let mut raised = 0;
        for (queue, settings) in ports.routes.all_settings() {
            let Some(every) = settings.ageing else { continue };
            let now = Instant::now();
            if self.next_ageing.get(queue).is_some_and(|next| now < *next) {
                continue;
            }
            let places = ports.store.age(queue, every, STEP).await?;
            announce_waiting(ports.order.as_deref(), ports.signals.as_ref(), &places).await;
            raised += places.len();
            // A full step may leave more: the next round goes on.
            let pause = if places.len() < STEP {
                (every / 4).clamp(SOONEST_LOOK, LATEST_LOOK)
            } else {
                Duration::ZERO
            };
            self.next_ageing.insert(queue.clone(), now + pause);
        }
        Ok(raised)
    }

    /// Warns of queues in which tasks wait and which no living worker serves: once, until somebody does.
    pub(super) async fn warn_of_unserved(&mut self, ports: &WorkerPorts) -> Result<(), StoreError> {
        let now = Instant::now();
        if now < self.next_look_for_unserved {
            return Ok(());
        }
        self.next_look_for_unserved = now + LOOK_FOR_UNSERVED;
        let served = ports.store.served().await?;
        let is_served = |queue: &QueueName| workers_of(&served, queue) > 0;
        let named = served.iter().flat_map(|(service, _)| service.only.clone());
        let known: Vec<_> = ports.routes.queues().into_iter().chain(named).filter(is_served).collect();
        let waiting = ports.store.waiting_queues(&known).await?;
        let before = std::mem::take(&mut self.unserved);
        for queue in waiting.into_iter().filter(|queue| !is_served(queue)) {
            let told = before.get(&queue).copied();
            if told == Some(false) {
                tracing::warn!(%queue, "tasks wait in a queue that no living worker serves: start one, or add the queue to a worker's queues");
            }
            self.unserved.insert(queue, told.is_some());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
