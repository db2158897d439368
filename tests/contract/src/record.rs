//! Progress and live output.

use std::time::Duration;

use application::ports::{ChunkRecord, ProgressRecord};
use domain::{Progress, TaskId, WorkerId, task::ProgressReport};

use crate::{Harness, fixtures::*};

fn progress(task: TaskId, attempt: u32, current: u64) -> ProgressRecord {
    ProgressRecord { task, attempt, progress: Progress::new(current, 10, Some("step")) }
}

fn chunk(task: TaskId, attempt: u32, seq: u64) -> ChunkRecord {
    ChunkRecord { task, attempt, seq, text: format!("{attempt}.{seq} ") }
}

/// The last one, with the moment it came.
pub async fn the_last_progress_is_shown(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let (first, second) = (running(store, worker).await.id, running(store, worker).await.id);
    assert_eq!(read(store, first).await.progress, None);
    store.record(worker, &[progress(first, 1, 1), progress(second, 1, 7)], &[]).await.expect("record");
    harness.advance(SECOND).await;
    let wordless = ProgressRecord { task: first, attempt: 1, progress: Progress::new(2, 10, None) };
    store.record(worker, std::slice::from_ref(&wordless), &[]).await.expect("record");
    let expected = ProgressReport { progress: wordless.progress, updated_at: now(store).await };
    assert_eq!(read(store, first).await.progress, Some(expected));
    let other = read(store, second).await.progress.expect("recorded");
    assert_eq!((other.progress.current, other.progress.message.as_deref()), (7, Some("step")));
    // Several of one task in one call: the last one stands.
    store.record(worker, &[progress(first, 1, 3), progress(first, 1, 4)], &[]).await.expect("record");
    assert_eq!(read(store, first).await.progress.expect("recorded").progress.current, 4);
    store.record(worker, &[], &[]).await.expect("nothing to record");
}

/// What was last reported is shown until something newer is, also once the task waits again or has ended.
pub async fn progress_outlives_the_attempt(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let claimed = running(store, worker).await;
    let shown = async || read(store, claimed.id).await.progress.map(|report| report.progress.current);
    store.record(worker, &[progress(claimed.id, 1, 9)], &[]).await.expect("record");
    settled(store, worker, retry(&claimed, Duration::ZERO)).await;
    assert_eq!(shown().await, Some(9));
    let again = start(store, worker, claimed.id).await;
    store.record(worker, &[progress(claimed.id, 2, 1)], &[]).await.expect("record");
    assert_eq!(shown().await, Some(1), "a later attempt starts anew");
    settled(store, worker, success(&again, "1")).await;
    assert_eq!(shown().await, Some(1));
}

/// By attempt and then by number, however they came.
pub async fn chunks_come_in_order_over_attempts(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let claimed = running(store, worker).await;
    let (id, other) = (claimed.id, running(store, worker).await.id);
    store.record(worker, &[], &[chunk(id, 1, 1), chunk(other, 1, 1), chunk(id, 1, 2)]).await.expect("record");
    store.record(worker, &[], &[chunk(id, 1, 3)]).await.expect("record");
    settled(store, worker, retry(&claimed, Duration::ZERO)).await;
    start(store, worker, id).await;
    store.record(worker, &[progress(id, 2, 1)], &[chunk(id, 2, 1), chunk(id, 2, 2)]).await.expect("record");
    let expected = [chunk(id, 1, 1), chunk(id, 1, 2), chunk(id, 1, 3), chunk(id, 2, 1), chunk(id, 2, 2)];
    assert_eq!(store.chunks_after(id, (0, 0), 100).await.expect("chunks"), expected);
    assert_eq!(store.chunks_after(other, (0, 0), 100).await.expect("chunks"), [chunk(other, 1, 1)]);
    assert_eq!(store.chunks_after(TaskId(4711), (0, 0), 100).await.expect("chunks"), []);
}

