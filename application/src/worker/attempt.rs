//! One attempt: a handler inside its limits. Whatever it does, it fails alone.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use domain::{Counters, ErrorClass, Failure};
use futures_util::FutureExt;

use crate::{
    handler::{Leftover, RunningAttempt, Stop},
    ports::Signal,
    registry::{Handling, Output},
};

/// How an attempt came to its end.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Ending {
    Returned(Result<Output, Failure>),
    Stopped(Stop),
    /// It was not started: its type is held to a pace here.
    PutOff(Duration),
}

/// An attempt that has ended and is to be settled.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) attempt: Arc<RunningAttempt>,
    pub(super) ending: Ending,
    pub(super) took: Duration,
    pub(super) leftover: Leftover,
    pub(super) cancel_requested: bool,
}

impl Ended {
    /// An attempt whose handler was not started.
    pub(super) fn unstarted(attempt: Arc<RunningAttempt>, ending: Ending) -> Self {
        Self { attempt, ending, took: Duration::ZERO, leftover: Leftover::default(), cancel_requested: false }
    }

    /// The counters of its task, this attempt included.
    pub(super) fn counters(&self) -> Counters {
        self.attempt.terms.counters
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
///
/// Thousands of these wait at once: what an attempt has with it lies with the attempt, once, and not in this future too.
pub(super) async fn run(
    attempt: Arc<RunningAttempt>,
    handler: Option<Handling>,
    largest_result: usize,
) -> (Box<Ended>, Vec<Signal>) {
    let started = tokio::time::Instant::now();
    tracing::info!(task_id = attempt.info.id.0, attempt = attempt.info.attempt, "task started");
    let ending = match (attempt.asked_to_stop(), handler) {
        (Some(stop), _) => Ending::Stopped(stop),
        (None, None) => Ending::Returned(Err(unknown_type(attempt.info.task_type.as_str()))),
        (None, Some(handler)) => {
            let _end = EndOf(&attempt);
            let mut handler = AssertUnwindSafe(handler).catch_unwind();
            let limits = &attempt.terms.limits;
            let hard_deadline = started + limits.time_limit;
            let mut soft_deadline = limits.soft_time_limit.map(|limit| started + limit);
            loop {
                tokio::select! {
                    biased;
                    returned = &mut handler => {
                        let returned = returned.unwrap_or_else(|panic| Err(panicked(panic.as_ref())));
                        break Ending::Returned(returned.and_then(|output| fitting(output, largest_result)));
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
    match &ending {
        Ending::Returned(Ok(_)) | Ending::PutOff(_) => {}
        Ending::Returned(Err(failure)) => attempt.account.close(&failure.code),
        Ending::Stopped(Stop::Cancel) => attempt.account.close("cancelled"),
        Ending::Stopped(Stop::Release | Stop::Abandon) => attempt.account.close("released"),
    }
    (Box::new(Ended { attempt, ending, took, leftover, cancel_requested }), signals)
}

fn unknown_type(task_type: &str) -> Failure {
    let message = format!(
        "this worker has no handler for the task type {task_type:?}; start a worker that has one, or serve other queues here"
    );
    Failure::transient("unknown_task_type", message)
}

/// What is too large to be kept is no result, and would be no smaller at the next try.
fn fitting(output: Output, largest: usize) -> Result<Output, Failure> {
    for (what, json) in [("result", Some(&output.result)), ("details of the result", output.details.as_ref())]
    {
        if let Some(size) = json.map(|json| json.as_str().len()).filter(|size| *size > largest) {
            let message = format!(
                "the {what} would be {size} bytes long, and at most {largest} are kept; return less, or a link to it"
            );
            return Err(Failure::permanent("result_too_large", message));
        }
    }
    Ok(output)
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
