//! Keeping the order in step with the store: after a commit, and when something was lost on the way.

use std::{collections::BTreeSet, sync::Arc};

use domain::{QueueName, Suspicion};

use crate::{
    combine::{Combiner, Together},
    ports::{Order, Signal, Signals, Store, StoreError, Waiting},
};

/// Announces beside its callers, and together what comes at the same time. What goes wrong is repaired by the workers'
/// own look at the store: it fails no submission, and a slow order holds none up.
#[derive(Clone)]
pub(crate) struct Announcer(Combiner<Waiting, ()>);

impl Announcer {
    pub(crate) fn new(order: Option<Arc<dyn Order>>, signals: Arc<dyn Signals>) -> Self {
        Self(Combiner::new(Together { most: 2_000, calls: 1 }, move |waiting: Vec<Waiting>| {
            let (order, signals) = (order.clone(), Arc::clone(&signals));
            async move {
                announce_waiting(order.as_deref(), signals.as_ref(), &waiting).await;
                Ok(vec![(); waiting.len()])
            }
        }))
    }

    /// Has these announced soon.
    pub(crate) fn announce(&self, waiting: Vec<Waiting>) {
        if !waiting.is_empty() {
            self.0.leave(waiting);
        }
    }

    /// Waits until what was left here so far has been announced.
    pub(crate) async fn announced(&self) {
        self.0.idle().await;
    }
}

/// After the store's commit: whoever wakes finds something. The order tells of what it takes; of the others, and where
/// it takes nothing, the bus tells.
pub(crate) async fn announce_waiting(order: Option<&dyn Order>, signals: &dyn Signals, waiting: &[Waiting]) {
    let (mut ordered, mut others): (Vec<Waiting>, Vec<Waiting>) =
        waiting.iter().cloned().partition(|task| order.is_some() && task.suspicion == Suspicion::None);
    if let Some(order) = order
        && !ordered.is_empty()
        && let Err(error) = order.push(&ordered).await
    {
        tracing::debug!(%error, "the order took no new tasks; workers find them in the store");
        others.append(&mut ordered);
    }
    if !others.is_empty() {
        let queues: BTreeSet<_> = others.into_iter().map(|task| task.queue).collect();
        signals.publish(&[Signal::work(queues.into_iter().collect())]).await;
    }
}

/// Fills a window of the order that runs low: soon.
pub(crate) async fn refill(
    store: &dyn Store,
    order: &dyn Order,
    queue: &QueueName,
) -> Result<(), StoreError> {
    let (mark, limit) = (order.mark(queue).await?, order.window());
    let tasks = store.waiting_on(queue, limit).await?;
    order.refill(queue, mark, &tasks, tasks.len() < limit).await
}

/// Puts the very first waiting tasks of a queue back into the order, however long it takes to find them.
pub(crate) async fn sweep(
    store: &dyn Store,
    order: &dyn Order,
    queue: &QueueName,
    depth: usize,
) -> Result<(), StoreError> {
    let mark = order.mark(queue).await?;
    let tasks = store.waiting(queue, depth).await?;
    order.refill(queue, mark, &tasks, tasks.len() < depth).await
}
