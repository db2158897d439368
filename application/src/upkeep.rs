//! What every process does now and then, so that nothing waits for one that died: promote what is due, expire what is
//! late, take over from dead workers, and put back what the order has lost.

use std::{collections::HashMap, sync::Arc, time::Duration};

use domain::{Change, Event, LeaseTerms, State, Status, WorkerId, decide};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    ordering::{announce_waiting, refill},
    ports::{Applied, Order, Orphan, Overdue, Settlement, Signal, Signals, Store, StoreError, Waiting},
};

/// The longest pause between two rounds.
const ROUND: Duration = Duration::from_millis(500);
/// The shortest, when something is due soon.
const SHORTEST: Duration = Duration::from_millis(5);
/// How often lost places in the order are looked for.
const SWEEP: Duration = Duration::from_secs(5);
/// How much is done in one step.
const STEP: usize = 500;
/// How many of a queue's first tasks a sweep puts back. What was popped and lost is among the first.
const SWEEP_DEPTH: usize = 1000;

/// The upkeep of one process.
pub struct Upkeep {
    store: Arc<dyn Store>,
    order: Option<Arc<dyn Order>>,
    signals: Arc<dyn Signals>,
    lease: LeaseTerms,
    watched: HashMap<WorkerId, (Overdue, Instant)>,
    next_sweep: Instant,
}

/// What one round has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Round {
    /// Tasks that became due.
    pub promoted: usize,
    /// Tasks that ended as EXPIRED.
    pub expired: usize,
    /// Workers declared dead.
    pub buried: usize,
    /// Tasks taken over from workers that are gone.
    pub taken_over: usize,
}

impl Upkeep {
    /// Upkeep over these ports.
    pub fn new(
        store: Arc<dyn Store>,
        order: Option<Arc<dyn Order>>,
        signals: Arc<dyn Signals>,
        lease: LeaseTerms,
    ) -> Self {
        Self { store, order, signals, lease, watched: HashMap::new(), next_sweep: Instant::now() }
    }

    /// Rounds until `stop`, through outages.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut complained = false;
        loop {
            let pause = match self.round().await {
                Ok(done) if done == Round::default() => self.pause().await,
                Ok(_) => {
                    complained = false;
                    Duration::ZERO
                }
                Err(error) => {
                    if !std::mem::replace(&mut complained, true) {
                        tracing::warn!(%error, "upkeep has to wait");
                    }
                    ROUND
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn pause(&self) -> Duration {
        match self.store.next_due().await {
            Ok(Some(due)) => due.clamp(SHORTEST, ROUND),
            Ok(None) | Err(_) => ROUND,
        }
    }

    /// One step of everything.
    pub async fn round(&mut self) -> Result<Round, StoreError> {
        let promoted = self.store.promote(STEP).await?;
        announce_waiting(self.order.as_deref(), self.signals.as_ref(), &promoted).await;
        let expired = self.store.expire(STEP).await?;
        let news: Vec<_> = expired
            .iter()
            .map(|id| Signal::State { task: *id, attempt: 0, status: Status::Expired })
            .collect();
        self.signals.publish(&news).await;
        let buried = self.bury_the_silent().await?;
        let taken_over = self.take_over().await?;
        self.sweep().await?;
        Ok(Round { promoted: promoted.len(), expired: expired.len(), buried, taken_over })
    }

    /// Declares workers dead whose lease has run out, once it was watched unchanged for long enough on this process's
    /// own clock: after an outage of the store every lease looks expired, and the living need a moment to renew.
    async fn bury_the_silent(&mut self) -> Result<usize, StoreError> {
        let overdue = self.store.overdue().await?;
        self.watched.retain(|_, (seen, _)| overdue.contains(seen));
        let mut buried = 0;
        for silent in overdue {
            let (_, since) =
                self.watched.entry(silent.worker).or_insert_with(|| (silent.clone(), Instant::now()));
            if since.elapsed() < self.lease.watch_before_take_over() {
                continue;
            }
            self.watched.remove(&silent.worker);
            if self.store.bury(&silent).await? {
                tracing::warn!(worker = %silent.worker, name = %silent.name, "a worker is gone; taking over its tasks");
                buried += 1;
            }
        }
        Ok(buried)
    }

    async fn take_over(&self) -> Result<usize, StoreError> {
        let orphans = self.store.orphans(STEP).await?;
        let mut by_worker: HashMap<WorkerId, Vec<(Orphan, Settlement)>> = HashMap::new();
        for orphan in orphans {
            if let Some(settlement) = verdict(&orphan) {
                by_worker.entry(orphan.worker).or_default().push((orphan, settlement));
            }
        }
        let mut taken_over = 0;
        for (worker, all) in by_worker {
            let (orphans, settlements): (Vec<_>, Vec<_>) = all.into_iter().unzip();
            let applied = self.store.settle(worker, &settlements).await?;
            let (mut waiting, mut news): (Vec<Waiting>, Vec<Signal>) = (Vec::new(), Vec::new());
            for ((orphan, settlement), applied) in orphans.into_iter().zip(settlements).zip(applied) {
                if applied != Applied::Yes {
                    continue; // it settled by itself, or a cancellation came: the next round sees it as it is then
                }
                taken_over += 1;
                let (task, attempt) = (orphan.id, orphan.counters.attempt);
                match settlement.change {
                    Change::Finish { end, .. } => {
                        news.push(Signal::State { task, attempt, status: end.into() });
                    }
                    Change::Wait { .. } => {
                        waiting.push(orphan.waiting);
                        news.push(Signal::State { task, attempt, status: Status::Pending });
                    }
                    Change::BecomePending | Change::Start | Change::RequestCancel => {}
                }
            }
            self.signals.publish(&news).await;
            announce_waiting(self.order.as_deref(), self.signals.as_ref(), &waiting).await;
        }
        Ok(taken_over)
    }

    /// Puts back into the order what waits in the store: popped and lost, or never pushed because Redis was away.
    async fn sweep(&mut self) -> Result<(), StoreError> {
        let Some(order) = self.order.clone().filter(|_| Instant::now() >= self.next_sweep) else {
            return Ok(());
        };
        self.next_sweep = Instant::now() + SWEEP;
        for queue in self.store.waiting_queues().await? {
            if let Err(error) = refill(self.store.as_ref(), order.as_ref(), &queue, SWEEP_DEPTH).await {
                tracing::debug!(%error, %queue, "the order could not be swept");
                return Ok(());
            }
        }
        Ok(())
    }
}

/// What becomes of a task whose worker is gone.
fn verdict(orphan: &Orphan) -> Option<Settlement> {
    let state = State::Processing { cancel_requested: orphan.cancel_requested };
    let event = if orphan.worker_retired { Event::Release } else { Event::LoseWorker };
    let change = decide(state, orphan.counters, event).ok()?;
    Some(Settlement {
        task: orphan.id,
        attempt: orphan.counters.attempt,
        change,
        result: None,
        details: None,
        knew_of_cancel: orphan.cancel_requested,
    })
}
