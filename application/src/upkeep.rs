//! What every process does now and then, so that nothing waits for one that died: promote what is due, expire what is
//! late, take over from dead workers, fire schedules, and put back what the order has lost.

mod firing;
mod queues;

use std::{collections::HashMap, time::Duration};

use domain::{
    Change, ErrorClass, Event, Failure, LeaseTerms, RetentionRules, RetryPolicy, State, Status, TaskId,
    WorkerId, decide,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::{firing::fire_due, queues::QueueCare};
use crate::{
    flows::follow_up,
    ordering::{announce_waiting, sweep},
    ports::{Applied, Orphan, Overdue, Overrunning, Settlement, Signal, StoreError, Waiting, Walk},
    worker::WorkerPorts,
};

/// The longest pause between two rounds.
const ROUND: Duration = Duration::from_millis(500);
/// The shortest, when something is due soon.
const SHORTEST: Duration = Duration::from_millis(5);
/// How often lost places in the order are looked for.
const SWEEP: Duration = Duration::from_secs(5);
/// How often tasks are looked for that run past their time limit.
const OVERRUN: Duration = Duration::from_secs(5);
/// How often old records are looked for.
const HOUSEKEEPING: Duration = Duration::from_secs(10);
/// How long workers' commands, and the reports of those that are gone, are kept.
const KEEP_REPORTS: Duration = Duration::from_secs(24 * 3600);
/// How long meters are kept that nobody uses: a budget of a month has to be remembered to its end.
const KEEP_METERS: Duration = Duration::from_secs(32 * 24 * 3600);
/// How long lanes of fair queues are kept whose turn has passed, for what has been learned of them.
const KEEP_LANES: Duration = Duration::from_secs(24 * 3600);
/// How much is done in one step.
const STEP: usize = 500;
/// How many of a queue's first tasks a sweep puts back. What was popped and lost is among the first.
const SWEEP_DEPTH: usize = 1000;

/// How the upkeep behaves.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct UpkeepConfig {
    /// The lease of the workers.
    pub lease: LeaseTerms,
    /// How long failed tasks wait for a person; `None` for ever.
    pub keep_failed: Option<Duration>,
    /// How long other ended tasks are kept.
    pub retention: RetentionRules,
}

/// The upkeep of one process.
pub struct Upkeep {
    ports: WorkerPorts,
    config: UpkeepConfig,
    watched: HashMap<WorkerId, (Overdue, Instant)>,
    /// Attempts that look too long, since when.
    overruns: HashMap<(TaskId, u32), Instant>,
    queue_care: QueueCare,
    next_sweep: Instant,
    next_look_for_overruns: Instant,
    next_housekeeping: Instant,
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
    /// Attempts ended that ran past their time limit.
    pub overrun: usize,
    /// Old records removed.
    pub removed: usize,
    /// Ticks of schedules that were fired or declared skipped.
    pub ticks: usize,
    /// Tasks that grew more urgent by waiting.
    pub raised: usize,
    /// Ends of tasks that others wait for.
    pub followed_up: usize,
}

