//! What comes due, what expires, and who waits.

use std::time::Duration;

use application::ports::Waiting;
use domain::{NewTask, Rank, Start, Status, Tenant};

use crate::{Harness, fixtures::*};

/// Due ones turn pending and are answered for the order; others stay.
pub async fn due_tasks_are_promoted(harness: &dyn Harness) {
    let store = &*harness.store();
    let soon = NewTask { queue: queue("a"), priority: priority(3), ..task_after(SECOND) };
    let ids = submit(store, &[soon, task_after(3 * SECOND), task()]).await;
    assert_eq!(store.promote(10).await.expect("promote"), []);
    harness.advance(SECOND).await;
    let expected = [Waiting {
        id: ids[0],
        queue: queue("a"),
        priority: priority(3),
        rank: Rank(ids[0].0),
        suspicion: domain::Suspicion::None,
    }];
    assert_eq!(store.promote(10).await.expect("promote"), expected);
    assert_eq!(store.promote(10).await.expect("promote"), [], "once");
    let due = read(store, ids[0]).await;
    assert_eq!((due.status, due.run_at, due.attempt), (Status::Pending, None, 0));
    assert_eq!(read(store, ids[1]).await.status, Status::Scheduled);
    let worker = worker(store).await;
    start(store, worker, ids[0]).await;
    assert_counts(store, &Tenant::default()).await;
}

/// At most so many at once; the rest follow.
pub async fn promotion_keeps_its_limit(harness: &dyn Harness) {
    let store = &*harness.store();
    let mut ids = submit(store, &vec![task_after(SECOND); 7]).await;
    harness.advance(SECOND).await;
    let mut promoted = Vec::new();
    for expected in [3, 3, 1, 0] {
        let batch = store.promote(3).await.expect("promote");
        assert_eq!(batch.len(), expected);
        promoted.extend(batch.iter().map(|waiting| waiting.id));
        assert_counts(store, &Tenant::default()).await;
    }
    promoted.sort_unstable();
    ids.sort_unstable();
    assert_eq!(promoted, ids);
}

/// How long until something is due; nothing scheduled, nothing told.
pub async fn the_next_due_is_told(harness: &dyn Harness) {
    let store = &*harness.store();
    assert_eq!(store.next_due().await.expect("next_due"), None);
    submit_one(store, task()).await;
    assert_eq!(store.next_due().await.expect("next_due"), None, "a pending task is not scheduled");
    let wait = Duration::from_micros(90_000_001);
    submit(store, &[task_after(2 * wait), task_after(wait)]).await;
    assert_eq!(store.next_due().await.expect("next_due"), Some(wait));
    harness.advance(SECOND).await;
    assert_eq!(store.next_due().await.expect("next_due"), Some(wait - SECOND));
    harness.advance(wait).await;
    assert_eq!(store.next_due().await.expect("next_due"), Some(Duration::ZERO), "overdue is due");
    store.promote(10).await.expect("promote");
    assert_eq!(store.next_due().await.expect("next_due"), Some(wait - SECOND));
}

/// Pending, scheduled, or back for a retry: whoever still waits when its time has passed.
pub async fn waiting_tasks_expire(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let begin = now(store).await;
    let until = |seconds: u32| Some(begin + SECOND * seconds);
    let pending = submit_one(store, NewTask { expires_at: until(5), ..task() }).await;
    let later = NewTask { start: Start::After(60 * SECOND), expires_at: until(5), ..task() };
    let scheduled = submit_one(store, later).await;
    let tried = submit_one(store, NewTask { expires_at: until(5), ..task() }).await;
    let claimed = start(store, worker, tried).await;
    settled(store, worker, retry(&claimed, Duration::ZERO)).await;
    let patient = submit(store, &[NewTask { expires_at: until(60), ..task() }, task()]).await;
    assert_eq!(store.expire(10).await.expect("expire"), []);
    harness.advance(5 * SECOND + Duration::from_micros(1)).await;
    let mut expired = store.expire(10).await.expect("expire");
    expired.sort_unstable();
    assert_eq!(expired, [pending, scheduled, tried]);
    assert_eq!(store.expire(10).await.expect("expire"), [], "once");
    for (id, attempt) in [(pending, 0), (scheduled, 0), (tried, 1)] {
        let ended = read(store, id).await;
        assert_eq!((ended.status, ended.attempt), (Status::Expired, attempt));
        assert_eq!(told(&ended.error).map(|(code, _)| code), Some("expired"));
        assert_eq!((ended.completed_at, ended.updated_at), (Some(now(store).await), Some(now(store).await)));
        assert_eq!(ended.started_at, (attempt > 0).then_some(claimed.started_at));
    }
    for id in patient {
        assert_eq!(read(store, id).await.status, Status::Pending);
    }
    assert_eq!(claim(store, worker, &[pending, tried]).await, []);
    assert_counts(store, &Tenant::default()).await;
}

