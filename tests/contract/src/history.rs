//! When things happened, and how each attempt went.

use std::time::Duration;

use domain::{
    Attempt, AttemptOutcome, ErrorClass, Event, Failure, NewTask, Progress, RetryPolicy, TaskId, Tenant,
    WorkerName,
};

use crate::{Harness, fixtures::*};

/// Created, started (the latest attempt), ended.
pub async fn times_follow_the_life_of_a_task(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let created = now(store).await;
    let id = submit_one(store, task()).await;
    let times = async || {
        let task = read(store, id).await;
        (task.created_at, task.started_at, task.completed_at)
    };
    assert_eq!(times().await, (created, None, None));
    harness.advance(SECOND).await;
    let first = start(store, worker, id).await;
    assert_eq!(times().await, (created, Some(created + SECOND), None));
    harness.advance(SECOND).await;
    settled(store, worker, retry(&first, Duration::ZERO)).await;
    assert_eq!(
        times().await,
        (created, Some(created + SECOND), None),
        "the latest start stays while it waits"
    );
    harness.advance(SECOND).await;
    let second = start(store, worker, id).await;
    assert_eq!(times().await, (created, Some(created + 3 * SECOND), None));
    harness.advance(SECOND).await;
    settled(store, worker, success(&second, "1")).await;
    assert_eq!(times().await, (created, Some(created + 3 * SECOND), Some(created + 4 * SECOND)));
    assert_eq!(read(store, id).await.processing_time(), Some(SECOND));
}

/// None until the first change, then the moment of the last one.
pub async fn updated_at_changes_with_the_state(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let id = submit_one(store, task_after(SECOND)).await;
    assert_eq!(read(store, id).await.updated_at, None);
    harness.advance(2 * SECOND).await;
    assert_eq!(read(store, id).await.updated_at, None, "time alone changes nothing");
    store.promote(10).await.expect("promote");
    assert_eq!(read(store, id).await.updated_at, Some(now(store).await), "promoted");
    harness.advance(SECOND).await;
    let claimed = start(store, worker, id).await;
    let claimed_at = now(store).await;
    assert_eq!(read(store, id).await.updated_at, Some(claimed_at), "claimed");
    harness.advance(SECOND).await;
    let progress =
        application::ports::ProgressRecord { task: id, attempt: 1, progress: Progress::new(1, 2, None) };
    store.record(worker, &[progress], &[]).await.expect("record");
    store.heartbeat(worker).await.expect("heartbeat");
    assert_eq!(read(store, id).await.updated_at, Some(claimed_at), "progress is no change of state");
    settled(store, worker, retry(&claimed, SECOND)).await;
    assert_eq!(read(store, id).await.updated_at, Some(now(store).await), "put back");
    harness.advance(2 * SECOND).await;
    store.cancel(&Tenant::default(), &[id]).await.expect("cancel");
    let ended = read(store, id).await;
    assert_eq!(
        (ended.updated_at, ended.completed_at),
        (Some(now(store).await), Some(now(store).await)),
        "ended"
    );
}