/// After a place, at most so many.
pub async fn chunks_can_be_read_on(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let claimed = running(store, worker).await;
    let id = claimed.id;
    let first: Vec<_> = (1..=12).map(|seq| chunk(id, 1, seq)).collect();
    store.record(worker, &[], &first).await.expect("record");
    settled(store, worker, retry(&claimed, Duration::ZERO)).await;
    start(store, worker, id).await;
    let second: Vec<_> = (1..=3).map(|seq| chunk(id, 2, seq)).collect();
    store.record(worker, &[], &second).await.expect("record");
    let all = [first, second].concat();
    for limit in [1, 4, 15, 100] {
        let mut seen: Vec<ChunkRecord> = Vec::new();
        loop {
            let after = seen.last().map_or((0, 0), |chunk| (chunk.attempt, chunk.seq));
            let more = store.chunks_after(id, after, limit).await.expect("chunks");
            assert!(more.len() <= limit);
            if more.is_empty() {
                break;
            }
            seen.extend(more);
        }
        assert_eq!(seen, all, "limit {limit}");
    }
    assert_eq!(store.chunks_after(id, (1, 99), 100).await.expect("chunks").len(), 3);
    assert_eq!(store.chunks_after(id, (2, 3), 100).await.expect("chunks"), []);
}

/// A worker that does not know whether a write went through sends it again.
pub async fn resent_chunks_are_kept_once(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let id = running(store, worker).await.id;
    store.record(worker, &[], &[chunk(id, 1, 1), chunk(id, 1, 2)]).await.expect("record");
    store.record(worker, &[], &[chunk(id, 1, 2), chunk(id, 1, 3)]).await.expect("record again");
    let kept = store.chunks_after(id, (0, 0), 100).await.expect("chunks");
    assert_eq!(kept, [chunk(id, 1, 1), chunk(id, 1, 2), chunk(id, 1, 3)]);
}

/// Another attempt, another worker, a task that waits, has ended or never was: dropped, without an error, and
/// without harm to what came along.
pub async fn what_is_not_held_is_dropped_silently(harness: &dyn Harness) {
    let store = &*harness.store();
    let (worker, other) = (worker(store).await, worker(store).await);
    let held = running(store, worker).await.id;
    let foreign = running(store, other).await.id;
    let waiting = running(store, worker).await;
    settled(store, worker, release(&waiting)).await;
    let ended = running(store, worker).await;
    settled(store, worker, success(&ended, "1")).await;
    let wrong = [
        (held, 2),
        (held, 0),
        (foreign, 1),
        (waiting.id, 1),
        (waiting.id, 2),
        (ended.id, 1),
        (TaskId(held.0 + 1_000), 1),
    ];
    let mut notes: Vec<_> = wrong.iter().map(|(task, attempt)| progress(*task, *attempt, 5)).collect();
    let mut chunks: Vec<_> = wrong.iter().map(|(task, attempt)| chunk(*task, *attempt, 1)).collect();
    notes.insert(3, progress(held, 1, 6));
    chunks.insert(3, chunk(held, 1, 1));
    store.record(worker, &notes, &chunks).await.expect("record");
    store.record(WorkerId(other.0 + 1_000), &notes, &chunks).await.expect("record");
    for (task, _) in wrong.iter().filter(|(task, _)| *task != held) {
        assert_eq!(find(store, *task).await.and_then(|task| task.progress), None, "task {task}");
        assert_eq!(store.chunks_after(*task, (0, 0), 10).await.expect("chunks"), [], "task {task}");
    }
    assert_eq!(read(store, held).await.progress.expect("recorded").progress.current, 6);
    assert_eq!(store.chunks_after(held, (0, 0), 10).await.expect("chunks"), [chunk(held, 1, 1)]);
}

/// Numbers up to the last bit, and text of any kind.
pub async fn extreme_numbers_and_texts_are_kept(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let id = running(store, worker).await.id;
    let extreme = Progress::new(u64::MAX - 1, u64::MAX, Some("é 😀 '; --\n"));
    let note = ProgressRecord { task: id, attempt: 1, progress: extreme.clone() };
    let texts = ["", " ", "\n\n", "😀", "'; DROP TABLE chunk; --", &"x".repeat(300_000)];
    let chunks: Vec<_> = (1..)
        .zip(texts)
        .map(|(seq, text)| ChunkRecord { task: id, attempt: 1, seq, text: text.to_owned() })
        .collect();
    store.record(worker, &[note], &chunks).await.expect("record");
    assert_eq!(read(store, id).await.progress.expect("recorded").progress, extreme);
    assert!(store.chunks_after(id, (0, 0), 10).await.expect("chunks") == chunks, "chunks came back changed");
}
