//! From an ending to a decision, and from the decision to the store.

use std::time::Duration;

use domain::{AttemptOutcome, Change, End, Event, Failure, State, Status, decide};

use super::{
    WorkerPorts,
    attempt::{Ended, Ending},
    runs::RunBook,
};
use crate::{
    fleet::Ends,
    handler::{Recorder, Stop, TaskInfo},
    ordering::announce_waiting,
    ports::{Applied, Settlement, Signal, StoreError, Waiting},
};

/// The most endings in one settlement.
pub(super) const BATCH: usize = 1000;

/// What the domain says about an ending; `None` when there is nothing to say because the lease is lost.
pub(super) fn settlement(ended: &Ended, ports: &WorkerPorts) -> Option<Settlement> {
    let state = State::Processing { cancel_requested: ended.cancel_requested };
    let (counters, limits) = (ended.counters(), &ended.attempt.terms.limits);
    let mut output = None;
    let change = match &ended.ending {
        Ending::Stopped(Stop::Abandon) => return None,
        Ending::Stopped(Stop::Cancel) => decide(state, counters, Event::StopCancelled),
        Ending::Stopped(Stop::Release) => decide(state, counters, Event::Release),
        Ending::PutOff(after) => decide(state, counters, Event::PutOff { after: *after }),
        Ending::Returned(Ok(returned)) => {
            output = Some(returned.clone());
            decide(state, counters, Event::Succeed)
        }
        Ending::Returned(Err(failure)) => {
            let default_policy = domain::RetryPolicy::default();
            let spec = ports.registry.get(&ended.attempt.info.task_type);
            let of_the_type = || spec.map_or(&default_policy, |spec| spec.retry_policy());
            let policy = ended.attempt.terms.retry.as_deref().unwrap_or_else(of_the_type);
            let chance = ports.chance.next();
            decide(state, counters, Event::Fail { failure, policy, limits, chance })
        }
    };
    let change = change.unwrap_or_else(|refusal| {
        // The state above is Processing, where each of these events is allowed.
        let failure = Failure::permanent("internal", format!("the attempt's end was refused: {refusal}"));
        Change::Finish { end: End::Failed, counters, error: Some(failure) }
    });
    let (result, details) = output.map_or((None, None), |output| (Some(output.result), output.details));
    Some(Settlement {
        task: ended.attempt.info.id,
        attempt: counters.attempt,
        change,
        result,
        details,
        calls: ended.attempt.account.calls(),
        knew_of_cancel: ended.cancel_requested,
    })
}

/// What a round of settling leaves behind.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// How many it began with.
    pub(super) of: usize,
    /// To be tried again: the store was away, or a cancellation came in between.
    pub(super) again: Vec<Ended>,
    /// Why, if the store was away.
    pub(super) error: Option<StoreError>,
    /// How those ended that are done with.
    pub(super) ends: Ends,
}

/// Stores what the attempts left over and settles them; all in `batch` were claimed under one worker id. Tells the
/// readers, and puts back in order what is to run again.
pub(super) async fn settle(
    mut batch: Vec<Ended>,
    ports: &WorkerPorts,
    recorder: &Recorder,
    runs: &RunBook,
) -> Settled {
    let of = batch.len();
    let Some(worker) = batch.first().map(|ended| ended.attempt.worker) else { return Settled::default() };
    if batch.iter().any(|ended| ended.leftover.ever_reported) {
        recorder.writes_done().await;
        let progress: Vec<_> = batch.iter().flat_map(|ended| ended.leftover.progress.clone()).collect();
        let chunks: Vec<_> = batch.iter().flat_map(|ended| ended.leftover.chunks.clone()).collect();
        if !progress.is_empty() || !chunks.is_empty() {
            if let Err(error) = ports.store.record(worker, &progress, &chunks).await {
                return Settled { of, again: batch, error: Some(error), ..Settled::default() };
            }
            for ended in &mut batch {
                ended.leftover = Default::default();
            }
        }
    }
    let (batch, settlements): (Vec<Ended>, Vec<Settlement>) =
        batch.into_iter().filter_map(|ended| settlement(&ended, ports).map(|s| (ended, s))).unzip();
    if settlements.is_empty() {
        return Settled { of, ..Settled::default() };
    }
    let applied = match ports.store.settle(worker, &settlements).await {
        Ok(applied) => applied,
        Err(error) => return Settled { of, again: batch, error: Some(error), ..Settled::default() },
    };
    let applied_to = batch.iter().zip(&settlements).zip(&applied);
    let ran = applied_to.filter(|(_, applied)| **applied == Applied::Yes);
    runs.note(ran.filter_map(|((ended, settlement), _)| Some((ended, settlement.change.attempt_outcome()?))));
    let mut settled = Settled { of, ..Settled::default() };
    let (mut signals, mut waiting) = (Vec::new(), Vec::new());
    for ((mut ended, settlement), applied) in batch.into_iter().zip(settlements).zip(applied) {
        match applied {
            Applied::Yes => {
                log_end(&ended, &settlement.change);
                count(&mut settled.ends, &ended, &settlement.change);
                signals.push(state_signal(&settlement));
                if matches!(&settlement.change, Change::Wait { after, .. } if after.is_zero()) {
                    waiting.push(place(&ended));
                }
            }
            Applied::Stale => tracing::warn!(
                task_id = ended.attempt.info.id.0,
                attempt = ended.counters().attempt,
                "the lease was lost before the attempt ended; its outcome is dropped"
            ),
            Applied::CancelRequested => {
                ended.cancel_requested = true;
                settled.again.push(ended);
            }
        }
    }
    if !signals.is_empty() {
        ports.signals.publish(&signals).await;
    }
    announce_waiting(ports.order.as_deref(), ports.signals.as_ref(), &waiting).await;
    settled
}

