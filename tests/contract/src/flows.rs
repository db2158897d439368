//! Flows: tasks that wait for others, and batches.

use std::sync::Arc;

use application::ports::{
    FlowStored, FollowedUp, ListPage, Needed, NewNeed, NewNode, Receipt, Retry, RetryOutcome, Store,
    Submitted, TaskFilter,
};
use domain::{
    Event, Failure, Idempotency, IdempotencyKey, NewTask, Status, TaskId, TaskType, Tenant, WorkerId,
    flow::{BATCH_TYPE, BatchCounts, NodeName, OnFailure},
};

use crate::{Harness, fixtures::*};

fn after(id: TaskId, on_failure: OnFailure) -> NewNeed {
    NewNeed { on: Needed::Stored(id), name: None, on_failure }
}

pub(crate) fn named(on: Needed, name: &str) -> NewNeed {
    NewNeed { on, name: Some(NodeName::new(name).expect("a name")), on_failure: OnFailure::Cancel }
}

pub(crate) fn node(needs: Vec<NewNeed>) -> NewNode {
    NewNode { task: task(), needs, is_item: false }
}

pub(crate) fn echo(input: &str) -> NewTask {
    NewTask { input: json(input), ..task() }
}

pub(crate) async fn flow(store: &dyn Store, nodes: &[NewNode]) -> Vec<TaskId> {
    match store.submit_flow(nodes).await.expect("stored") {
        FlowStored::New(receipts) => receipts.into_iter().map(|receipt| receipt.id).collect(),
        other => panic!("new tasks, not {other:?}"),
    }
}

/// A task that waits for others.
async fn waiting(store: &dyn Store, needs: Vec<NewNeed>) -> TaskId {
    flow(store, &[node(needs)]).await[0]
}

/// Follows up until nothing is left, and answers all that was done.
pub(crate) async fn follow_up(store: &dyn Store) -> FollowedUp {
    let mut all = FollowedUp::default();
    loop {
        let done = store.follow_up(100).await.expect("followed up");
        if done.seen == 0 {
            return all;
        }
        all.seen += done.seen;
        all.released.extend(done.released);
        all.ended.extend(done.ended);
        all.progress.extend(done.progress);
    }
}

fn released(done: &FollowedUp) -> Vec<TaskId> {
    let mut ids: Vec<_> = done.released.iter().map(|waiting| waiting.id).collect();
    ids.sort_unstable();
    ids
}

pub(crate) async fn complete(store: &dyn Store, worker: WorkerId, id: TaskId, result: &str) {
    let claimed = start(store, worker, id).await;
    settled(store, worker, success(&claimed, result)).await;
}

async fn fail(store: &dyn Store, worker: WorkerId, id: TaskId) {
    let claimed = start(store, worker, id).await;
    settled(store, worker, failure(&claimed, Failure::permanent("bad_input", "it is bad"))).await;
}

pub(crate) async fn stands(store: &dyn Store, id: TaskId) -> Status {
    read(store, id).await.status
}

/// Waiting costs nothing until the end; then the waiting one is PENDING, in its place.
pub async fn a_task_starts_when_all_that_it_waits_for_have_completed(harness: &dyn Harness) {
    let store = harness.store();
    let store = store.as_ref();
    let worker = worker(store).await;
    let needed = submit_many(store, 2).await;
    let id = waiting(store, needed.iter().map(|id| after(*id, OnFailure::Cancel)).collect()).await;
    let task = read(store, id).await;
    assert_eq!((task.status, task.run_at, task.waits_for), (Status::Scheduled, None, Some(2)));
    let needs: Vec<_> = task.needs.expect("needs").after.into_iter().map(|need| need.task).collect();
    assert_eq!(needs, needed);
    assert_eq!(store.next_due().await.expect("next"), None, "no moment is waited for");
    harness.advance(SECOND * 3600).await;
    assert_eq!(store.promote(10).await.expect("promoted"), []);
    assert!(claim(store, worker, &[id]).await.is_empty(), "nobody can claim it");

    complete(store, worker, needed[0], "1").await;
    let first = follow_up(store).await;
    assert_eq!((released(&first), read(store, id).await.waits_for), (vec![], Some(1)));
    complete(store, worker, needed[1], "1").await;
    assert_eq!(released(&follow_up(store).await), [id]);
    let task = read(store, id).await;
    assert_eq!((task.status, task.waits_for), (Status::Pending, None));
    complete(store, worker, id, "2").await;
    assert_eq!(follow_up(store).await, FollowedUp::default(), "nothing is left behind");
    assert_counts(store, &Tenant::default()).await;
}

