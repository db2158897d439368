//! One attempt: a handler inside its limits. Whatever it does, it fails alone.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use domain::{ErrorClass, Failure, WorkerId};
use futures_util::FutureExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    handler::{Leftover, Recorder, TaskContext, TaskInfo},
    ports::{ClaimedTask, Signal},
    registry::{Output, Registry},
};

/// Why a running handler is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// Somebody cancelled the task.
    Cancel,
    /// The worker drains and its grace time is over.
    Release,
    /// The lease is lost: others may have taken over already.
    Abandon,
}

/// How an attempt came to its end.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Ending {
    Returned(Result<Output, Failure>),
    Stopped(Stop),
}

/// An attempt that has ended and is to be settled.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ended {
    pub(super) task: ClaimedTask,
    /// Under whose lease it was claimed; the process may have registered anew since.
    pub(super) worker: WorkerId,
    pub(super) ending: Ending,
    pub(super) took: Duration,
    pub(super) leftover: Leftover,
    pub(super) cancel_requested: bool,
}

/// Runs the handler to its end, or until a limit or `stop` ends it. Answers what is left to announce as well.
pub(super) async fn run(
    task: ClaimedTask,
    worker: WorkerId,
    info: Arc<TaskInfo>,
    registry: Arc<Registry>,
    recorder: Arc<Recorder>,
    mut stop: watch::Receiver<Option<Stop>>,
) -> (Ended, Vec<Signal>) {
    let started = tokio::time::Instant::now();
    tracing::info!(task_id = task.id.0, attempt = task.counters.attempt, "task started");
    let soft_limit = CancellationToken::new();
    let gone = CancellationToken::new();
    // Set when this function is left on any path, so that a blocking handler learns of it.
    let _gone_at_the_end = gone.clone().drop_guard();
    recorder.start(task.id, task.counters.attempt, worker);
    let context = TaskContext { info, recorder: Arc::clone(&recorder), soft_limit: soft_limit.clone(), gone };
    let ending = match registry.get(&task.task_type) {
        None => Ending::Returned(Err(unknown_type(&task))),
        Some(spec) => {
            let handler = AssertUnwindSafe(spec.run(context, task.input.clone())).catch_unwind();
            tokio::pin!(handler);
            let hard_deadline = started + task.limits.time_limit;
            let soft_deadline = task.limits.soft_time_limit.map(|limit| started + limit);
            loop {
                tokio::select! {
                    biased;
                    returned = &mut handler => {
                        break Ending::Returned(returned.unwrap_or_else(|panic| Err(panicked(panic.as_ref()))));
                    }
                    asked = stop.wait_for(Option::is_some) => {
                        break Ending::Stopped(asked.ok().and_then(|stop| *stop).unwrap_or(Stop::Abandon));
                    }
                    // Without a soft limit nobody is asked to stop: the hard one ends the handler under its own name.
                    () = tokio::time::sleep_until(soft_deadline.unwrap_or(hard_deadline)),
                        if soft_deadline.is_some() && !soft_limit.is_cancelled() => soft_limit.cancel(),
                    () = tokio::time::sleep_until(hard_deadline) => {
                        break Ending::Returned(Err(timed_out(task.limits.time_limit)));
                    }
                }
            }
        }
    };
    let (signals, leftover) = recorder.finish(task.id, task.counters.attempt);
    let cancel_requested = ending == Ending::Stopped(Stop::Cancel);
    (Ended { task, worker, ending, took: started.elapsed(), leftover, cancel_requested }, signals)
}

fn unknown_type(task: &ClaimedTask) -> Failure {
    let message = format!(
        "this worker has no handler for the task type {:?}; start a worker that has one, or serve other queues here",
        task.task_type.as_str()
    );
    Failure::transient("unknown_task_type", message)
}

fn timed_out(limit: Duration) -> Failure {
    let message = format!("the handler ran into the time limit of {} s and was stopped", limit.as_secs_f64());
    Failure::new(ErrorClass::TimedOut, "time_limit", message)
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> Failure {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "(a panic without a message)".to_owned());
    Failure::new(ErrorClass::Panicked, "panic", format!("the handler panicked: {text}"))
}
