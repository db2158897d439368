//! Keeping the order in step with the store: after a commit, and when something was lost on the way.

use domain::{QueueName, Suspicion};

use crate::ports::{Order, Signal, Signals, Store, StoreError, Waiting};

/// After the store's commit: the order first, so that whoever wakes finds something.
pub(crate) async fn announce_waiting(order: Option<&dyn Order>, signals: &dyn Signals, waiting: &[Waiting]) {
    if waiting.is_empty() {
        return;
    }
    let ordered: Vec<Waiting> =
        waiting.iter().filter(|task| task.suspicion == Suspicion::None).cloned().collect();
    if let Some(order) = order
        && !ordered.is_empty()
        && let Err(error) = order.push(&ordered).await
    {
        tracing::debug!(%error, "the order took no new tasks; workers find them in the store");
    }
    let mut queues: Vec<QueueName> = waiting.iter().map(|task| task.queue.clone()).collect();
    queues.sort();
    queues.dedup();
    signals.publish(&[Signal::Work(queues)]).await;
}

/// Puts the first waiting tasks of a queue back into the order.
pub(crate) async fn refill(
    store: &dyn Store,
    order: &dyn Order,
    queue: &QueueName,
    limit: usize,
) -> Result<(), StoreError> {
    let mark = order.mark(queue).await?;
    let tasks = store.waiting(queue, limit).await?;
    let complete = tasks.len() < limit;
    order.refill(queue, mark, &tasks, complete).await
}