/// What ended before the submission is followed up like any other end.
pub async fn what_has_ended_already_is_followed_up(harness: &dyn Harness) {
    let store = harness.store();
    let store = store.as_ref();
    let worker = worker(store).await;
    let needed = submit_many(store, 3).await;
    complete(store, worker, needed[0], "1").await;
    fail(store, worker, needed[1]).await;
    store.delete(&Tenant::default(), &needed[2..]).await.expect("deleted");
    assert_eq!(follow_up(store).await, FollowedUp::default(), "nobody needs them yet");
    let starts = waiting(store, vec![after(needed[0], OnFailure::Cancel)]).await;
    let gives_up = waiting(store, vec![after(needed[1], OnFailure::Cancel)]).await;
    let of_nobody = waiting(store, vec![after(needed[2], OnFailure::Run)]).await;
    let done = follow_up(store).await;
    assert_eq!(released(&done), [starts, of_nobody]);
    assert_eq!(done.ended, [(gives_up, Status::Cancelled)]);
    assert_counts(store, &Tenant::default()).await;
}

/// It does not wait for the others, says who failed, and takes those along that wait for it.
pub async fn a_task_gives_up_when_one_that_it_needs_fails(harness: &dyn Harness) {
    let store = harness.store();
    let store = store.as_ref();
    let worker = worker(store).await;
    let needed = submit_many(store, 2).await;
    let ids = flow(
        store,
        &[
            node(vec![named(Needed::Stored(needed[0]), "fetch"), after(needed[1], OnFailure::Cancel)]),
            node(vec![named(Needed::Node(0), "parent")]),
            NewNode {
                needs: vec![NewNeed { on_failure: OnFailure::Run, ..named(Needed::Node(0), "parent") }],
                ..node(vec![])
            },
        ],
    )
    .await;
    assert_eq!(read(store, ids[0]).await.needs.expect("links").then, ids[1..]);
    fail(store, worker, needed[0]).await;
    let done = follow_up(store).await;
    let mut ended = done.ended.clone();
    ended.sort_unstable();
    assert_eq!(ended, [(ids[0], Status::Cancelled), (ids[1], Status::Cancelled)]);
    assert_eq!(released(&done), [ids[2]], "one of them runs all the same");
    let error = read(store, ids[0]).await.error;
    let message = format!(
        "task {} (fetch), which this task waits for, ended as FAILED: bad_input: it is bad",
        needed[0]
    );
    assert_eq!(told(&error), Some(("dependency_failed", message.as_str())));
    assert_eq!(stands(store, needed[1]).await, Status::Pending, "what it waited for besides is left alone");
    complete(store, worker, needed[1], "1").await;
    assert_eq!(follow_up(store).await.ended, []);
    assert_counts(store, &Tenant::default()).await;
}

/// Cancelled, expired, deleted, discarded: whoever waits is told.
pub async fn every_way_of_ending_is_followed_up(harness: &dyn Harness) {
    let (store, tenant) = (harness.store(), Tenant::default());
    let store = store.as_ref();
    let worker = worker(store).await;
    let mut needed = submit_many(store, 5).await;
    let expires = NewTask { expires_at: Some(now(store).await + SECOND * 10), ..task() };
    needed.push(submit_one(store, expires).await);
    let mut waiters = Vec::new();
    for id in &needed {
        waiters.push(waiting(store, vec![after(*id, OnFailure::Run)]).await);
    }
    store.cancel(&tenant, &needed[..1]).await.expect("cancelled");
    store.delete(&tenant, &needed[1..2]).await.expect("deleted");
    fail(store, worker, needed[2]).await;
    store.discard(&tenant, &needed[2..3]).await.expect("discarded");
    let running = start(store, worker, needed[3]).await;
    store.cancel(&tenant, &needed[3..4]).await.expect("requested");
    settled(store, worker, by_event(&running, true, Event::StopCancelled)).await;
    assert_eq!(released(&follow_up(store).await), waiters[..4]);
    // A worker that dies with it for the third time.
    for _ in 0..3 {
        let claimed = store
            .claim(worker, &application::ports::Claim::Ids(vec![needed[4]]))
            .await
            .expect("claimed")
            .pop();
        let claimed = match claimed {
            Some(claimed) => claimed,
            None => {
                let suspicion = [domain::Suspicion::Shared, domain::Suspicion::Alone];
                let mut found = None;
                for suspicion in suspicion {
                    let wish =
                        application::ports::Claim::Suspects { queues: vec![queue("q")], suspicion, limit: 1 };
                    found = found.or(store.claim(worker, &wish).await.expect("claimed").pop());
                }
                found.expect("a suspect")
            }
        };
        settled(store, worker, by_event(&claimed, false, Event::LoseWorker { charged: true })).await;
    }
    assert_eq!(released(&follow_up(store).await), waiters[4..5]);
    harness.advance(SECOND * 11).await;
    assert_eq!(store.expire(10).await.expect("expired"), needed[5..]);
    assert_eq!(released(&follow_up(store).await), waiters[5..]);
    assert_counts(store, &tenant).await;
}

