//! Who gets which task.

use std::collections::BTreeMap;

use application::ports::{Claim, ClaimedTask, WorkerProfile};
use domain::{Counters, NewTask, OwnTerms, Rank, RetryPolicy, Status, TaskId, Tenant, WorkerId};

use crate::{Harness, fixtures::*};

/// Of the ids that were asked for: what is scheduled, taken, ended or unknown is passed over.
pub async fn claims_by_id_take_only_what_is_pending(harness: &dyn Harness) {
    let store = &*harness.store();
    let (worker, other) = (worker(store).await, worker(store).await);
    let later = submit_one(store, task_after(SECOND)).await;
    let taken = running(store, other).await.id;
    let ended = running(store, other).await;
    settled(store, other, success(&ended, "1")).await;
    let cancelled = submit_one(store, task()).await;
    store.cancel(&Tenant::default(), &[cancelled]).await.expect("cancel");
    let free = submit_many(store, 2).await;
    let unasked = submit_one(store, task()).await;
    let asked = [free[1], later, taken, ended.id, cancelled, TaskId(unasked.0 + 1_000), free[0], free[1]];
    let claimed = claim(store, worker, &asked).await;
    assert_eq!(sorted_ids(&claimed), free);
    assert_eq!(claim(store, worker, &asked).await, [], "nothing is left of these");
    assert_eq!(claim(store, worker, &[]).await, []);
    assert_eq!(read(store, unasked).await.status, Status::Pending);
    assert_eq!(read(store, later).await.status, Status::Scheduled);
    // A scheduled task that is due waits for its promotion first.
    harness.advance(SECOND).await;
    assert_eq!(claim(store, worker, &[later]).await, []);
    assert_counts(store, &Tenant::default()).await;
}

/// All that the worker needs to run it.
pub async fn a_claim_carries_the_task(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let retry = RetryPolicy { jitter: false, ..RetryPolicy::default() };
    let own = OwnTerms { retry: Some(retry), keep_for: None };
    let submitted = NewTask { tenant: tenant("acme"), own, ..task_in("urgent", 2) };
    let created_at = now(store).await;
    let id = submit_one(store, submitted.clone()).await;
    harness.advance(SECOND).await;
    let started_at = now(store).await;
    let expected = ClaimedTask {
        id,
        tenant: submitted.tenant,
        task_type: submitted.task_type,
        queue: submitted.queue,
        priority: submitted.priority,
        rank: Rank(id.0),
        fairness_key: None,
        input: submitted.input,
        limits: submitted.limits,
        retry: submitted.own.retry.clone().map(Box::new),
        counters: Counters { attempt: 1, failures: 0, crashes: 0, ..Counters::default() },
        created_at,
        started_at,
    };
    assert_eq!(start(store, worker, id).await, expected);
}

/// Inside a queue: the most urgent first, and the oldest of these.
pub async fn the_next_go_by_priority_and_then_by_age(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let urgencies = [5, 0, 9, 5, 0, 9, 3];
    let tasks: Vec<_> = urgencies.iter().map(|urgency| task_in("q", *urgency)).collect();
    let ids = submit(store, &tasks).await;
    submit(store, &[task_in("elsewhere", 0), NewTask { priority: priority(0), ..task_after(SECOND) }]).await;
    let expected = [ids[1], ids[4], ids[6], ids[0], ids[3], ids[2], ids[5]];
    let first = claim_next(store, worker, &[("q", 100)], 3).await;
    assert_eq!(self::ids(&first), expected[..3]);
    // A task that comes late overtakes what is less urgent.
    let late = submit_one(store, task_in("q", 4)).await;
    let rest = claim_next(store, worker, &[("q", 100)], 100).await;
    assert_eq!(self::ids(&rest), [&[late], &expected[3..]].concat());
    assert_eq!(claim_next(store, worker, &[("q", 100)], 100).await, []);
}

/// So many in all, so many of each queue, and only these queues.
pub async fn the_next_keep_to_their_limits(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let tasks: Vec<_> = (0..30).map(|n| task_in(["a", "b", "c"][n % 3], 5)).collect();
    submit(store, &tasks).await;
    assert_eq!(claim_next(store, worker, &[("a", 5), ("b", 5)], 0).await, []);
    assert_eq!(claim_next(store, worker, &[("a", 0)], 5).await, []);
    assert_eq!(claim_next(store, worker, &[], 5).await, []);
    assert_eq!(claim_next(store, worker, &[("nobody", 5)], 5).await, []);
    let taken = by_queue(&claim_next(store, worker, &[("a", 2), ("b", 3), ("nobody", 9)], 20).await);
    assert_eq!(taken, BTreeMap::from([("a".to_owned(), 2), ("b".to_owned(), 3)]));
    let taken = by_queue(&claim_next(store, worker, &[("a", 100), ("b", 1)], 6).await);
    assert_eq!(taken, BTreeMap::from([("a".to_owned(), 5), ("b".to_owned(), 1)]));
    let taken = by_queue(&claim_next(store, worker, &[("a", 100), ("b", 100), ("c", 100)], 100).await);
    assert_eq!(taken, BTreeMap::from([("a".to_owned(), 3), ("b".to_owned(), 6), ("c".to_owned(), 10)]));
}

