//! Which ended tasks are removed, and when.

use std::time::Duration;

use application::ports::{FlowStored, Needed, NewNeed, NewNode, Retry, Store, Walk};
use domain::{
    Defaults, End, Failure, NewTask, OwnTerms, Pattern, Retention, RetentionRules, Status, TaskId, TaskType,
    Tenant, TypeRules,
    flow::{BATCH_TYPE, OnFailure},
};

use crate::{Harness, fixtures::*};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// All are kept for so long.
fn all(kept: Duration) -> RetentionRules {
    RetentionRules { otherwise: Retention::For(kept), ..RetentionRules::default() }
}

/// Steps until there is nothing more to look at; answers how many are gone.
async fn removed(store: &dyn Store, rules: &RetentionRules, limit: usize) -> usize {
    let mut count = 0;
    for _ in 0..1_000 {
        let step = store.remove_old(rules, Walk::Due, limit).await.expect("a step");
        assert!(step.count() <= 2 * limit, "a step is bounded");
        count += step.count();
        if !step.more {
            return count;
        }
    }
    panic!("it never comes to an end");
}

/// Tasks that have completed, and one each that was cancelled and failed.
async fn ended(store: &dyn Store, completed: usize) -> (Vec<TaskId>, TaskId, TaskId) {
    let worker = worker(store).await;
    let mut gone = Vec::new();
    for _ in 0..completed {
        let claimed = running(store, worker).await;
        settled(store, worker, success(&claimed, "1")).await;
        gone.push(claimed.id);
    }
    let cancelled = submit_one(store, task()).await;
    store.cancel(&Tenant::default(), &[cancelled]).await.expect("cancel");
    let claimed = running(store, worker).await;
    settled(store, worker, failure(&claimed, Failure::permanent("broken", "for good"))).await;
    (gone, cancelled, claimed.id)
}

/// Not before; and the counts follow.
pub async fn ended_tasks_go_when_their_time_has_passed(harness: &dyn Harness) {
    let store = &*harness.store();
    let (completed, cancelled, failed) = ended(store, 3).await;
    let waiting = submit_one(store, task_after(30 * DAY)).await;
    harness.advance(7 * DAY - SECOND).await;
    assert_eq!(removed(store, &all(7 * DAY), 100).await, 0);
    let young = submit_one(store, task()).await;
    store.cancel(&Tenant::default(), &[young]).await.expect("cancel");
    harness.advance(SECOND).await;
    assert_eq!(removed(store, &all(7 * DAY), 100).await, 4);
    for id in completed.into_iter().chain([cancelled]) {
        assert_eq!(find(store, id).await, None);
        assert_eq!(store.attempts(&Tenant::default(), id).await.expect("attempts"), None);
    }
    for (id, status) in [(failed, Status::Failed), (waiting, Status::Scheduled), (young, Status::Cancelled)] {
        assert_eq!(read(store, id).await.status, status);
    }
    assert_counts(store, &Tenant::default()).await;
    assert_eq!(removed(store, &all(7 * DAY), 100).await, 0, "once");
    harness.advance(7 * DAY).await;
    assert_eq!(removed(store, &all(7 * DAY), 100).await, 1, "the young one has grown old");
}

/// Each step is small, and together they are all of it.
pub async fn removal_comes_in_small_steps(harness: &dyn Harness) {
    let store = &*harness.store();
    ended(store, 11).await;
    harness.advance(8 * DAY).await;
    assert_eq!(removed(store, &all(7 * DAY), 3).await, 12);
    assert_counts(store, &Tenant::default()).await;
}