impl Upkeep {
    /// Upkeep over these ports.
    pub fn new(ports: WorkerPorts, config: UpkeepConfig) -> Self {
        let now = Instant::now();
        let (next_sweep, next_look_for_overruns, next_housekeeping) = (now, now, now);
        let (watched, overruns) = (HashMap::new(), HashMap::new());
        let queue_care = QueueCare::new(now);
        Self {
            ports,
            config,
            watched,
            overruns,
            queue_care,
            next_sweep,
            next_look_for_overruns,
            next_housekeeping,
        }
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
            if self.rest(pause, &stop).await {
                return;
            }
        }
    }

    /// Waits, and follows up what ends in this process meanwhile as soon as it does. Answers whether to stop.
    async fn rest(&self, pause: Duration, stop: &CancellationToken) -> bool {
        let end = Instant::now() + pause;
        loop {
            tokio::select! {
                () = stop.cancelled() => return true,
                () = tokio::time::sleep_until(end) => return false,
                () = self.ports.store.need_ended() => {}
            }
            // Where it is refused, the next round tries again, and complains.
            while matches!(follow_up(&self.ports, STEP).await, Ok(seen) if seen > 0) {
                tokio::task::yield_now().await;
            }
        }
    }

    async fn pause(&self) -> Duration {
        match self.ports.store.next_due().await {
            Ok(Some(due)) => due.clamp(SHORTEST, ROUND),
            Ok(None) | Err(_) => ROUND,
        }
    }

    /// One step of everything.
    pub async fn round(&mut self) -> Result<Round, StoreError> {
        let promoted = self.ports.store.promote(STEP).await?;
        announce_waiting(self.ports.order.as_deref(), self.ports.signals.as_ref(), &promoted).await;
        let expired = self.ports.store.expire(STEP).await?;
        let news: Vec<_> = expired
            .iter()
            .map(|id| Signal::State { task: *id, attempt: 0, status: Status::Expired })
            .collect();
        self.ports.signals.publish(&news).await;
        let buried = self.bury_the_silent().await?;
        let taken_over = self.take_over().await?;
        self.sweep().await?;
        let overrun = self.end_overruns().await?;
        let removed = self.remove_old_records().await?;
        let ticks = fire_due(&self.ports, STEP).await?;
        let raised = self.queue_care.age(&self.ports).await?;
        self.queue_care.warn_of_unserved(&self.ports).await?;
        let followed_up = follow_up(&self.ports, STEP).await?;
        let (promoted, expired) = (promoted.len(), expired.len());
        Ok(Round { promoted, expired, buried, taken_over, overrun, removed, ticks, raised, followed_up })
    }

    /// Declares workers dead whose lease has run out, once it was watched unchanged for long enough on this process's
    /// own clock: after an outage of the store every lease looks expired, and the living need a moment to renew.
    async fn bury_the_silent(&mut self) -> Result<usize, StoreError> {
        let overdue = self.ports.store.overdue().await?;
        self.watched.retain(|_, (seen, _)| overdue.contains(seen));
        let mut buried = 0;
        for silent in overdue {
            let (_, since) =
                self.watched.entry(silent.worker).or_insert_with(|| (silent.clone(), Instant::now()));
            if since.elapsed() < self.config.lease.watch_before_take_over() {
                continue;
            }
            self.watched.remove(&silent.worker);
            if self.ports.store.bury(&silent).await? {
                tracing::warn!(worker = %silent.worker, name = %silent.name, "a worker is gone; taking over its tasks");
                buried += 1;
            }
        }
        Ok(buried)
    }

    async fn take_over(&self) -> Result<usize, StoreError> {
        let orphans = self.ports.store.orphans(STEP).await?;
        let mut by_worker: HashMap<WorkerId, Vec<(Orphan, Settlement)>> = HashMap::new();
        for orphan in orphans {
            if let Some(settlement) = verdict(&orphan) {
                by_worker.entry(orphan.worker).or_default().push((orphan, settlement));
            }
        }
        let mut taken_over = 0;
        for (worker, all) in by_worker {
            let (orphans, settlements): (Vec<_>, Vec<_>) = all.into_iter().unzip();
            let applied = self.ports.store.settle(worker, &settlements).await?;
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
                    Change::Wait { counters, .. } => {
                        waiting.push(Waiting { suspicion: counters.suspicion(), ..orphan.waiting });
                        news.push(Signal::State { task, attempt, status: Status::Pending });
                    }
                    Change::BecomePending | Change::Start | Change::RequestCancel | Change::Reopen { .. } => {
                    }
                }
            }
            self.ports.signals.publish(&news).await;
            announce_waiting(self.ports.order.as_deref(), self.ports.signals.as_ref(), &waiting).await;
        }
        Ok(taken_over)
    }

    /// Ends attempts that run on past their time limit although their worker lives: its handler blocks, or does not
    /// listen. The worker ends them itself where it can, so they get a lease's time more. The store's clock may have been
    /// moved, so this process watches an attempt for the whole of its time limit once more, on its own clock.
    async fn end_overruns(&mut self) -> Result<usize, StoreError> {
        if Instant::now() < self.next_look_for_overruns {
            return Ok(0);
        }
        self.next_look_for_overruns = Instant::now() + OVERRUN;
        let late = self.ports.store.overrunning(self.config.lease.length(), STEP).await?;
        let attempt_of = |late: &Overrunning| (late.id, late.counters.attempt);
        self.overruns.retain(|attempt, _| late.iter().any(|late| attempt_of(late) == *attempt));
        let mut ended = 0;
        for late in late {
            let since = *self.overruns.entry(attempt_of(&late)).or_insert_with(Instant::now);
            if since.elapsed() < late.limits.time_limit {
                continue;
            }
            let Some(settlement) = time_is_up(&late, &self.ports) else { continue };
            let applied = self.ports.store.settle(late.worker, std::slice::from_ref(&settlement)).await?;
            if applied != [Applied::Yes] {
                continue;
            }
            tracing::warn!(task_id = late.id.0, worker = %late.worker, "a task ran past its time limit and its worker did not stop it");
            ended += 1;
            let status = match settlement.change {
                Change::Finish { end, .. } => end.into(),
                Change::Wait { .. }
                | Change::BecomePending
                | Change::Start
                | Change::RequestCancel
                | Change::Reopen { .. } => Status::Scheduled,
            };
            let attempt = settlement.attempt;
            self.ports.signals.publish(&[Signal::State { task: late.id, attempt, status }]).await;
        }
        Ok(ended)
    }

    /// Forgets what has been kept for long enough.
    async fn remove_old_records(&mut self) -> Result<usize, StoreError> {
        if Instant::now() < self.next_housekeeping {
            return Ok(0);
        }
        let mut removed = self.ports.store.forget_keys(STEP).await?;
        removed += self.ports.store.forget_reports(KEEP_REPORTS, STEP).await?;
        removed += self.ports.store.forget_meters(KEEP_METERS, STEP).await?;
        removed += self.ports.store.forget_lanes(KEEP_LANES, STEP).await?;
        removed += self.ports.store.forget_requests(STEP).await?;
        if let Some(age) = self.config.keep_failed {
            removed += self.ports.store.discard_failed(age, STEP).await?;
        }
        let old = self.ports.store.remove_old(&self.config.retention, Walk::Due, STEP).await?;
        // A full step may leave more: the next round goes on.
        let more = removed >= STEP || old.more;
        removed += old.count();
        if !more {
            self.next_housekeeping = Instant::now() + HOUSEKEEPING;
        }
        Ok(removed)
    }

    /// Puts back into the order what waits in the store: popped and lost, or never pushed because Redis was away.
    async fn sweep(&mut self) -> Result<(), StoreError> {
        let Some(order) = self.ports.order.clone().filter(|_| Instant::now() >= self.next_sweep) else {
            return Ok(());
        };
        self.next_sweep = Instant::now() + SWEEP;
        let mut queues = match order.queues().await {
            Ok(queues) => queues,
            Err(error) => {
                tracing::debug!(%error, "the order could not be swept");
                return Ok(());
            }
        };
        queues.extend(self.ports.routes.queues());
        queues.sort_unstable();
        queues.dedup();
        // Where the order has lost a queue altogether, it is found in the store.
        queues.extend(self.ports.store.waiting_queues(&queues).await?);
        for queue in queues {
            // A queue with limits is taken from the store alone.
            if !self.ports.routes.settings(&queue).limits.are_none() {
                continue;
            }
            if let Err(error) = sweep(self.ports.store.as_ref(), order.as_ref(), &queue, SWEEP_DEPTH).await {
                tracing::debug!(%error, %queue, "the order could not be swept");
                return Ok(());
            }
        }
        Ok(())
    }
}

