//! What becomes of decisions about running attempts.

use std::time::Duration;

use application::ports::Applied;
use domain::{AttemptOutcome, Change, Counters, End, Event, Failure, Status, Tenant, WorkerId};

use crate::{Harness, fixtures::*};

/// Completed, with what the handler returned.
pub async fn a_finish_ends_the_task(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let claimed = running(store, worker).await;
    harness.advance(SECOND).await;
    let mut done = success(&claimed, r#"{"sum": 30}"#);
    done.details = Some(json(r#"{"usage":{}}"#));
    settled(store, worker, done).await;
    let ended = read(store, claimed.id).await;
    let at = now(store).await;
    assert_eq!((ended.status, ended.attempt, ended.cancel_requested), (Status::Completed, 1, false));
    assert_eq!(ended.result, Some(json(r#"{"sum": 30}"#)));
    assert_eq!(ended.details, Some(json(r#"{"usage":{}}"#)));
    assert_eq!(ended.error, None);
    assert_eq!((ended.completed_at, ended.updated_at), (Some(at), Some(at)));
    assert_eq!(ended.started_at, Some(claimed.started_at));
    assert_eq!(ended.processing_time(), Some(SECOND));
    assert_eq!(claim(store, worker, &[claimed.id]).await, [], "it is over");
    assert_counts(store, &Tenant::default()).await;
}

/// However a task ends, it says so, with the reason where there is one.
pub async fn every_end_is_kept_with_its_error(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let message = "division by zero: \"y\" is 0; 'é' 😀 \n give another";
    let error = Failure::permanent("division_by_zero", message);
    for (end, error, status) in [
        (End::Completed, None, Status::Completed),
        (End::Failed, Some(error), Status::Failed),
        (End::Cancelled, None, Status::Cancelled),
        (End::Cancelled, Some(Failure::permanent("stopped", "on request")), Status::Cancelled),
    ] {
        let claimed = running(store, worker).await;
        let change = Change::Finish { end, counters: claimed.counters, error: error.clone() };
        settled(store, worker, settlement(&claimed, true, change)).await;
        let ended = read(store, claimed.id).await;
        assert_eq!((ended.status, told(&ended.error)), (status, told(&error)));
        assert_eq!((ended.result, ended.details), (None, None));
    }
    assert_counts(store, &Tenant::default()).await;
}

/// No wait: it stands among the waiting again, in its old place.
pub async fn a_wait_of_zero_is_pending_at_once(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let claimed = running(store, worker).await;
    let behind = submit_one(store, task()).await;
    settled(store, worker, release(&claimed)).await;
    let waiting = read(store, claimed.id).await;
    assert_eq!((waiting.status, waiting.attempt, waiting.run_at), (Status::Pending, 1, None));
    assert_eq!((waiting.error, waiting.completed_at), (None, None));
    let again = claim_next(store, worker, &[("q", 10)], 10).await;
    assert_eq!(ids(&again), [claimed.id, behind]);
    assert_eq!(again[0].counters, Counters { attempt: 2, failures: 0, crashes: 0, ..Counters::default() });
    assert_counts(store, &Tenant::default()).await;
}

/// A back-off: it waits for its moment, showing what went wrong.
pub async fn a_wait_is_scheduled_and_shows_its_error(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let claimed = running(store, worker).await;
    let wait = Duration::from_micros(2_500_001);
    settled(store, worker, retry(&claimed, wait)).await;
    let waiting = read(store, claimed.id).await;
    assert_eq!((waiting.status, waiting.attempt), (Status::Scheduled, 1));
    assert_eq!(waiting.run_at, Some(now(store).await + wait));
    assert_eq!(told(&waiting.error), Some(("busy", "the server is busy")));
    assert_eq!(waiting.started_at, Some(claimed.started_at));
    assert_eq!(claim(store, worker, &[claimed.id]).await, []);
    harness.advance(wait).await;
    assert_eq!(store.promote(10).await.expect("promote").len(), 1);
    let due = read(store, claimed.id).await;
    assert_eq!((due.status, due.run_at), (Status::Pending, None));
    assert_eq!(told(&due.error), Some(("busy", "the server is busy")));
    // The next attempt has no error yet; once released, it still has none.
    let again = start(store, worker, claimed.id).await;
    assert_eq!(read(store, claimed.id).await.error, None);
    assert_eq!(again.counters, Counters { attempt: 2, failures: 1, crashes: 0, ..Counters::default() });
    settled(store, worker, release(&again)).await;
    assert_eq!(read(store, claimed.id).await.error, None, "the last attempt had no error");
    assert_counts(store, &Tenant::default()).await;
}

/// Another attempt's settlement changes nothing.
pub async fn settlements_are_fenced(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let first = running(store, worker).await;
    settled(store, worker, release(&first)).await;
    let second = start(store, worker, first.id).await;
    let before = read(store, first.id).await;
    let mut early = success(&second, "1");
    early.attempt = 3;
    let mut none = success(&second, "1");
    none.attempt = 0;
    for wrong in [success(&first, "1"), failure(&first, Failure::permanent("late", "too late")), early, none]
    {
        assert_eq!(settle(store, worker, wrong).await, Applied::Stale);
        assert_eq!(read(store, first.id).await, before);
    }
    settled(store, worker, success(&second, "2")).await;
    assert_eq!(read(store, first.id).await.result, Some(json("2")));
    // Nobody holds a task that waits.
    let waiting = running(store, worker).await;
    settled(store, worker, release(&waiting)).await;
    assert_eq!(settle(store, worker, success(&waiting, "1")).await, Applied::Stale);
    let mut next = success(&waiting, "1");
    next.attempt = 2;
    assert_eq!(settle(store, worker, next).await, Applied::Stale);
    assert_eq!(read(store, waiting.id).await.status, Status::Pending);
    assert_counts(store, &Tenant::default()).await;
}

/// Only the holder settles.
pub async fn another_workers_settlement_is_stale(harness: &dyn Harness) {
    let store = &*harness.store();
    let (holder, other) = (worker(store).await, worker(store).await);
    let claimed = running(store, holder).await;
    for stranger in [other, WorkerId(other.0 + 1_000)] {
        for wrong in [success(&claimed, "1"), release(&claimed)] {
            assert_eq!(settle(store, stranger, wrong).await, Applied::Stale);
        }
    }
    assert_eq!(read(store, claimed.id).await.status, Status::Processing);
    settled(store, holder, success(&claimed, "1")).await;
    assert_eq!(settle(store, other, success(&claimed, "1")).await, Applied::Stale, "another one ended it");
}

/// One answer per settlement, in order; the bad ones do not spoil the good ones.
pub async fn answers_come_in_order(harness: &dyn Harness) {
    let store = &*harness.store();
    let (holder, other) = (worker(store).await, worker(store).await);
    submit_many(store, 6).await;
    let mut tasks = claim_next(store, holder, &[("q", 5)], 5).await;
    tasks.extend(claim_next(store, other, &[("q", 1)], 1).await);
    store.cancel(&Tenant::default(), &[tasks[2].id]).await.expect("cancel");
    let mut gone = success(&tasks[0], "1");
    gone.task.0 += 1_000;
    let batch = [
        success(&tasks[4], "4"),
        success(&tasks[5], "5"),
        release(&tasks[2]),
        retry(&tasks[1], SECOND),
        gone,
        failure(&tasks[3], Failure::permanent("bad", "bad input")),
        success(&tasks[0], "0"),
    ];
    let expected = [
        Applied::Yes,
        Applied::Stale,
        Applied::CancelRequested,
        Applied::Yes,
        Applied::Stale,
        Applied::Yes,
        Applied::Yes,
    ];
    assert_eq!(store.settle(holder, &batch).await.expect("settle"), expected);
    let ids: Vec<_> = tasks.iter().map(|task| task.id).collect();
    let kept = store.read(&Tenant::default(), &ids).await.expect("read");
    let statuses: Vec<_> = kept.iter().map(|task| task.status).collect();
    let expected = [
        Status::Completed,
        Status::Scheduled,
        Status::Processing,
        Status::Failed,
        Status::Completed,
        Status::Processing,
    ];
    assert_eq!(statuses, expected);
    assert_eq!((&kept[0].result, &kept[4].result), (&Some(json("0")), &Some(json("4"))));
    assert_eq!(store.settle(holder, &[]).await.expect("settle"), []);
    assert_counts(store, &Tenant::default()).await;
}

/// An answer that was lost on the way is asked for again, at once or much later.
pub async fn a_resent_settlement_is_answered_yes(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    submit_many(store, 5).await;
    let tasks = claim_next(store, worker, &[("q", 5)], 5).await;
    let batch = [
        success(&tasks[0], "1"),
        failure(&tasks[1], Failure::permanent("bad", "bad input")),
        failure(&tasks[2], Failure::new(domain::ErrorClass::TimedOut, "time_limit", "too slow")),
        retry(&tasks[3], SECOND),
        release(&tasks[4]),
    ];
    assert_eq!(store.settle(worker, &batch).await.expect("settle"), [Applied::Yes; 5]);
    assert_eq!(store.settle(worker, &batch).await.expect("settle"), [Applied::Yes; 5]);
    // The waiting ones have gone on meanwhile: one runs again, the other has ended.
    let again = start(store, worker, tasks[4].id).await;
    store.cancel(&Tenant::default(), &[tasks[3].id]).await.expect("cancel");
    assert_eq!(store.settle(worker, &batch).await.expect("settle"), [Applied::Yes; 5]);
    settled(store, worker, success(&again, "2")).await;
    assert_eq!(store.settle(worker, &batch).await.expect("settle"), [Applied::Yes; 5]);
    assert_eq!(read(store, tasks[4].id).await.result, Some(json("2")));
    assert_counts(store, &Tenant::default()).await;
}

/// What has been applied is not applied again.
pub async fn a_resent_settlement_changes_nothing(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let (done, waits) = (running(store, worker).await, running(store, worker).await);
    let batch = [success(&done, "1"), retry(&waits, SECOND)];
    store.settle(worker, &batch).await.expect("settle");
    let before = everything(store, &Tenant::default()).await;
    harness.advance(SECOND).await;
    assert_eq!(store.settle(worker, &batch).await.expect("settle"), [Applied::Yes; 2]);
    assert_eq!(everything(store, &Tenant::default()).await, before);
    assert_eq!(
        store.attempts(&Tenant::default(), waits.id).await.expect("attempts").expect("known").len(),
        1
    );
    // The same twice in one call is the same as twice in a row.
    let twice = running(store, worker).await;
    let answers = store.settle(worker, &[release(&twice), release(&twice)]).await.expect("settle");
    assert_eq!(answers, [Applied::Yes; 2]);
    assert_eq!(
        store.attempts(&Tenant::default(), twice.id).await.expect("attempts").expect("known").len(),
        1
    );
    assert_counts(store, &Tenant::default()).await;
}

/// A zombie that ends its attempt otherwise than it was ended is told that this does not hold.
pub async fn a_different_settlement_of_an_ended_attempt_is_stale(harness: &dyn Harness) {
    let store = &*harness.store();
    let zombie = worker(store).await;
    let claimed = running(store, zombie).await;
    harness.advance(LEASE + SECOND).await;
    bury(store, zombie).await;
    settled(store, zombie, by_event(&claimed, false, Event::LoseWorker { charged: false })).await;
    let before = read(store, claimed.id).await;
    assert_eq!(told(&before.error).map(|(code, _)| code), Some("worker_lost"));
    assert_eq!(settle(store, zombie, success(&claimed, "1")).await, Applied::Stale);
    assert_eq!(read(store, claimed.id).await, before);
    let second = worker(store).await;
    let again = start(store, second, claimed.id).await;
    assert_eq!(settle(store, zombie, success(&claimed, "1")).await, Applied::Stale);
    settled(store, second, success(&again, "2")).await;
    assert_eq!(settle(store, zombie, success(&claimed, "1")).await, Applied::Stale);
    assert_eq!(read(store, claimed.id).await.result, Some(json("2")));
}

/// A retry would bury the request: the worker decides again.
pub async fn a_wait_that_did_not_know_of_a_cancellation_is_refused(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let claimed = running(store, worker).await;
    store.cancel(&Tenant::default(), &[claimed.id]).await.expect("cancel");
    let before = read(store, claimed.id).await;
    for unaware in [release(&claimed), retry(&claimed, SECOND)] {
        assert_eq!(settle(store, worker, unaware).await, Applied::CancelRequested);
        assert_eq!(read(store, claimed.id).await, before, "nothing changed");
    }
    settled(store, worker, by_event(&claimed, true, Event::Release)).await;
    assert_eq!(read(store, claimed.id).await.status, Status::Cancelled);
    // A decision that knew and waits all the same is the domain's business.
    let claimed = running(store, worker).await;
    store.cancel(&Tenant::default(), &[claimed.id]).await.expect("cancel");
    let change = Change::Wait {
        after: Duration::ZERO,
        counters: claimed.counters,
        outcome: AttemptOutcome::Released,
        error: None,
    };
    settled(store, worker, settlement(&claimed, true, change)).await;
    let waiting = read(store, claimed.id).await;
    assert_eq!((waiting.status, waiting.cancel_requested), (Status::Pending, false));
    assert_counts(store, &Tenant::default()).await;
}

/// Work that is done is kept, whether or not somebody wanted it stopped.
pub async fn a_finish_need_not_know_of_a_cancellation(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let (done, failed) = (running(store, worker).await, running(store, worker).await);
    store.cancel(&Tenant::default(), &[done.id, failed.id]).await.expect("cancel");
    settled(store, worker, success(&done, "1")).await;
    settled(store, worker, failure(&failed, Failure::permanent("bad", "bad input"))).await;
    assert_eq!(read(store, done.id).await.status, Status::Completed);
    assert_eq!(read(store, failed.id).await.status, Status::Failed);
}

/// A task that was stopped or failed keeps what it had.
pub async fn partial_results_are_kept(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    for end in [End::Failed, End::Cancelled] {
        let claimed = running(store, worker).await;
        let change = Change::Finish { end, counters: claimed.counters, error: None };
        let mut partial = settlement(&claimed, true, change);
        partial.result = Some(json("\"half a\""));
        partial.details = Some(json(r#"{"incomplete":true}"#));
        settled(store, worker, partial).await;
        let ended = read(store, claimed.id).await;
        assert_eq!(ended.result, Some(json("\"half a\"")));
        assert_eq!(ended.details, Some(json(r#"{"incomplete":true}"#)));
    }
}

/// A lease that ran out but that nobody took may still be settled: it saves a paid call.
pub async fn a_dead_workers_task_can_still_be_settled(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let (late, dead) = (running(store, worker).await, running(store, worker).await);
    harness.advance(LEASE + SECOND).await;
    settled(store, worker, success(&late, "1")).await;
    bury(store, worker).await;
    settled(store, worker, success(&dead, "2")).await;
    assert_eq!(store.orphans(10).await.expect("orphans"), []);
    assert_eq!(read(store, dead.id).await.result, Some(json("2")));
    assert_counts(store, &Tenant::default()).await;
}
