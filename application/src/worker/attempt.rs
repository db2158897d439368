//! One attempt: a handler inside its limits. Whatever it does, it fails alone.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use domain::{Counters, ErrorClass, Failure, Json, Limits};
use futures_util::FutureExt;

use crate::{
    handler::{Account, Leftover, RunningAttempt, Stop, TaskContext},
    ports::Signal,
    registry::{Output, Registry},
};

/// How an attempt came to its end.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Ending {
    Returned(Result<Output, Failure>),
    Stopped(Stop),
    /// It was not started: its type is held to a pace here.
    PutOff(Duration),
}

/// What is to be run, beside what the attempt itself knows.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) input: Json,
    pub(super) limits: Limits,
    pub(super) counters: Counters,
}

/// An attempt that has ended and is to be settled.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) attempt: Arc<RunningAttempt>,
    pub(super) limits: Limits,
    pub(super) counters: Counters,
    pub(super) ending: Ending,
    pub(super) took: Duration,
    pub(super) leftover: Leftover,
    /// What it has used.
    pub(super) account: Account,
    pub(super) cancel_requested: bool,
}

impl Ended {
    /// An attempt whose handler was not started.
    pub(super) fn unstarted(
        attempt: Arc<RunningAttempt>,
        limits: Limits,
        counters: Counters,
        ending: Ending,
    ) -> Self {
        let (took, leftover, account) = (Duration::ZERO, Leftover::default(), Account::default());
        Self { attempt, limits, counters, ending, took, leftover, account, cancel_requested: false }
    }
}

/// Ends an attempt on any path, so that a blocking handler learns of it.
struct EndOf<'a>(&'a RunningAttempt);

impl Drop for EndOf<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Runs the handler to its end, or until a limit or a stop ends it. Answers what is left to announce as well.
pub(super) async fn run(
    attempt: Arc<RunningAttempt>,
    order: Order,
    registry: &Registry,
) -> (Box<Ended>, Vec<Signal>) {
    let started = tokio::time::Instant::now();
    let Order { input, limits, counters } = order;
    let info = &attempt.info;
    tracing::info!(task_id = info.id.0, attempt = info.attempt, "task started");
    let ending = match (attempt.asked_to_stop(), registry.get(&info.task_type)) {
        (Some(stop), _) => Ending::Stopped(stop),
        (None, None) => Ending::Returned(Err(unknown_type(info.task_type.as_str()))),
        (None, Some(spec)) => {
            let _end = EndOf(&attempt);
            let handler = AssertUnwindSafe(spec.run(TaskContext(Arc::clone(&attempt)), input)).catch_unwind();
            tokio::pin!(handler);
            let hard_deadline = started + limits.time_limit;
            let mut soft_deadline = limits.soft_time_limit.map(|limit| started + limit);
            loop {
                tokio::select! {
                    biased;
                    returned = &mut handler => {
                        break Ending::Returned(returned.unwrap_or_else(|panic| Err(panicked(panic.as_ref()))));
                    }
                    stop = attempt.stopped() => break Ending::Stopped(stop),
                    () = tokio::time::sleep_until(soft_deadline.unwrap_or(hard_deadline)) => {
                        // Without a soft limit nobody is asked to stop: the hard one ends the handler under its own name.
                        if soft_deadline.take().is_none() {
                            break Ending::Returned(Err(timed_out(limits.time_limit)));
                        }
                        attempt.pass_soft_limit();
                    }
                }
            }
        }
    };
    let (signals, leftover) = attempt.recorder.finish(&attempt);
    let cancel_requested = ending == Ending::Stopped(Stop::Cancel);
    let took = started.elapsed();
    let mut account = std::mem::take(&mut *attempt.account());
    match &ending {
        Ending::Returned(Ok(_)) | Ending::PutOff(_) => {}
        Ending::Returned(Err(failure)) => account.close(&failure.code),
        Ending::Stopped(Stop::Cancel) => account.close("cancelled"),
        Ending::Stopped(Stop::Release | Stop::Abandon) => account.close("released"),
    }
    (
        Box::new(Ended { attempt, limits, counters, ending, took, leftover, account, cancel_requested }),
        signals,
    )
}

fn unknown_type(task_type: &str) -> Failure {
    let message = format!(
        "this worker has no handler for the task type {task_type:?}; start a worker that has one, or serve other queues here"
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