/// What becomes of an attempt that its worker should have ended: it ran into its time limit.
fn time_is_up(late: &Overrunning, ports: &WorkerPorts) -> Option<Settlement> {
    let message = format!(
        "the handler ran past its time limit of {} s and its worker could not stop it",
        late.limits.time_limit.as_secs_f64()
    );
    let failure = Failure::new(ErrorClass::TimedOut, "time_limit", message);
    let default_policy = RetryPolicy::default();
    let of_the_type =
        || ports.registry.get(&late.task_type).map_or(&default_policy, |spec| spec.retry_policy());
    let policy = late.retry.as_deref().unwrap_or_else(of_the_type);
    let state = State::Processing { cancel_requested: late.cancel_requested };
    let chance = ports.chance.next();
    let event = Event::Fail { failure: &failure, policy, limits: &late.limits, chance };
    let change = decide(state, late.counters, event).ok()?;
    Some(Settlement {
        task: late.id,
        attempt: late.counters.attempt,
        change,
        result: None,
        details: None,
        calls: Vec::new(),
        knew_of_cancel: late.cancel_requested,
    })
}

/// What becomes of a task whose worker is gone.
fn verdict(orphan: &Orphan) -> Option<Settlement> {
    let state = State::Processing { cancel_requested: orphan.cancel_requested };
    let charged = orphan.counters.suspicion() == orphan.heaviest;
    let event = if orphan.worker_retired { Event::Release } else { Event::LoseWorker { charged } };
    let change = decide(state, orphan.counters, event).ok()?;
    Some(Settlement {
        task: orphan.id,
        attempt: orphan.counters.attempt,
        change,
        result: None,
        details: None,
        calls: Vec::new(),
        knew_of_cancel: orphan.cancel_requested,
    })
}