/// Who stops waiting is not woken, and leaves nothing behind.
pub async fn who_has_stopped_waiting_is_left_alone(harness: &dyn Harness) {
    let (store, tenant) = (harness.store(), Tenant::default());
    let store = store.as_ref();
    let worker = worker(store).await;
    let needed = submit_one(store, task()).await;
    let patience = NewTask { expires_at: Some(now(store).await + SECOND * 10), ..task() };
    let ids = flow(
        store,
        &[
            node(vec![after(needed, OnFailure::Cancel)]),
            node(vec![after(needed, OnFailure::Cancel)]),
            NewNode { task: patience, needs: vec![after(needed, OnFailure::Cancel)], is_item: false },
        ],
    )
    .await;
    store.cancel(&tenant, &ids[..1]).await.expect("cancelled");
    store.delete(&tenant, &ids[1..2]).await.expect("deleted");
    harness.advance(SECOND * 11).await;
    assert_eq!(store.expire(10).await.expect("expired"), ids[2..]);
    complete(store, worker, needed, "1").await;
    let done = follow_up(store).await;
    assert_eq!((done.released, done.ended), (vec![], vec![]));
    assert_eq!(stands(store, ids[0]).await, Status::Cancelled);
    assert_eq!(stands(store, ids[2]).await, Status::Expired);
    assert_counts(store, &tenant).await;
}