/// A worker took it in time.
pub async fn running_tasks_do_not_expire(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let id = submit_one(store, NewTask { expires_at: Some(now(store).await + SECOND), ..task() }).await;
    let claimed = start(store, worker, id).await;
    harness.advance(2 * SECOND).await;
    assert_eq!(store.expire(10).await.expect("expire"), []);
    settled(store, worker, success(&claimed, "1")).await;
    assert_eq!(store.expire(10).await.expect("expire"), []);
    assert_eq!(read(store, id).await.status, Status::Completed);
}

/// At most so many at once; the rest follow.
pub async fn expiry_keeps_its_limit(harness: &dyn Harness) {
    let store = &*harness.store();
    let expires_at = Some(now(store).await + SECOND);
    submit(store, &vec![NewTask { expires_at, ..task() }; 7]).await;
    harness.advance(2 * SECOND).await;
    for expected in [3, 3, 1, 0] {
        assert_eq!(store.expire(3).await.expect("expire").len(), expected);
        assert_counts(store, &Tenant::default()).await;
    }
}

/// The first pending tasks of one queue: priority, then id.
pub async fn the_waiting_are_listed_in_order(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let tasks: Vec<_> = [5, 1, 5, 0, 9].iter().map(|urgency| task_in("q", *urgency)).collect();
    let ids = submit(store, &tasks).await;
    submit(store, &[task_in("other", 0), task_after(SECOND)]).await;
    let taken = submit_one(store, task_in("q", 0)).await;
    start(store, worker, taken).await;
    let foreign = submit_one(store, NewTask { tenant: tenant("acme"), ..task_in("q", 2) }).await;
    let order = [(ids[3], 0), (ids[1], 1), (foreign, 2), (ids[0], 5), (ids[2], 5), (ids[4], 9)];
    let expected = order.map(|(id, urgency)| Waiting {
        id,
        queue: queue("q"),
        priority: priority(urgency),
        rank: Rank(id.0),
        suspicion: domain::Suspicion::None,
    });
    assert_eq!(store.waiting(&queue("q"), 100).await.expect("waiting"), expected);
    assert_eq!(store.waiting(&queue("q"), 2).await.expect("waiting"), expected[..2]);
    assert_eq!(store.waiting(&queue("nobody"), 2).await.expect("waiting"), []);
}

/// Queues with a pending task, each once.
pub async fn queues_that_wait_are_named(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    assert_eq!(store.waiting_queues(&[]).await.expect("queues"), []);
    submit(store, &[task_in("b", 5), task_in("a", 1), task_in("b", 0)]).await;
    let later = NewTask { queue: queue("later"), ..task_after(SECOND) };
    submit(store, &[later, NewTask { tenant: tenant("acme"), ..task_in("theirs", 5) }]).await;
    let taken = submit_one(store, task_in("taken", 5)).await;
    start(store, worker, taken).await;
    let mut queues = store.waiting_queues(&[]).await.expect("queues");
    queues.sort_unstable();
    assert_eq!(queues, [queue("a"), queue("b"), queue("theirs")]);
    for (except, others) in [
        (&["b"][..], &["a", "theirs"][..]),
        (&["theirs", "a", "a"], &["b"]),
        (&["a", "b", "theirs"], &[]),
        (&["0", "aa", "zz"], &["a", "b", "theirs"]),
    ] {
        let except: Vec<_> = except.iter().map(|name| queue(name)).collect();
        let mut found = store.waiting_queues(&except).await.expect("queues");
        found.sort_unstable();
        assert_eq!(found, others.iter().map(|name| queue(name)).collect::<Vec<_>>(), "except {except:?}");
    }
}
