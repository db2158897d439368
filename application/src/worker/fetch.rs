//! Getting tasks to run: through the order where there is one, else from the store, with the same guards.

use domain::{QueueName, Suspicion, WorkerId};

use super::WorkerPorts;
use crate::{
    ordering::refill,
    ports::{Claim, ClaimedTask, Store, StoreError},
};

/// What a worker could run now.
#[derive(Debug, Clone)]
pub(super) struct Want {
    /// Queues, each with the most that may be taken from it.
    pub(super) queues: Vec<(QueueName, usize)>,
    /// The most in all.
    pub(super) limit: usize,
    /// Look at the store whatever the order says: repairs what the order has lost.
    pub(super) look_at_the_store: bool,
    /// How many suspects of which degree; they take their share of `limit`.
    pub(super) suspects: Vec<(Suspicion, usize)>,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) tasks: Vec<ClaimedTask>,
    /// Whether it is worth asking again at once.
    pub(super) maybe_more: bool,
    /// Whether the order answered; without it, the worker asks the store more often.
    pub(super) order_works: bool,
}

/// Claims at most what is wanted: suspects first, who are few, then the others in their order.
pub(super) async fn fetch(ports: &WorkerPorts, worker: WorkerId, want: &Want) -> Result<Fetched, StoreError> {
    let mut tasks = suspects(ports.store.as_ref(), worker, want).await?;
    let rest = Want { limit: want.limit - tasks.len(), ..want.clone() };
    match in_order(ports, worker, &rest).await {
        Ok(fetched) => {
            tasks.extend(fetched.tasks);
            Ok(Fetched { tasks, ..fetched })
        }
        // These are in hand already: they are run, and the store is asked again for the others.
        Err(_) if !tasks.is_empty() => Ok(Fetched { tasks, maybe_more: true, order_works: true }),
        Err(error) => Err(error),
    }
}

async fn suspects(store: &dyn Store, worker: WorkerId, want: &Want) -> Result<Vec<ClaimedTask>, StoreError> {
    let mut tasks = Vec::new();
    for (suspicion, room) in &want.suspects {
        let queues = want.queues.iter().map(|(queue, _)| queue.clone()).collect();
        let limit = (*room).min(want.limit - tasks.len());
        let claim = Claim::Suspects { queues, suspicion: *suspicion, limit };
        match store.claim(worker, &claim).await {
            Ok(found) => tasks.extend(found),
            Err(_) if !tasks.is_empty() => break,
            Err(error) => return Err(error),
        }
    }
    Ok(tasks)
}

async fn in_order(ports: &WorkerPorts, worker: WorkerId, want: &Want) -> Result<Fetched, StoreError> {
    if want.limit == 0 {
        return Ok(Fetched { tasks: Vec::new(), maybe_more: true, order_works: true });
    }
    let Some(order) = &ports.order else {
        return from_the_store(ports.store.as_ref(), worker, want, true).await;
    };
    let popped = match order.pop(&want.queues, want.limit).await {
        Ok(popped) => popped,
        Err(error) => {
            tracing::debug!(%error, "the order does not answer; claiming from the store");
            return from_the_store(ports.store.as_ref(), worker, want, false).await;
        }
    };
    let mut refilled = false;
    for queue in &popped.low {
        match refill(ports.store.as_ref(), order.as_ref(), queue, order.window()).await {
            Ok(()) => refilled = true,
            Err(error) => tracing::debug!(%error, %queue, "the order's window could not be refilled yet"),
        }
    }
    let mut tasks = Vec::new();
    if !popped.ids.is_empty() {
        tasks = ports.store.claim(worker, &Claim::Ids(popped.ids.clone())).await?;
    }
    if want.look_at_the_store && tasks.len() < want.limit {
        let limit = want.limit - tasks.len();
        match from_the_store(ports.store.as_ref(), worker, &Want { limit, ..want.clone() }, true).await {
            Ok(more) => tasks.extend(more.tasks),
            // What is in hand already has to run: nobody else would, while this worker lives.
            Err(error) if !tasks.is_empty() => {
                tracing::warn!(%error, "no further tasks can be claimed; trying again");
            }
            Err(error) => return Err(error),
        }
    }
    let maybe_more = !popped.ids.is_empty() || refilled;
    Ok(Fetched { tasks, maybe_more, order_works: true })
}

async fn from_the_store(
    store: &dyn Store,
    worker: WorkerId,
    want: &Want,
    order_works: bool,
) -> Result<Fetched, StoreError> {
    let tasks = store.claim(worker, &Claim::Next { queues: want.queues.clone(), limit: want.limit }).await?;
    let maybe_more = !tasks.is_empty();
    Ok(Fetched { tasks, maybe_more, order_works })
}
