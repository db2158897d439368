//! Large batches.

use std::sync::Arc;

use application::ports::{BatchItems, FlowStored, Needed, NewNode, StoreError};
use domain::{
    NewTask, Status, TaskType, Tenant,
    flow::{BATCH_TYPE, BatchCounts},
};

use crate::{
    Harness,
    fixtures::*,
    flows::{batch, complete, counts, echo, flow, follow_up, named, node, stands},
};

/// Ten thousand items are stored in one call, stopped, and summed up.
pub async fn the_largest_batch_is_kept_whole(harness: &dyn Harness) {
    let (store, tenant) = (harness.store(), Tenant::default());
    let store = store.as_ref();
    let ids = flow(store, &batch(domain::flow::MOST_ITEMS)).await;
    assert_eq!(ids.len(), domain::flow::MOST_ITEMS + 1);
    assert!(ids.is_sorted());
    assert_eq!(counts(store, ids[0]).await.pending, 10_000);
    for page in ids[1..].chunks(2_500) {
        store.cancel(&tenant, page).await.expect("cancelled");
    }
    loop {
        let done = store.follow_up(1_000).await.expect("followed up");
        assert!(done.seen > 0, "it concludes");
        if !done.ended.is_empty() {
            assert_eq!(done.ended, [(ids[0], Status::Failed)]);
            break;
        }
    }
    assert_eq!(counts(store, ids[0]).await.cancelled, 10_000);
    assert_counts(store, &tenant).await;
}

/// Items in two pieces; the second one may break.
struct TwoPieces {
    breaks: bool,
}

impl BatchItems for TwoPieces {
    fn count(&self) -> usize {
        5
    }

    fn pieces(&self) -> Box<dyn Iterator<Item = Result<Vec<NewTask>, StoreError>> + Send + '_> {
        let items = |numbers: std::ops::Range<u32>| numbers.map(|number| echo(&number.to_string())).collect();
        let second =
            if self.breaks { Err(StoreError::Unavailable("no disk".into())) } else { Ok(items(3..5)) };
        Box::new([Ok(items(0..3)), second].into_iter())
    }
}

/// A batch that need not fit into memory is one like any other.
pub async fn a_batch_whose_items_are_read_piece_by_piece_is_stored_whole_or_not_at_all(
    harness: &dyn Harness,
) {
    let (store, tenant) = (harness.store(), Tenant::default());
    let store = store.as_ref();
    let head = NewTask { task_type: TaskType::new(BATCH_TYPE).expect("a type"), ..task() };
    let nodes = [NewNode::of(head), node(vec![named(Needed::Node(0), "parent")])];
    let broken = store.submit_batch(&nodes, Arc::new(TwoPieces { breaks: true })).await;
    assert!(broken.is_err(), "{broken:?}");
    assert_eq!(everything(store, &tenant).await, []);
    let stored = store.submit_batch(&nodes, Arc::new(TwoPieces { breaks: false })).await.expect("stored");
    let FlowStored::New(receipts) = stored else { panic!("new tasks, not {stored:?}") };
    let ids: Vec<_> = receipts.iter().map(|receipt| receipt.id).collect();
    assert!(ids.len() == 7 && ids.is_sorted(), "the batch, what follows it, and five items: {ids:?}");
    let inputs: Vec<_> = store.read(&tenant, &ids[2..]).await.expect("read");
    let inputs: Vec<_> = inputs.iter().map(|task| (task.batch, task.input.as_str())).collect();
    assert_eq!(inputs, ["0", "1", "2", "3", "4"].map(|input| (Some(ids[0]), input)));
    assert_eq!(counts(store, ids[0]).await, BatchCounts { pending: 5, ..BatchCounts::default() });
    let worker = worker(store).await;
    for id in &ids[2..] {
        complete(store, worker, *id, "1").await;
    }
    follow_up(store).await;
    assert_eq!(stands(store, ids[0]).await, Status::Completed);
    assert_eq!(stands(store, ids[1]).await, Status::Pending);
    assert_counts(store, &tenant).await;
}
