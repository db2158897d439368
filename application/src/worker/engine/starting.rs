//! From what was claimed to handlers that run.

use std::sync::Arc;

use domain::{Status, WorkerId};

use super::{Engine, Message};
use crate::{
    handler::{RunningAttempt, Stop, TaskContext, TaskInfo, Terms},
    ports::{ClaimedTask, Signal},
    worker::attempt::{self, Ended, Ending},
};

impl Engine {
    pub(super) fn tell_of_starts(&self, tasks: &[ClaimedTask]) {
        let started: Vec<Signal> = tasks
            .iter()
            .map(|task| Signal::State {
                task: task.id,
                attempt: task.counters.attempt,
                status: Status::Processing,
            })
            .collect();
        if !started.is_empty() {
            let signals = Arc::clone(&self.crew.ports.signals);
            tokio::spawn(async move { signals.publish(&started).await });
        }
    }

    pub(super) fn start(&mut self, task: ClaimedTask, worker: WorkerId, lease_holds: bool) {
        let ClaimedTask {
            id,
            tenant,
            task_type,
            queue,
            priority,
            rank,
            fairness_key,
            input,
            limits,
            retry,
            counters,
            ..
        } = task;
        let number = counters.attempt;
        let limits = limits.capped(self.config.time_caps);
        let wait = self.wait_for_pace(&task_type);
        if wait.is_none() {
            tracing::info!(task_id = id.0, attempt = number, task_type = task_type.as_str(), %queue, "task received");
            self.slots.take(&queue);
            self.turns.took(&queue);
            self.suspects.take(counters.suspicion());
            self.started += 1;
        }
        let info = TaskInfo {
            id,
            tenant,
            task_type,
            queue,
            priority,
            fairness_key,
            attempt: number,
            failures: task.counters.fresh_failures(),
            created_at: task.created_at,
            started_at: task.started_at,
            worker: self.config.name.clone(),
        };
        let terms = Terms { limits, retry, counters, rank };
        let attempt = Arc::new(RunningAttempt::new(info, terms, worker, Arc::clone(&self.crew.recorder)));
        if let Some(wait) = wait {
            let ending = if lease_holds { Ending::PutOff(wait) } else { Ending::Stopped(Stop::Abandon) };
            self.unsettled.push_back(Ended::unstarted(attempt, ending));
            return;
        }
        // A task that was claimed just as the lease was lost is not run: whoever takes over will.
        if !lease_holds {
            attempt.stop(Stop::Abandon);
        }
        self.running.insert(id, Arc::clone(&attempt));
        self.starting.push((attempt, input));
    }

    /// The last that is begun in a turn of the loop, because the runtime runs the last first.
    pub(super) fn run_handlers(&mut self) {
        for (attempt, input) in self.starting.drain(..) {
            let spec = self.crew.ports.registry.get(&attempt.info.task_type);
            let handler = spec.map(|spec| spec.run(TaskContext(Arc::clone(&attempt)), input));
            let (crew, largest_result) = (Arc::clone(&self.crew), self.config.largest_result);
            tokio::spawn(async move {
                let (ended, news) = attempt::run(attempt, handler, largest_result).await;
                // The ending first: readers find in the store what they hear of later.
                let _ = crew.outbox.send(Message::Ended(ended));
                if !news.is_empty() {
                    crew.ports.signals.publish(&news).await;
                }
            });
        }
    }
}
