//! What the loop makes of news.

use domain::{QueueName, TaskId};
use tokio::{sync::broadcast::error::RecvError, time::Instant};

use super::Engine;
use crate::ports::Signal;

impl Engine {
    pub(super) fn hear(&mut self, signal: Result<Signal, RecvError>) {
        match signal {
            Ok(Signal::Work { queues, tasks }) => self.hear_of_work(queues, tasks),
            Ok(Signal::Cancel(ids)) => {
                if ids.iter().any(|id| self.running.contains_key(id)) {
                    self.next_ask = Instant::now();
                }
            }
            Ok(Signal::Command(_)) => self.reports.hurry(Instant::now()),
            Ok(Signal::State { .. } | Signal::Progress { .. } | Signal::Chunk(_)) => {}
            Err(RecvError::Lagged(_)) => {
                self.news_of_work = true;
                self.next_ask = Instant::now();
                self.reports.hurry(Instant::now());
            }
            // Without a bus the loop still looks at the store by itself.
            Err(RecvError::Closed) => {}
        }
    }

    fn hear_of_work(&mut self, queues: Vec<QueueName>, tasks: Vec<TaskId>) {
        let (mut ours, mut all_ours) = (false, true);
        for queue in queues {
            let known = self.learn_queue(&queue) && !self.pauses.contains(&queue);
            ours |= known;
            // What has limits is never taken by name.
            all_ours &= known && !self.limited.hear(&self.crew.ports.routes, &queue);
        }
        // Whoever has nothing else to do may take what is named; else it takes its turn in the order.
        let idle = self.claims == 0 && !self.news_of_work && !self.short_of_slots && !self.plenty;
        self.named = if all_ours && idle { tasks } else { Vec::new() };
        self.news_of_work |= ours;
    }

    /// Whether this worker serves the queue; from now on it is among those that are known.
    pub(super) fn learn_queue(&mut self, queue: &QueueName) -> bool {
        if self.queues.contains(queue) {
            return true;
        }
        let serves = self.serving.serves(queue);
        if serves {
            self.queues.push(queue.clone());
        }
        serves
    }
}