/// A flood in one queue does not shut out the others: equally urgent tasks are taken turn about.
pub async fn queues_take_turns_inside_a_priority(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    submit(store, &vec![task_in("flood", 5); 100]).await;
    submit(store, &vec![task_in("small", 5); 10]).await;
    submit(store, &vec![task_in("tiny", 5); 2]).await;
    let queues = [("flood", 100), ("small", 100), ("tiny", 100)];
    let taken = by_queue(&claim_next(store, worker, &queues, 12).await);
    assert_eq!(taken, BTreeMap::from([("flood".into(), 5), ("small".into(), 5), ("tiny".into(), 2)]));
    let taken = by_queue(&claim_next(store, worker, &queues, 7).await);
    assert!(
        taken["flood"].abs_diff(taken["small"]) == 1 && taken["flood"] + taken["small"] == 7,
        "{taken:?}"
    );
}

/// A worker with one free slot at a time serves all its queues, in whichever order it names them.
pub async fn single_claims_take_turns_too(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let tasks: Vec<_> = (0..60).map(|n| task_in(["a", "b", "c"][n % 3], 5)).collect();
    submit(store, &tasks).await;
    let mut queues = [("a", 1), ("b", 1), ("c", 1)];
    let mut taken = BTreeMap::<String, usize>::new();
    for round in 0..18 {
        if round >= 9 {
            queues.rotate_left(1);
        }
        for (name, n) in by_queue(&claim_next(store, worker, &queues, 1).await) {
            *taken.entry(name).or_default() += n;
        }
    }
    assert_eq!(taken.values().sum::<usize>(), 18);
    assert!(taken.len() == 3 && taken.values().all(|n| (4..=8).contains(n)), "{taken:?}");
}

/// A more urgent task goes first, whoever's turn it is.
pub async fn priority_goes_before_turns(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    submit(store, &vec![task_in("calm", 6); 10]).await;
    submit(store, &vec![task_in("mixed", 6); 10]).await;
    let urgent = submit(store, &vec![task_in("mixed", 1); 5]).await;
    let claimed = claim_next(store, worker, &[("calm", 100), ("mixed", 100)], 5).await;
    assert_eq!(sorted_ids(&claimed), urgent);
    // A queue at its limit leaves its urgent tasks behind for now.
    let urgent = submit(store, &vec![task_in("mixed", 1); 5]).await;
    let claimed = claim_next(store, worker, &[("calm", 100), ("mixed", 2)], 5).await;
    assert_eq!(by_queue(&claimed), BTreeMap::from([("calm".into(), 3), ("mixed".into(), 2)]));
    assert!(claimed.iter().filter(|task| task.queue == queue("mixed")).all(|task| urgent.contains(&task.id)));
}

/// Dead, retired or never registered: nothing to run.
pub async fn only_living_workers_claim(harness: &dyn Harness) {
    let store = &*harness.store();
    let (dead, retired, alive) = (worker(store).await, worker(store).await, worker(store).await);
    store.retire(retired).await.expect("retire");
    harness.advance(LEASE + SECOND).await;
    assert!(store.heartbeat(alive).await.expect("heartbeat"));
    bury(store, dead).await;
    let id = submit_one(store, task()).await;
    for worker in [dead, retired, WorkerId(alive.0 + 1_000)] {
        assert_eq!(claim(store, worker, &[id]).await, []);
        assert_eq!(claim_next(store, worker, &[("q", 5)], 5).await, []);
    }
    assert_eq!(read(store, id).await.status, Status::Pending);
    // What a worker says it serves and can hold guides it, not the store.
    let narrow = WorkerProfile { queues: vec![queue("elsewhere")], concurrency: 0, ..profile("narrow") };
    let narrow = store.register(&narrow).await.expect("register");
    assert_eq!(store.claim(narrow, &Claim::Ids(vec![id])).await.expect("claim").len(), 1);
}

/// Each claim is a new attempt; the other counters are as the last decision left them.
pub async fn attempts_rise_with_each_claim(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let id = submit_one(store, task()).await;
    for attempt in 1..=4 {
        let claimed = start(store, worker, id).await;
        assert_eq!(
            claimed.counters,
            Counters { attempt, failures: attempt - 1, crashes: 0, ..Counters::default() }
        );
        assert_eq!(read(store, id).await.attempt, attempt);
        settled(store, worker, retry(&claimed, std::time::Duration::ZERO)).await;
        assert_eq!(read(store, id).await.attempt, attempt, "an attempt stays counted while a retry waits");
    }
}

fn by_queue(claimed: &[ClaimedTask]) -> BTreeMap<String, usize> {
    let mut taken = BTreeMap::new();
    for task in claimed {
        *taken.entry(task.queue.to_string()).or_default() += 1;
    }
    taken
}