/// What a submission asks for goes before the rules, be it shorter or longer.
pub async fn a_tasks_own_retention_goes_before_the_rules(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let mut ids = Vec::new();
    for kept in [60 * SECOND, 30 * DAY] {
        let own = OwnTerms { retry: None, keep_for: Some(kept) };
        let id = submit_one(store, NewTask { own, ..task() }).await;
        let claimed = start(store, worker, id).await;
        settled(store, worker, success(&claimed, "1")).await;
        ids.push(id);
    }
    harness.advance(59 * SECOND).await;
    assert_eq!(removed(store, &all(7 * DAY), 100).await, 0);
    harness.advance(SECOND).await;
    assert_eq!(removed(store, &all(7 * DAY), 100).await, 1);
    assert_eq!(find(store, ids[0]).await, None);
    harness.advance(29 * DAY).await;
    assert_eq!(removed(store, &all(7 * DAY), 100).await, 0);
    harness.advance(DAY).await;
    assert_eq!(removed(store, &all(7 * DAY), 100).await, 1);
    assert_counts(store, &Tenant::default()).await;
}

/// By type; what is kept for ever stays, however often it is looked at.
pub async fn types_have_their_own_retention(harness: &dyn Harness) {
    let store = &*harness.store();
    let rule = |pattern: &str, retention| {
        let defaults = Defaults { retention: Some(retention), ..Defaults::default() };
        (Pattern::new(pattern).expect("a pattern"), defaults)
    };
    let types = vec![rule("audit.*", Retention::Forever), rule("draft.*", Retention::For(DAY))];
    let rules = RetentionRules { types: TypeRules(types), otherwise: Retention::For(7 * DAY) };
    let mut ids = Vec::new();
    for name in ["audit.entry", "draft.text", "demo.noop"] {
        let task_type = TaskType::new(name).expect("a type");
        ids.push(submit_one(store, NewTask { task_type, ..task() }).await);
    }
    store.cancel(&Tenant::default(), &ids).await.expect("cancel");
    for (days, gone) in [(1, 1), (5, 0), (1, 1), (400, 0)] {
        harness.advance(DAY * days).await;
        assert_eq!(removed(store, &rules, 100).await, gone, "{days} days on");
    }
    assert_eq!(read(store, ids[0]).await.status, Status::Cancelled);
}

/// The walk begins anew when the rules are others.
pub async fn rules_that_change_hold_for_what_is_there(harness: &dyn Harness) {
    let store = &*harness.store();
    ended(store, 2).await;
    harness.advance(8 * DAY).await;
    let forever = RetentionRules { otherwise: Retention::Forever, ..RetentionRules::default() };
    assert_eq!(removed(store, &all(30 * DAY), 100).await, 0);
    harness.advance(DAY).await;
    assert_eq!(removed(store, &forever, 100).await, 0);
    harness.advance(DAY).await;
    assert_eq!(removed(store, &all(7 * DAY), 100).await, 3);
    assert_counts(store, &Tenant::default()).await;
}

/// A task that ran on while the walk passed it, and one that was brought back afterwards.
pub async fn what_ends_late_goes_late(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let slow = running(store, worker).await;
    let broken = running(store, worker).await;
    settled(store, worker, failure(&broken, Failure::permanent("broken", "for now"))).await;
    harness.advance(8 * DAY).await;
    assert_eq!(removed(store, &all(7 * DAY), 100).await, 0);
    settled(store, worker, success(&slow, "1")).await;
    let again = [Retry { id: broken.id, input: None }];
    store.retry(&Tenant::default(), &again).await.expect("retry");
    let mended = start(store, worker, broken.id).await;
    settled(store, worker, success(&mended, "1")).await;
    harness.advance(7 * DAY - SECOND).await;
    assert_eq!(removed(store, &all(7 * DAY), 100).await, 0);
    harness.advance(SECOND).await;
    assert_eq!(removed(store, &all(7 * DAY), 100).await, 2);
    assert_counts(store, &Tenant::default()).await;
}

/// Stores a flow.
async fn flow(store: &dyn Store, nodes: &[NewNode]) -> Vec<TaskId> {
    match store.submit_flow(nodes).await.expect("stored") {
        FlowStored::New(receipts) => receipts.into_iter().map(|receipt| receipt.id).collect(),
        other => panic!("new tasks, not {other:?}"),
    }
}

