//! A queue's live events: how it stands, whenever that has changed, once a second at most. All readers of a process share
//! what is read for them, so that many cost no more than one; one that is slow misses what has changed back meanwhile.

use domain::{QueueName, Tenant};
use futures_util::Stream;

use super::{QueueReport, Queues};
use crate::{board::FRESH, ports::StoreError};

/// One event of a queue.
#[derive(Debug, Clone, PartialEq)]
pub enum QueueEvent {
    /// How it stands: first of all, and at each change.
    Queue(Box<QueueReport>),
    /// The store did not answer; the stream ends here and can be opened anew.
    Interrupted(StoreError),
}

impl Queues {
    /// Watches a queue; `None` where nothing is known of it. The stream ends only when the store does not answer.
    pub async fn watch(
        &self,
        tenant: &Tenant,
        queue: &QueueName,
    ) -> Result<Option<impl Stream<Item = QueueEvent> + Send + 'static + use<>>, StoreError> {
        let Some(first) = self.on_board(tenant, queue).await? else { return Ok(None) };
        let watcher = Watcher {
            queues: self.clone(),
            tenant: tenant.clone(),
            queue: queue.clone(),
            told: None,
            over: false,
        };
        Ok(Some(futures_util::stream::unfold(
            (watcher, Some(first)),
            |(mut watcher, mut first)| async move {
                let event = watcher.next(first.take()).await?;
                Some((event, (watcher, first)))
            },
        )))
    }

    /// The queue as it stood within the last second.
    async fn on_board(&self, tenant: &Tenant, queue: &QueueName) -> Result<Option<QueueReport>, StoreError> {
        let list = async { Ok::<_, StoreError>(self.list(tenant).await?.into()) };
        let reports = self.board.look(tenant.clone(), list).await?;
        Ok(reports.iter().find(|report| report.name == *queue).cloned())
    }
}

struct Watcher {
    queues: Queues,
    tenant: Tenant,
    queue: QueueName,
    /// What the reader was told last.
    told: Option<QueueReport>,
    over: bool,
}

impl Watcher {
    async fn next(&mut self, first: Option<QueueReport>) -> Option<QueueEvent> {
        if self.over {
            return None;
        }
        if let Some(first) = first {
            self.told = Some(first.clone());
            return Some(QueueEvent::Queue(Box::new(first)));
        }
        loop {
            tokio::time::sleep(FRESH).await;
            match self.queues.on_board(&self.tenant, &self.queue).await {
                Ok(Some(report)) if self.told.as_ref().is_none_or(|told| differ(told, &report)) => {
                    self.told = Some(report.clone());
                    return Some(QueueEvent::Queue(Box::new(report)));
                }
                // Also where nothing is known of it any more: it may come back.
                Ok(_) => {}
                Err(error) => {
                    self.over = true;
                    return Some(QueueEvent::Interrupted(error));
                }
            }
        }
    }
}

/// Whether there is something to tell. Time alone is nothing: waits grow and minutes pass in a queue where nothing happens.
fn differ(told: &QueueReport, now: &QueueReport) -> bool {
    let changes = |report: &QueueReport| {
        let ended = report.recent.map(|recent| recent.runs.ended);
        (report.counts.clone(), report.paused, report.workers, report.oldest_waiting.is_some(), ended)
    };
    changes(told) != changes(now)
}
