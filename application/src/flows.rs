//! Following up: when a task ends that others wait for, they start, or end as well. Every process does so, and is woken
//! where the end came about in it; what a dead one left behind is found by the next round of any other.

use crate::{
    ordering::announce_waiting,
    ports::{Signal, StoreError},
    worker::WorkerPorts,
};

/// Follows up at most `limit` ends and tells of what came of them; answers how many there were.
pub(crate) async fn follow_up(ports: &WorkerPorts, limit: usize) -> Result<usize, StoreError> {
    let done = ports.store.follow_up(limit).await?;
    let ended = done.ended.into_iter().map(|(task, status)| Signal::State { task, attempt: 0, status });
    let progress =
        done.progress.into_iter().map(|(task, progress)| Signal::Progress { task, attempt: 0, progress });
    let news: Vec<Signal> = progress.chain(ended).collect();
    if !news.is_empty() {
        ports.signals.publish(&news).await;
    }
    announce_waiting(ports.order.as_deref(), ports.signals.as_ref(), &done.released).await;
    Ok(done.seen)
}