/// A record of each, with who, when, how and why.
pub async fn attempts_are_listed_oldest_first(harness: &dyn Harness) {
    let store = &*harness.store();
    let id = submit_one(store, task()).await;
    let begin = now(store).await;
    let policy = RetryPolicy::default();
    let limits = task().limits;
    let timed_out = Failure::new(ErrorClass::TimedOut, "time_limit", "ran longer than 1 s");
    let busy = Failure::transient("busy", "the server is busy");
    let limited =
        Failure::new(ErrorClass::RateLimited, "rate_limited", "slow down").retry_after(Some(SECOND));
    let fail = |failure| Event::Fail { failure, policy: &policy, limits: &limits, chance: 0.5 };
    let events = [
        Event::Release,
        fail(&busy),
        fail(&limited),
        fail(&timed_out),
        Event::LoseWorker { charged: false },
        Event::Succeed,
    ];
    let mut names = Vec::new();
    for (n, event) in events.into_iter().enumerate() {
        let name = format!("worker-{n}@host");
        let worker = store.register(&profile(&name)).await.expect("register");
        names.push(name);
        store.promote(10).await.expect("promote");
        let claimed = start(store, worker, id).await;
        harness.advance(SECOND).await;
        settled(store, worker, by_event(&claimed, false, event)).await;
        harness.advance(Duration::from_secs(999)).await;
    }
    let attempts = store.attempts(&Tenant::default(), id).await.expect("attempts").expect("known");
    let expected = [
        (AttemptOutcome::Released, None),
        (AttemptOutcome::Failed, Some("busy")),
        (AttemptOutcome::Released, Some("rate_limited")),
        (AttemptOutcome::TimedOut, Some("time_limit")),
        (AttemptOutcome::Crashed, Some("worker_lost")),
        (AttemptOutcome::Completed, None),
    ];
    assert_eq!(attempts.len(), expected.len());
    for (n, (attempt, (outcome, code))) in attempts.iter().zip(expected).enumerate() {
        let started_at = begin + Duration::from_secs(1_000 * n as u64);
        assert_eq!(attempt.attempt as usize, n + 1);
        assert_eq!(attempt.worker.as_ref().map(WorkerName::as_str), Some(names[n].as_str()));
        assert_eq!((attempt.started_at, attempt.ended_at), (started_at, Some(started_at + SECOND)));
        assert_eq!(attempt.outcome, Some(outcome), "attempt {}", n + 1);
        assert_eq!(attempt.error.as_ref().map(|error| error.code.as_str()), code);
    }
    assert_eq!(told(&attempts[3].error), Some(("time_limit", "ran longer than 1 s")));

    // How the last attempt went is kept as it went, not only how the task ended.
    let worker = worker(store).await;
    for (failure_kind, outcome) in [
        (timed_out, AttemptOutcome::TimedOut),
        (Failure::permanent("poison", "three crashes"), AttemptOutcome::Crashed),
        (Failure::permanent("bad", "bad input"), AttemptOutcome::Failed),
    ] {
        let claimed = running(store, worker).await;
        settled(store, worker, failure(&claimed, failure_kind.clone())).await;
        let attempts =
            store.attempts(&Tenant::default(), claimed.id).await.expect("attempts").expect("known");
        assert_eq!(attempts.len(), 1);
        assert_eq!(attempts[0].outcome, Some(outcome));
        assert_eq!(told(&attempts[0].error), told(&Some(failure_kind)));
    }
}

/// The attempt that runs has no end yet.
pub async fn the_running_attempt_is_listed(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let first = running(store, worker).await;
    settled(store, worker, retry(&first, Duration::ZERO)).await;
    harness.advance(SECOND).await;
    let second = start(store, worker, first.id).await;
    let attempts = store.attempts(&Tenant::default(), first.id).await.expect("attempts").expect("known");
    assert_eq!(attempts.len(), 2);
    assert_eq!(attempts[0].outcome, Some(AttemptOutcome::Failed));
    let running = Attempt {
        calls: Vec::new(),
        attempt: 2,
        worker: Some(WorkerName::new("w").expect("a valid worker name")),
        started_at: second.started_at,
        ended_at: None,
        outcome: None,
        error: None,
    };
    assert_eq!(attempts[1], running);
}

/// Cancelled or expired while it waited: the history holds what ran, and no more.
pub async fn an_end_while_waiting_is_no_attempt(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let tried = running(store, worker).await;
    settled(store, worker, retry(&tried, SECOND)).await;
    let untried = submit_one(store, task()).await;
    let expires_at = Some(now(store).await + SECOND);
    let late = submit_one(store, NewTask { expires_at, ..task() }).await;
    store.cancel(&Tenant::default(), &[tried.id, untried]).await.expect("cancel");
    harness.advance(2 * SECOND).await;
    assert_eq!(store.expire(10).await.expect("expire"), [late]);
    for (id, expected) in [(tried.id, 1), (untried, 0), (late, 0)] {
        let attempts = store.attempts(&Tenant::default(), id).await.expect("attempts").expect("known");
        assert_eq!(attempts.len(), expected, "task {id}");
        assert_eq!(read(store, id).await.attempt as usize, expected);
    }
}

/// An id that nobody has.
pub async fn unknown_tasks_have_no_attempts(harness: &dyn Harness) {
    let store = &*harness.store();
    assert_eq!(store.attempts(&Tenant::default(), TaskId(4711)).await.expect("attempts"), None);
    let id = submit_one(store, task()).await;
    assert_eq!(store.attempts(&Tenant::default(), id).await.expect("attempts"), Some(Vec::new()));
}