async fn follow_up(store: &dyn Store) {
    while store.follow_up(100).await.expect("followed up").seen > 0 {}
}

/// Its result is there when the last of the needed ones has ended, and goes when nobody waits any more.
pub async fn what_waiting_tasks_need_is_kept(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let early = running(store, worker).await;
    settled(store, worker, success(&early, "1")).await;
    let late = submit_one(store, task_after(30 * DAY)).await;
    let need = |id| NewNeed { on: Needed::Stored(id), name: None, on_failure: OnFailure::Cancel };
    let node = NewNode { task: task(), needs: vec![need(early.id), need(late)], is_item: false };
    let waiting = flow(store, &[node]).await[0];
    follow_up(store).await;
    harness.advance(8 * DAY).await;
    assert_eq!(removed(store, &all(7 * DAY), 100).await, 0);
    harness.advance(8 * DAY).await;
    assert_eq!(removed(store, &all(7 * DAY), 100).await, 0);
    assert!(find(store, early.id).await.is_some());
    store.cancel(&Tenant::default(), &[waiting]).await.expect("cancel");
    harness.advance(DAY).await;
    assert_eq!(removed(store, &all(7 * DAY), 100).await, 1, "what was needed until then");
    assert_eq!(find(store, early.id).await, None);
    assert_counts(store, &Tenant::default()).await;
}

/// While it runs, and while it waits for a person, who may run it again and counts them.
pub async fn the_items_of_a_batch_are_kept_until_it_has_completed(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let head = NewTask { task_type: TaskType::new(BATCH_TYPE).expect("a type"), ..task() };
    let item = NewNode { task: task(), needs: Vec::new(), is_item: true };
    let ids = flow(store, &[NewNode::of(head), item.clone(), item]).await;
    let first = start(store, worker, ids[1]).await;
    settled(store, worker, success(&first, "1")).await;
    follow_up(store).await;
    harness.advance(8 * DAY).await;
    assert_eq!(removed(store, &all(7 * DAY), 100).await, 0, "an item runs");
    let second = start(store, worker, ids[2]).await;
    settled(store, worker, failure(&second, Failure::permanent("broken", "for now"))).await;
    follow_up(store).await;
    assert_eq!(read(store, ids[0]).await.status, Status::Failed);
    harness.advance(8 * DAY).await;
    assert_eq!(removed(store, &all(7 * DAY), 100).await, 0, "somebody has to look at it");
    let again = [ids[2], ids[0]].map(|id| Retry { id, input: None });
    store.retry(&Tenant::default(), &again).await.expect("retry");
    let second = start(store, worker, ids[2]).await;
    settled(store, worker, success(&second, "1")).await;
    follow_up(store).await;
    assert_eq!(read(store, ids[0]).await.status, Status::Completed);
    harness.advance(DAY).await;
    assert_eq!(removed(store, &all(7 * DAY), 100).await, 1, "the first item");
    harness.advance(7 * DAY).await;
    assert_eq!(removed(store, &all(7 * DAY), 100).await, 2);
    assert_counts(store, &Tenant::default()).await;
}

/// From an id on, in order, through everything that can be due, by how it had ended.
pub async fn the_whole_history_can_be_walked(harness: &dyn Harness) {
    let store = &*harness.store();
    ended(store, 5).await;
    harness.advance(2 * DAY).await;
    let (mut at, mut counts) = (TaskId(0), [0, 0, 0]);
    for _ in 0..100 {
        let step = store.remove_old(&all(DAY), Walk::After(at), 2).await.expect("a step");
        for (end, count) in step.removed {
            match end {
                End::Completed => counts[0] += count,
                End::Cancelled => counts[1] += count,
                End::Failed | End::Expired => counts[2] += count,
            }
        }
        match step.reached {
            Some(reached) => at = reached,
            None => break,
        }
    }
    assert_eq!(counts, [5, 1, 0]);
    assert_counts(store, &Tenant::default()).await;
}
