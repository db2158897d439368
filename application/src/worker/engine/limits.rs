//! Queues with limits: taken from the store alone, which counts over all workers; one claim of each at a time. While its
//! limits are used up, a queue waits for its next moment; no slot does.

use std::{collections::HashMap, sync::Arc, time::Duration};

use domain::{QueueLimits, QueueName, Routes, Suspicion, WorkerId};
use tokio::time::Instant;

use super::{Ended, Engine, LOOK_AT_STORE, LOOK_WHEN_ALONE, Message, PAUSE_AFTER_ERROR};
use crate::ports::{LimitedClaim, LimitedTasks, StoreError};

/// How soon a queue is looked at again whose tasks all run as many as may: one may have ended on another worker.
const LOOK_FOR_ENDS: Duration = Duration::from_millis(250);
/// Never sooner than this.
const SOONEST: Duration = Duration::from_millis(10);

/// When each of them is looked at next.
#[derive(Debug, Default)]
pub(super) struct LimitedQueues {
    looks: HashMap<QueueName, Look>,
}

#[derive(Debug)]
struct Look {
    under_way: bool,
    /// Something happened since the claim that is under way was sent.
    again: bool,
    next: Instant,
}

impl LimitedQueues {
    /// Whether a claim is.
    pub(super) fn under_way(&self) -> bool {
        self.looks.values().any(|look| look.under_way)
    }

    /// Hears of work in a queue; answers whether it has limits.
    pub(super) fn hear(&mut self, routes: &Routes, queue: &QueueName) -> bool {
        let has_limits = !routes.settings(queue).limits.are_none();
        if has_limits {
            self.has_room(queue);
        }
        has_limits
    }

    /// A task of the queue has ended, and the store knows; or one waits.
    pub(super) fn has_room(&mut self, queue: &QueueName) {
        if let Some(look) = self.looks.get_mut(queue) {
            look.again = true;
            look.next = Instant::now();
        }
    }

    pub(super) fn look_at_all(&mut self) {
        let queues: Vec<_> = self.looks.keys().cloned().collect();
        queues.iter().for_each(|queue| self.has_room(queue));
    }
}

impl Engine {
    /// Whether tasks of this queue may be taken without looking at limits.
    pub(super) fn is_open(&self, queue: &QueueName) -> bool {
        !self.pauses.contains(queue) && self.limits_of(queue).are_none()
    }

    /// Queues with limits that do not stand still.
    pub(super) fn open_limited(&self) -> Vec<(QueueName, QueueLimits)> {
        let of = |queue: &QueueName| (queue.clone(), self.limits_of(queue));
        let served = self.queues.iter().filter(|queue| !self.pauses.contains(queue));
        served.map(of).filter(|(_, limits)| !limits.are_none()).collect()
    }

    /// The queues with limits of these attempts, each once.
    pub(super) fn limited_in(&self, ended: &[Ended]) -> Vec<QueueName> {
        let mut queues: Vec<QueueName> = Vec::new();
        for queue in ended.iter().map(|ended| &ended.attempt.info.queue) {
            if self.limited.looks.contains_key(queue) && !queues.contains(queue) {
                queues.push(queue.clone());
            }
        }
        queues
    }

    fn limits_of(&self, queue: &QueueName) -> QueueLimits {
        self.crew.ports.routes.settings(queue).limits
    }

    /// Starts claims from those whose moment has come.
    pub(super) fn fetch_limited(&mut self, worker: WorkerId) {
        let now = Instant::now();
        let limited = self.crew.ports.routes.all_settings();
        if now < self.claim_not_before || limited.values().all(|settings| settings.limits.are_none()) {
            return;
        }
        let others = usize::from(self.serving.is_open());
        for (queue, limits) in self.open_limited() {
            let look = self.limited.looks.get(&queue);
            if look.is_some_and(|look| look.under_way || now < look.next) {
                continue;
            }
            let allowance = self.slots.allowance(&self.queues, others);
            let place = self.queues.iter().position(|known| *known == queue).unwrap_or_default();
            let allowed = allowance.get(place).copied().unwrap_or_default().saturating_sub(self.reserved);
            let limit = allowed.min(self.largest_claim());
            if limit == 0 || self.unsettled_are_many() {
                continue; // each slot that comes free is looked at in the next turn
            }
            self.reserved += limit;
            self.limited.looks.insert(queue.clone(), Look { under_way: true, again: false, next: now });
            let (store, outbox) = (Arc::clone(&self.crew.ports.store), self.crew.outbox.clone());
            tokio::spawn(async move {
                let claim = LimitedClaim { queue: queue.clone(), limits, suspicion: Suspicion::None, limit };
                let answer = store.claim_limited(worker, &claim).await;
                let _ = outbox.send(Message::FetchedLimited(worker, queue, limit, answer));
            });
        }
    }

    pub(super) fn take_limited(
        &mut self,
        worker: WorkerId,
        registered: Option<WorkerId>,
        queue: &QueueName,
        limit: usize,
        answer: Result<LimitedTasks, StoreError>,
    ) {
        self.reserved -= limit;
        // A slot that was reserved for it may be what the others were short of.
        self.news_of_work |= self.short_of_slots;
        let now = Instant::now();
        let idle = if self.has_news() { LOOK_AT_STORE } else { LOOK_WHEN_ALONE };
        let pause = match &answer {
            Err(error) => {
                tracing::warn!(%error, %queue, "no tasks can be claimed; trying again");
                PAUSE_AFTER_ERROR
            }
            Ok(LimitedTasks { tasks, .. }) if tasks.len() == limit => Duration::ZERO,
            Ok(LimitedTasks { wait: None, .. }) => LOOK_FOR_ENDS,
            // There is room, and nobody waits.
            Ok(LimitedTasks { wait: Some(Duration::ZERO), .. }) => idle,
            Ok(LimitedTasks { wait: Some(wait), .. }) => (*wait).clamp(SOONEST, LOOK_AT_STORE),
        };
        if let Some(look) = self.limited.looks.get_mut(queue) {
            let next = if look.again { now } else { now + pause };
            *look = Look { under_way: false, again: false, next };
        }
        let tasks = answer.unwrap_or_default().tasks;
        self.tell_of_starts(&tasks);
        for task in tasks {
            self.start(task, worker, registered == Some(worker));
        }
    }
}
