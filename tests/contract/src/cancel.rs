//! Stopping tasks.

use std::time::Duration;

use application::ports::CancelOutcome;
use domain::{Event, Failure, NewTask, Status, TaskId, Tenant};

use crate::{Harness, fixtures::*};

/// Pending or scheduled: over, at once.
pub async fn waiting_tasks_end_at_once(harness: &dyn Harness) {
    let store = &*harness.store();
    let ids = submit(store, &[task(), task_after(SECOND)]).await;
    harness.advance(SECOND).await;
    let outcomes = store.cancel(&Tenant::default(), &ids).await.expect("cancel");
    assert_eq!(outcomes, [CancelOutcome::Cancelled; 2]);
    for id in ids {
        let ended = read(store, id).await;
        assert_eq!((ended.status, ended.attempt, ended.cancel_requested), (Status::Cancelled, 0, false));
        assert_eq!((ended.error, ended.run_at, ended.started_at), (None, None, None));
        assert_eq!((ended.completed_at, ended.updated_at), (Some(now(store).await), Some(now(store).await)));
    }
    assert_counts(store, &Tenant::default()).await;
}

/// Running: the worker that holds it is told, as often as it asks.
pub async fn running_tasks_are_marked_for_their_worker(harness: &dyn Harness) {
    let store = &*harness.store();
    let (worker, other) = (worker(store).await, worker(store).await);
    let (first, second, spared) =
        (running(store, worker).await, running(store, worker).await, running(store, other).await);
    assert_eq!(store.cancel_requests(worker).await.expect("requests"), []);
    for _ in 0..2 {
        let outcomes = store.cancel(&Tenant::default(), &[first.id, second.id]).await.expect("cancel");
        assert_eq!(outcomes, [CancelOutcome::Requested; 2]);
    }
    for _ in 0..2 {
        let mut requests = store.cancel_requests(worker).await.expect("requests");
        requests.sort_unstable();
        assert_eq!(requests, [(first.id, 1), (second.id, 1)]);
    }
    assert_eq!(store.cancel_requests(other).await.expect("requests"), []);
    let marked = read(store, first.id).await;
    assert_eq!(
        (marked.status, marked.cancel_requested, marked.completed_at),
        (Status::Processing, true, None)
    );
    assert!(!read(store, spared.id).await.cancel_requested);
    settled(store, worker, by_event(&first, true, Event::StopCancelled)).await;
    assert_eq!(read(store, first.id).await.status, Status::Cancelled);
    assert_counts(store, &Tenant::default()).await;
}

/// What is over stays as it ended.
pub async fn ended_tasks_stay_as_they_are(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let completed = running(store, worker).await;
    settled(store, worker, success(&completed, "1")).await;
    let failed = running(store, worker).await;
    settled(store, worker, failure(&failed, Failure::permanent("bad", "bad input"))).await;
    let cancelled = submit_one(store, task()).await;
    store.cancel(&Tenant::default(), &[cancelled]).await.expect("cancel");
    let expired = submit_one(store, NewTask { expires_at: Some(now(store).await + SECOND), ..task() }).await;
    harness.advance(2 * SECOND).await;
    store.expire(10).await.expect("expire");
    let before = everything(store, &Tenant::default()).await;
    let ids = [completed.id, failed.id, cancelled, expired];
    let expected = [Status::Completed, Status::Failed, Status::Cancelled, Status::Expired];
    let outcomes = store.cancel(&Tenant::default(), &ids).await.expect("cancel");
    assert_eq!(outcomes, expected.map(CancelOutcome::AlreadyEnded));
    assert_eq!(everything(store, &Tenant::default()).await, before);
}

/// In order, whatever each is.
pub async fn outcomes_come_one_per_id(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let done = running(store, worker).await;
    settled(store, worker, success(&done, "1")).await;
    let run = running(store, worker).await;
    let waiting = submit_one(store, task()).await;
    let ids = [waiting, TaskId(waiting.0 + 1_000), run.id, done.id, TaskId(-5)];
    let expected = [
        CancelOutcome::Cancelled,
        CancelOutcome::Unknown,
        CancelOutcome::Requested,
        CancelOutcome::AlreadyEnded(Status::Completed),
        CancelOutcome::Unknown,
    ];
    assert_eq!(store.cancel(&Tenant::default(), &ids).await.expect("cancel"), expected);
    assert_eq!(store.cancel(&Tenant::default(), &[]).await.expect("cancel"), []);
    // The same id twice ends once.
    let twice = submit_one(store, task()).await;
    let outcomes = store.cancel(&Tenant::default(), &[twice, twice]).await.expect("cancel");
    assert_eq!(outcomes[0], CancelOutcome::Cancelled);
    let again = [CancelOutcome::Cancelled, CancelOutcome::AlreadyEnded(Status::Cancelled)];
    assert!(outcomes.len() == 2 && again.contains(&outcomes[1]), "{outcomes:?}");
    assert_counts(store, &Tenant::default()).await;
}

/// A task that had been tried keeps its number and the start of its last attempt.
pub async fn a_cancelled_retry_keeps_its_last_start(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let tried = running(store, worker).await;
    harness.advance(SECOND).await;
    settled(store, worker, retry(&tried, Duration::from_secs(60))).await;
    harness.advance(SECOND).await;
    store.cancel(&Tenant::default(), &[tried.id]).await.expect("cancel");
    let ended = read(store, tried.id).await;
    assert_eq!((ended.status, ended.attempt), (Status::Cancelled, 1));
    assert_eq!(ended.started_at, Some(tried.started_at));
    assert_eq!(ended.error, None, "the cancellation gave no reason");
}

/// Nothing brings a cancelled task back.
pub async fn cancelled_tasks_are_not_claimed(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let ids = submit(store, &[task(), task_after(SECOND)]).await;
    store.cancel(&Tenant::default(), &ids).await.expect("cancel");
    harness.advance(2 * SECOND).await;
    assert_eq!(store.promote(10).await.expect("promote"), []);
    assert_eq!(store.next_due().await.expect("next_due"), None);
    assert_eq!(claim(store, worker, &ids).await, []);
    assert_eq!(claim_next(store, worker, &[("q", 10)], 10).await, []);
    assert_eq!(store.waiting(&queue("q"), 10).await.expect("waiting"), []);
    assert_eq!(store.waiting_queues(&[]).await.expect("queues"), []);
}

/// A request is for the attempt that runs: once it has ended, nobody is asked to stop any more.
pub async fn requests_end_with_the_attempt(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let claimed = running(store, worker).await;
    store.cancel(&Tenant::default(), &[claimed.id]).await.expect("cancel");
    settled(store, worker, success(&claimed, "1")).await;
    assert_eq!(store.cancel_requests(worker).await.expect("requests"), []);
    assert_eq!(read(store, claimed.id).await.status, Status::Completed);
}