/// Where it waits again. No attempt that ends in good order changes the suspicion.
fn place(ended: &Ended) -> Waiting {
    let TaskInfo { id, queue, priority, .. } = &ended.attempt.info;
    let (queue, rank, suspicion) = (queue.clone(), ended.attempt.terms.rank, ended.counters().suspicion());
    Waiting { id: *id, queue, priority: *priority, rank, suspicion }
}

fn state_signal(settlement: &Settlement) -> Signal {
    let status = match &settlement.change {
        Change::Finish { end, .. } => Status::from(*end),
        Change::Wait { after, .. } if after.is_zero() => Status::Pending,
        Change::Wait { .. }
        | Change::BecomePending
        | Change::Start
        | Change::RequestCancel
        | Change::Reopen { .. } => Status::Scheduled,
    };
    Signal::State { task: settlement.task, attempt: settlement.attempt, status }
}

/// What was put off or given back says nothing about the work.
fn count(ends: &mut Ends, ended: &Ended, change: &Change) {
    match change {
        Change::Finish { end: End::Completed, .. } => ends.completed += 1,
        Change::Finish { end: End::Failed, .. } => ends.failed += 1,
        Change::Finish { end: End::Cancelled | End::Expired, .. } => ends.cancelled += 1,
        Change::Wait { .. } => ends.retried += u64::from(matches!(ended.ending, Ending::Returned(_))),
        Change::BecomePending | Change::Start | Change::RequestCancel | Change::Reopen { .. } => {}
    }
}

fn log_end(ended: &Ended, change: &Change) {
    let (id, attempt) = (ended.attempt.info.id.0, ended.counters().attempt);
    let task_type = ended.attempt.info.task_type.as_str();
    let seconds = Duration::as_secs_f64(&ended.took);
    let error = match change {
        Change::Finish { error, .. } | Change::Wait { error, .. } => error.as_ref(),
        Change::BecomePending | Change::Start | Change::RequestCancel | Change::Reopen { .. } => None,
    };
    let outcome = change.attempt_outcome().map_or("", AttemptOutcome::as_str);
    if let (Ending::PutOff(after), Change::Wait { .. }) = (&ended.ending, change) {
        tracing::debug!(task_id = id, attempt, task_type, ?after, "put off: its type is held to a rate here");
        return;
    }
    match (change, error) {
        (Change::Finish { end: End::Completed, .. }, _) => {
            tracing::info!(task_id = id, attempt, task_type, seconds, "task succeeded in {seconds:.3}s");
        }
        (Change::Finish { .. }, error) => {
            let error = error.map_or(String::new(), |error| format!(": {}: {}", error.code, error.message));
            tracing::warn!(task_id = id, attempt, task_type, seconds, outcome, "task ended{error}");
        }
        (Change::Wait { after, .. }, error) => {
            let error = error.map_or(String::new(), |error| format!(": {}: {}", error.code, error.message));
            let again = after.as_secs_f64();
            tracing::warn!(
                task_id = id,
                attempt,
                task_type,
                seconds,
                outcome,
                "runs again in {again:.1}s{error}"
            );
        }
        (Change::BecomePending | Change::Start | Change::RequestCancel | Change::Reopen { .. }, _) => {}
    }
}
