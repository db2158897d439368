//! Removing tasks.

use std::time::Duration;

use application::ports::{Applied, ChunkRecord, DeleteOutcome, ProgressRecord};
use domain::{Progress, TaskId, Tenant};

use crate::{Harness, fixtures::*};

/// Gone, with history, chunks and progress.
pub async fn ended_and_waiting_tasks_go_with_all_that_belongs_to_them(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let claimed = running(store, worker).await;
    let id = claimed.id;
    let progress = ProgressRecord { task: id, attempt: 1, progress: Progress::new(1, 2, Some("half")) };
    let chunk = ChunkRecord { task: id, attempt: 1, seq: 1, text: "a".to_owned() };
    store.record(worker, &[progress], &[chunk]).await.expect("record");
    settled(store, worker, retry(&claimed, Duration::ZERO)).await;
    let again = start(store, worker, id).await;
    settled(store, worker, success(&again, "1")).await;
    let later = submit_one(store, task_after(SECOND)).await;
    let waiting = submit_one(store, task()).await;
    let spared = submit_one(store, task()).await;
    let outcomes = store.delete(&Tenant::default(), &[id, later, waiting]).await.expect("delete");
    assert_eq!(outcomes, [DeleteOutcome::Deleted; 3]);
    for gone in [id, later, waiting] {
        assert_eq!(find(store, gone).await, None);
        assert_eq!(store.attempts(&Tenant::default(), gone).await.expect("attempts"), None);
        assert_eq!(store.chunks_after(gone, (0, 0), 10).await.expect("chunks"), []);
    }
    harness.advance(2 * SECOND).await;
    assert_eq!(store.promote(10).await.expect("promote"), []);
    let left = store.waiting(&queue("q"), 10).await.expect("waiting");
    assert_eq!(left.iter().map(|waiting| waiting.id).collect::<Vec<_>>(), [spared]);
    assert_eq!(everything(store, &Tenant::default()).await.len(), 1);
    assert_counts(store, &Tenant::default()).await;
    store.delete(&Tenant::default(), &[spared]).await.expect("delete");
    assert_eq!(store.counts(&Tenant::default()).await.expect("counts"), []);
}

/// Its worker would go on without it: cancel it first.
pub async fn running_tasks_are_left_alone(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let claimed = running(store, worker).await;
    let before = read(store, claimed.id).await;
    let outcomes = store.delete(&Tenant::default(), &[claimed.id]).await.expect("delete");
    assert_eq!(outcomes, [DeleteOutcome::Processing]);
    assert_eq!(read(store, claimed.id).await, before);
    settled(store, worker, success(&claimed, "1")).await;
    let outcomes = store.delete(&Tenant::default(), &[claimed.id]).await.expect("delete");
    assert_eq!(outcomes, [DeleteOutcome::Deleted]);
    assert_counts(store, &Tenant::default()).await;
}

/// What comes late for a deleted task finds nothing.
pub async fn deleted_tasks_are_not_settled(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let claimed = running(store, worker).await;
    let (done, released) = (success(&claimed, "1"), release(&claimed));
    settled(store, worker, released.clone()).await;
    store.delete(&Tenant::default(), &[claimed.id]).await.expect("delete");
    assert_eq!(settle(store, worker, done).await, Applied::Stale);
    assert_eq!(settle(store, worker, released).await, Applied::Stale, "nothing bears this attempt any more");
    let chunk = ChunkRecord { task: claimed.id, attempt: 1, seq: 1, text: "late".to_owned() };
    store.record(worker, &[], &[chunk]).await.expect("dropped silently");
    assert_eq!(store.chunks_after(claimed.id, (0, 0), 10).await.expect("chunks"), []);
    assert_eq!(find(store, claimed.id).await, None);
}

/// In order, whatever each is.
pub async fn outcomes_come_one_per_id(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let run = running(store, worker).await.id;
    let waiting = submit_one(store, task()).await;
    let ids = [TaskId(waiting.0 + 1_000), run, waiting, TaskId(-1)];
    let expected =
        [DeleteOutcome::Unknown, DeleteOutcome::Processing, DeleteOutcome::Deleted, DeleteOutcome::Unknown];
    assert_eq!(store.delete(&Tenant::default(), &ids).await.expect("delete"), expected);
    assert_eq!(store.delete(&Tenant::default(), &[waiting]).await.expect("delete"), [DeleteOutcome::Unknown]);
    assert_eq!(store.delete(&Tenant::default(), &[]).await.expect("delete"), []);
}
