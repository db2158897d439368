//! Queues that stand still: nothing is taken out of them. Asked for so often that a pause is heard of within a second,
//! whatever becomes of news.

use std::{collections::HashSet, sync::Arc, time::Duration};

use domain::QueueName;
use tokio::time::Instant;

use super::{Engine, Message};
use crate::ports::StoreError;

/// How often the store is asked.
const ASK: Duration = Duration::from_millis(500);

pub(super) struct Pauses {
    queues: HashSet<QueueName>,
    asking: bool,
    next_ask: Instant,
}

impl Pauses {
    pub(super) fn new(now: Instant) -> Self {
        Self { queues: HashSet::new(), asking: false, next_ask: now }
    }

    pub(super) fn contains(&self, queue: &QueueName) -> bool {
        self.queues.contains(queue)
    }

    /// Whether a queue goes on that stood still.
    pub(super) fn set(&mut self, queues: Vec<QueueName>) -> bool {
        let before = std::mem::replace(&mut self.queues, queues.into_iter().collect());
        before.iter().any(|queue| !self.queues.contains(queue))
    }
}

impl Engine {
    pub(super) fn ask_for_pauses(&mut self) {
        let now = Instant::now();
        if self.pauses.asking || now < self.pauses.next_ask {
            return;
        }
        (self.pauses.asking, self.pauses.next_ask) = (true, now + ASK);
        let (store, outbox) = (Arc::clone(&self.crew.ports.store), self.crew.outbox.clone());
        tokio::spawn(async move {
            let _ = outbox.send(Message::Paused(store.paused_queues().await));
        });
    }

    /// Without an answer, what was known last holds: without a store nothing is claimed either.
    pub(super) fn take_pauses(&mut self, answer: Result<Vec<QueueName>, StoreError>) {
        self.pauses.asking = false;
        if let Ok(queues) = answer
            && self.pauses.set(queues)
        {
            self.news_of_work = true;
            self.limited.look_at_all();
        }
    }
}