/// An input is put together when its task may start, and stays so.
pub async fn results_are_put_into_the_inputs_that_refer_to_them(harness: &dyn Harness) {
    let store = harness.store();
    let store = store.as_ref();
    let worker = worker(store).await;
    let needed = submit_one(store, task()).await;
    let refers = |input: &str| NewNode {
        task: echo(input),
        needs: vec![named(Needed::Stored(needed), "fetch")],
        is_item: false,
    };
    let ids = flow(
        store,
        &[
            refers(r#"{"page":{"$result":"fetch","path":"/pages/1"},"all":{"$result":"fetch"}}"#),
            refers(r#"{"$result":"fetch","path":"/nothing"}"#),
            refers(r#"{"plain": 1.0e2 }"#),
        ],
    )
    .await;
    complete(store, worker, needed, r#"{"pages":["one","two"]}"#).await;
    let done = follow_up(store).await;
    assert_eq!(released(&done), [ids[0], ids[2]]);
    assert_eq!(done.ended, [(ids[1], Status::Failed)]);
    let claimed = start(store, worker, ids[0]).await;
    // Objects are written in the order of their names.
    assert_eq!(claimed.input.as_str(), r#"{"all":{"pages":["one","two"]},"page":"two"}"#);
    assert_eq!(read(store, ids[0]).await.input, claimed.input);
    assert_eq!(start(store, worker, ids[2]).await.input.as_str(), r#"{"plain": 1.0e2 }"#);
    let error = read(store, ids[1]).await.error.expect("an error");
    assert_eq!(error.code, "input_reference");
    assert!(error.message.contains("has nothing at \"/nothing\""), "{}", error.message);
}

/// Asking again answers the first node, and stores nothing.
pub async fn a_flow_is_stored_once_and_whole(harness: &dyn Harness) {
    let store = harness.store();
    let store = store.as_ref();
    let key = IdempotencyKey::new("once").expect("a key");
    let once = |fingerprint| Some(Idempotency { key: key.clone(), fingerprint: [fingerprint; 32] });
    let nodes = |fingerprint| {
        let head = NewTask { idempotency: once(fingerprint), ..task() };
        [NewNode::of(head), node(vec![named(Needed::Node(0), "parent")])]
    };
    let first = match store.submit_flow(&nodes(1)).await.expect("stored") {
        FlowStored::New(receipts) => receipts,
        other => panic!("new tasks, not {other:?}"),
    };
    let [head, follower] = first.as_slice() else { panic!("two receipts") };
    assert!(head.id < follower.id && follower.run_at.is_none());
    assert_eq!(stands(store, head.id).await, Status::Pending);
    let again = store.submit_flow(&nodes(1)).await.expect("answered");
    assert_eq!(again, FlowStored::Not(Submitted::Replayed(Receipt { ..*head })));
    let other = store.submit_flow(&nodes(2)).await.expect("answered");
    assert_eq!(other, FlowStored::Not(Submitted::KeyReused(head.id)));
    assert_eq!(everything(store, &Tenant::default()).await.len(), 2);
    assert_counts(store, &Tenant::default()).await;
}

/// A person runs a failed task again while others still wait: its next end is the one that counts.
pub async fn a_needed_task_that_runs_again_is_waited_for_again(harness: &dyn Harness) {
    let (store, tenant) = (harness.store(), Tenant::default());
    let store = store.as_ref();
    let worker = worker(store).await;
    let again = |id| [Retry { id, input: None }];
    // Before anybody has looked at its end.
    let needed = submit_many(store, 2).await;
    let cancels = waiting(store, vec![after(needed[0], OnFailure::Cancel)]).await;
    fail(store, worker, needed[0]).await;
    store.retry(&tenant, &again(needed[0])).await.expect("again");
    let done = follow_up(store).await;
    assert_eq!((done.released, done.ended), (vec![], vec![]));
    complete(store, worker, needed[0], "1").await;
    assert_eq!(released(&follow_up(store).await), [cancels]);

    // After its end was taken note of.
    let needed = submit_many(store, 2).await;
    let runs = waiting(store, needed.iter().map(|id| after(*id, OnFailure::Run)).collect()).await;
    fail(store, worker, needed[0]).await;
    assert_eq!(released(&follow_up(store).await), []);
    assert_eq!(read(store, runs).await.waits_for, Some(1));
    store.retry(&tenant, &again(needed[0])).await.expect("again");
    assert_eq!(read(store, runs).await.waits_for, Some(2));
    complete(store, worker, needed[1], "1").await;
    assert_eq!(released(&follow_up(store).await), [], "it waits for the one that runs again");
    complete(store, worker, needed[0], "1").await;
    assert_eq!(released(&follow_up(store).await), [runs]);
    assert_counts(store, &tenant).await;
}

/// A chain that broke is mended by running what failed again with what gave up because of it.
pub async fn a_task_that_never_ran_looks_at_its_needs_again(harness: &dyn Harness) {
    let (store, tenant) = (harness.store(), Tenant::default());
    let store = store.as_ref();
    let worker = worker(store).await;
    let needed = submit_one(store, task()).await;
    let refers = NewNode {
        task: echo(r#"{"$result":"fetch"}"#),
        needs: vec![named(Needed::Stored(needed), "fetch")],
        is_item: false,
    };
    let id = flow(store, &[refers]).await[0];
    fail(store, worker, needed).await;
    assert_eq!(follow_up(store).await.ended, [(id, Status::Cancelled)]);
    let retry = |id| Retry { id, input: None };

    let outcomes = store.retry(&tenant, &[retry(id)]).await.expect("again");
    assert_eq!(outcomes, [RetryOutcome::WaitingForOthers(0)]);
    assert_eq!(stands(store, id).await, Status::Scheduled);
    assert_eq!(follow_up(store).await.ended, [(id, Status::Cancelled)], "nothing has changed");

    let outcomes = store.retry(&tenant, &[retry(id), retry(needed)]).await.expect("again");
    assert!(
        matches!(outcomes[..], [RetryOutcome::WaitingForOthers(0), RetryOutcome::Waiting(_, 1)]),
        "{outcomes:?}"
    );
    assert_eq!(follow_up(store).await.ended, []);
    complete(store, worker, needed, "42").await;
    assert_eq!(released(&follow_up(store).await), [id]);
    let claimed = start(store, worker, id).await;
    assert_eq!(claimed.input.as_str(), "42");
    settled(store, worker, failure(&claimed, Failure::permanent("bad", "bad"))).await;
    // Once it has run, its input is what it is.
    let outcomes = store.retry(&tenant, &[retry(id)]).await.expect("again");
    assert!(matches!(outcomes[..], [RetryOutcome::Waiting(_, 1)]), "{outcomes:?}");
    assert_counts(store, &tenant).await;
}

pub(crate) fn batch(items: usize) -> Vec<NewNode> {
    let head = NewTask { task_type: TaskType::new(BATCH_TYPE).expect("a type"), ..task() };
    let item = NewNode { task: task(), needs: vec![], is_item: true };
    [NewNode::of(head)].into_iter().chain(vec![item; items]).collect()
}

pub(crate) async fn counts(store: &dyn Store, id: TaskId) -> BatchCounts {
    let counted = store.batch_counts(&Tenant::default(), &[id]).await.expect("counted");
    assert_eq!(counted.len(), 1, "one batch: {counted:?}");
    counted[0].1
}

/// It comes on with its items, sums them up, and waits for those again that are run again.
pub async fn a_batch_concludes_when_all_its_items_have_ended(harness: &dyn Harness) {
    let (store, tenant) = (harness.store(), Tenant::default());
    let store = store.as_ref();
    let worker = worker(store).await;
    let mut nodes = batch(3);
    nodes.push(node(vec![NewNeed { on_failure: OnFailure::Run, ..named(Needed::Node(0), "parent") }]));
    let ids = flow(store, &nodes).await;
    let (id, items, then) = (ids[0], &ids[1..4], ids[4]);
    let stood = read(store, id).await;
    assert_eq!((stood.status, stood.waits_for, stood.batch), (Status::Scheduled, Some(3), None));
    assert_eq!(read(store, items[0]).await.batch, Some(id));
    let of_batch = |statuses: &[Status]| TaskFilter {
        statuses: statuses.to_vec(),
        batch: Some(id),
        ..TaskFilter::default()
    };
    let list = |filter: TaskFilter, before| async move {
        let page = ListPage { before, limit: 2 };
        let listed = store.list(&Tenant::default(), &filter, page).await.expect("listed");
        listed.into_iter().map(|task| task.id).collect::<Vec<_>>()
    };
    assert_eq!(list(of_batch(&[]), None).await, [items[2], items[1]]);
    assert_eq!(list(of_batch(&[]), Some(items[1])).await, [items[0]]);

    complete(store, worker, items[0], "1").await;
    fail(store, worker, items[1]).await;
    let done = follow_up(store).await;
    let progress = done.progress.last().map(|(of, progress)| (*of, progress.current, progress.total));
    assert_eq!(progress, Some((id, 2, 3)));
    let reported = read(store, id).await.progress.expect("progress").progress;
    assert_eq!((reported.current, reported.total), (2, 3));
    let counted = BatchCounts { completed: 1, failed: 1, pending: 1, ..BatchCounts::default() };
    assert_eq!(counts(store, id).await, counted);
    assert_eq!(list(of_batch(&[Status::Failed, Status::Pending]), None).await, [items[2], items[1]]);

    complete(store, worker, items[2], "1").await;
    let done = follow_up(store).await;
    assert_eq!((done.ended.as_slice(), released(&done)), (&[(id, Status::Failed)][..], vec![then]));
    let ended = read(store, id).await;
    assert_eq!(
        ended.result.expect("a result").as_str(),
        r#"{"total":3,"completed":2,"failed":1,"cancelled":0,"expired":0}"#
    );
    assert_eq!(ended.error.expect("an error").code, "batch_incomplete");

    let retries = [items[1], id].map(|id| Retry { id, input: None });
    let outcomes = store.retry(&tenant, &retries).await.expect("again");
    assert!(
        matches!(outcomes[..], [RetryOutcome::Waiting(_, 1), RetryOutcome::WaitingForOthers(0)]),
        "{outcomes:?}"
    );
    let stood = read(store, id).await;
    assert_eq!((stood.status, stood.waits_for, stood.result), (Status::Scheduled, Some(1), None));
    assert_eq!(follow_up(store).await.ended, []);
    complete(store, worker, items[1], "1").await;
    assert_eq!(follow_up(store).await.ended, [(id, Status::Completed)]);
    assert_eq!(read(store, id).await.error, None);
    assert_eq!(follow_up(store).await, FollowedUp::default());
    assert_counts(store, &tenant).await;
}

/// The items of a batch may wait for each other.
pub async fn items_of_a_batch_wait_for_each_other(harness: &dyn Harness) {
    let store = harness.store();
    let store = store.as_ref();
    let worker = worker(store).await;
    let mut nodes = batch(3);
    nodes[2].needs = vec![named(Needed::Node(1), "first")];
    nodes[3].needs = vec![named(Needed::Node(2), "second")];
    let ids = flow(store, &nodes).await;
    fail(store, worker, ids[1]).await;
    let done = follow_up(store).await;
    assert_eq!(
        done.ended,
        [(ids[2], Status::Cancelled), (ids[3], Status::Cancelled), (ids[0], Status::Failed)]
    );
    // Running what did not complete again mends all of it.
    let retries: Vec<_> = [1, 2, 3, 0].map(|place| Retry { id: ids[place], input: None }).to_vec();
    store.retry(&Tenant::default(), &retries).await.expect("again");
    for id in &ids[1..] {
        complete(store, worker, *id, "1").await;
        follow_up(store).await;
    }
    assert_eq!(stands(store, ids[0]).await, Status::Completed);
    assert_counts(store, &Tenant::default()).await;
}

/// However many follow up at once, each waiting task starts once, and none is forgotten.
pub async fn many_may_follow_up_at_once(harness: &dyn Harness) {
    let store = harness.store();
    let worker = worker(store.as_ref()).await;
    let needed = submit_many(store.as_ref(), 60).await;
    let mut waiters = Vec::new();
    for pair in needed.chunks(2) {
        waiters.push(
            waiting(store.as_ref(), pair.iter().map(|id| after(*id, OnFailure::Cancel)).collect()).await,
        );
    }
    let claimed = claim(store.as_ref(), worker, &needed).await;
    let following: Vec<_> = (0..4)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let mut freed = Vec::new();
                for _ in 0..40 {
                    let done = store.follow_up(3).await.expect("followed up");
                    freed.extend(done.released.into_iter().map(|waiting| waiting.id));
                }
                freed
            })
        })
        .collect();
    for one in &claimed {
        settled(store.as_ref(), worker, success(one, "1")).await;
    }
    let mut freed = Vec::new();
    for one in following {
        freed.extend(one.await.expect("no panic"));
    }
    freed.extend(released(&follow_up(store.as_ref()).await));
    freed.sort_unstable();
    assert_eq!(freed, waiters);
    assert_counts(store.as_ref(), &Tenant::default()).await;
}

/// Whichever comes first, the end or the submission of who waits for it: that one starts.
pub async fn an_end_that_races_with_a_submission_is_not_missed(harness: &dyn Harness) {
    let store = harness.store();
    let worker = worker(store.as_ref()).await;
    let mut waiters = Vec::new();
    for _ in 0..25 {
        let claimed = running(store.as_ref(), worker).await;
        let (ending, waiting_for) = (Arc::clone(&store), claimed.id);
        let end = tokio::spawn(async move { settled(ending.as_ref(), worker, success(&claimed, "1")).await });
        waiters.push(waiting(store.as_ref(), vec![after(waiting_for, OnFailure::Cancel)]).await);
        end.await.expect("settled");
    }
    assert_eq!(released(&follow_up(store.as_ref()).await), waiters);
}

/// Who waits to follow up is woken by an end that somebody needs.
pub async fn an_end_that_is_needed_wakes_who_follows_up(harness: &dyn Harness) {
    let store = harness.store();
    let worker = worker(store.as_ref()).await;
    let needed = submit_one(store.as_ref(), task()).await;
    waiting(store.as_ref(), vec![after(needed, OnFailure::Cancel)]).await;
    let listening = Arc::clone(&store);
    let woken = tokio::spawn(async move {
        loop {
            listening.need_ended().await;
            if !listening.follow_up(10).await.expect("followed up").released.is_empty() {
                return;
            }
        }
    });
    complete(store.as_ref(), worker, needed, "1").await;
    tokio::time::timeout(SECOND * 30, woken).await.expect("woken").expect("no panic");
}
