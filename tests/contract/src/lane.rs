//! The batch lane: what waits for a provider's Batch API.

use std::time::Duration;

use application::ports::{Gather, LaneEntry, Parked, ProviderBatch, Store};
use domain::{NewTask, Start, Status, TaskId, ai::ProviderName};

use crate::{Harness, fixtures::*};

const HOUR: Duration = Duration::from_secs(3600);

fn main() -> ProviderName {
    ProviderName::new("main").expect("a name")
}

fn gather(patience: Duration, most_requests: usize, most_bytes: usize) -> Gather {
    Gather { patience, most_requests, most_bytes }
}

fn request(task: TaskId, body: &str) -> Parked {
    Parked { task, provider: main(), model: "m — é".to_owned(), body: body.to_owned() }
}

/// A task that waits for an hour, with its request in the lane.
async fn parked(store: &dyn Store, body: &str) -> TaskId {
    let id = submit_one(store, NewTask { start: Start::After(HOUR), ..task() }).await;
    store.park(&request(id, body)).await.expect("parked");
    id
}

async fn batches(store: &dyn Store) -> Vec<ProviderBatch> {
    store.batches_to_look_at(&main(), SECOND, 10).await.expect("batches")
}

async fn answer_of(store: &dyn Store, task: TaskId) -> Option<LaneEntry> {
    store.lane_entry(task).await.expect("an entry").0
}

/// Requests are gathered once there are enough, or the oldest has waited; of tasks that wait, and each once.
pub async fn requests_are_gathered_in_their_order(harness: &dyn Harness) {
    let store = &*harness.store();
    let first = parked(store, r#"{"n":1,"é":"\"quoted\""}"#).await;
    harness.advance(SECOND).await;
    let second = parked(store, "{}").await;
    let now = submit_one(store, task()).await;
    store.park(&request(now, "{}")).await.expect("parked");
    assert_eq!(
        store.gather(&main(), gather(60 * SECOND, 10, 1_000)).await,
        Ok(false),
        "too early for so few"
    );
    assert_eq!(store.gather(&main(), gather(60 * SECOND, 2, 1_000)).await, Ok(true), "it is full");
    assert_eq!(store.gather(&main(), gather(Duration::ZERO, 2, 1_000)).await, Ok(false), "nobody else waits");
    let batch = batches(store).await.remove(0);
    assert_eq!((&batch.file, &batch.remote), (&None, &None));
    let expected = vec![(first, r#"{"n":1,"é":"\"quoted\""}"#.to_owned()), (second, "{}".to_owned())];
    assert_eq!(store.requests_of(batch.id).await, Ok(expected));
    assert_eq!(batches(store).await, [], "somebody looks at it");
    harness.advance(SECOND).await;
    let sent = ProviderBatch { file: Some("f".to_owned()), remote: Some("b".to_owned()), ..batch };
    assert_eq!(store.note_batch(&sent).await, Ok(true));
    let by_another = ProviderBatch { file: Some("g".to_owned()), remote: None, ..sent.clone() };
    assert_eq!(store.note_batch(&by_another).await, Ok(false), "who comes second changes nothing");
    assert_eq!(store.note_batch(&ProviderBatch { id: sent.id + 1, ..sent.clone() }).await, Ok(false));
    assert_eq!(batches(store).await, [sent]);
}

/// A batch holds no more bytes than it may, but for one request that is longer by itself.
pub async fn a_batch_is_bounded_in_bytes(harness: &dyn Harness) {
    let store = &*harness.store();
    for body in ["longer than ten", "01234", "012345"] {
        parked(store, body).await;
        harness.advance(SECOND).await;
    }
    let mut sizes = Vec::new();
    while store.gather(&main(), gather(SECOND, 10, 10)).await.expect("gathered") {
        for batch in batches(store).await {
            sizes.push(store.requests_of(batch.id).await.expect("requests").len());
        }
    }
    assert_eq!(sizes, [1, 1, 1], "the first is too long by itself, the others are together");
}

/// An answer is kept with the request, and its task comes due; so does one that has none when the batch is over.
pub async fn answers_make_their_tasks_due(harness: &dyn Harness) {
    let store = &*harness.store();
    let (answered, other, gone) =
        (parked(store, "a").await, parked(store, "b").await, parked(store, "c").await);
    assert_eq!(store.gather(&main(), gather(Duration::ZERO, 10, 1_000)).await, Ok(true));
    let batch = batches(store).await.remove(0);
    store.withdraw_request(gone).await.expect("withdrawn");
    let answers = [(answered, r#"{"said":"Hi — é"}"#.to_owned()), (gone, "{}".to_owned())];
    assert_eq!(store.deliver(batch.id, &answers).await, Ok(1));
    assert_eq!(store.deliver(batch.id + 1, &[(other, "{}".to_owned())]).await, Ok(0), "not that batch's");
    assert_eq!(store.deliver(batch.id, &answers[..1]).await, Ok(1), "again, after a crash");
    let due: Vec<_> = store.promote(10).await.expect("promoted").into_iter().map(|place| place.id).collect();
    assert_eq!(due, [answered]);
    assert_eq!(
        answer_of(store, answered).await.and_then(|entry| entry.answer).as_deref(),
        Some(answers[0].1.as_str())
    );
    store.close_batch(batch.id, "nothing").await.expect("closed");
    let due: Vec<_> = store.promote(10).await.expect("promoted").into_iter().map(|place| place.id).collect();
    assert_eq!(due, [other]);
    assert_eq!(answer_of(store, other).await.and_then(|entry| entry.answer).as_deref(), Some("nothing"));
    assert_eq!(read(store, gone).await.status, Status::Scheduled, "as before");
    harness.advance(SECOND).await;
    assert_eq!(batches(store).await, []);
}

/// A request that is parked again begins anew; those of tasks that have ended are forgotten.
pub async fn requests_go_with_their_tasks(harness: &dyn Harness) {
    let store = &*harness.store();
    let (kept, over) = (parked(store, "a").await, parked(store, "b").await);
    assert_eq!(store.gather(&main(), gather(Duration::ZERO, 10, 1_000)).await, Ok(true));
    let batch = batches(store).await.remove(0);
    store.deliver(batch.id, &[(kept, "x".to_owned()), (over, "x".to_owned())]).await.expect("delivered");
    store.park(&request(kept, "c")).await.expect("parked");
    let again = answer_of(store, kept).await.expect("it is there");
    assert_eq!((again.request.body.as_str(), again.answer), ("c", None));
    assert_eq!(store.forget_requests(10).await, Ok(0));
    store.cancel(&Default::default(), &[over]).await.expect("cancelled");
    assert_eq!(store.forget_requests(10).await, Ok(1));
    assert_eq!(answer_of(store, over).await, None);
}
