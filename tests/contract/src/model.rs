//! Random histories, held against a model of a few lines: states, counters, times, counts and every answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use application::ports::{
    Applied, CancelOutcome, Claim, ClaimedTask, DeleteOutcome, Patience, Settlement, Store,
};
use domain::{
    Change, Counters, Event, Failure, NewTask, RetryPolicy, Start, State, Status, Task, TaskId, Tenant,
    Timestamp, WorkerId, decide,
};

use crate::{Harness, fixtures::*};

/// Steps of one history.
const STEPS: usize = 250;

/// One seed.
pub async fn random_histories_keep_every_promise_first(harness: &dyn Harness) {
    History::new(harness, 1).run().await;
}

/// Another.
pub async fn random_histories_keep_every_promise_second(harness: &dyn Harness) {
    History::new(harness, 20_261_122).run().await;
}

/// And one more.
pub async fn random_histories_keep_every_promise_third(harness: &dyn Harness) {
    History::new(harness, 0xDEAD_BEEF).run().await;
}

/// SplitMix64: the same numbers on every run. Source: <https://prng.di.unimi.it/splitmix64.c>.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % n as u64) as usize
    }

    fn chance(&mut self) -> f64 {
        self.below(1_000) as f64 / 1_000.0
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> Option<T> {
        if of.is_empty() { None } else { Some(of[self.below(of.len())].clone()) }
    }
}

/// A task as it should be.
#[derive(Debug, Clone)]
struct Modelled {
    submitted: NewTask,
    state: State,
    counters: Counters,
    holder: Option<WorkerId>,
    created_at: Timestamp,
    updated_at: Option<Timestamp>,
    run_at: Option<Timestamp>,
    started_at: Option<Timestamp>,
    completed_at: Option<Timestamp>,
    error: Option<String>,
    attempts: usize,
    deleted: bool,
}

impl Modelled {
    fn status(&self) -> Status {
        self.state.into()
    }

    fn waits(&self) -> bool {
        !self.deleted && matches!(self.state, State::Scheduled | State::Pending)
    }

    fn is_pending(&self) -> bool {
        !self.deleted && self.state == State::Pending && self.counters.suspicion() == domain::Suspicion::None
    }

    /// Applies a decision of the domain.
    fn apply(&mut self, change: Change, now: Timestamp) {
        let ran = self.holder.is_some();
        match change {
            Change::BecomePending => (self.state, self.run_at) = (State::Pending, None),
            Change::RequestCancel => {
                self.state = State::Processing { cancel_requested: true };
                return;
            }
            Change::Start => {
                self.state = State::Processing { cancel_requested: false };
                self.counters.attempt += 1;
                self.started_at = Some(now);
                self.error = None;
            }
            Change::Finish { end, counters, error } => {
                self.check_counters(counters);
                assert!(!matches!(self.state, State::Ended(_)), "each task ends once");
                self.state = State::Ended(end);
                self.error = error.map(|error| error.code);
                self.completed_at = Some(now);
                (self.holder, self.run_at) = (None, None);
                self.attempts += usize::from(ran);
            }
            Change::Reopen { .. } => unreachable!("nobody retries"),
            Change::Wait { after, counters, error, .. } => {
                self.check_counters(counters);
                let now_pending = after.is_zero();
                self.state = if now_pending { State::Pending } else { State::Scheduled };
                self.run_at = (!now_pending).then(|| now + after);
                self.error = error.map(|error| error.code);
                self.holder = None;
                self.attempts += 1;
            }
        }
        self.updated_at = Some(now);
    }

    fn check_counters(&mut self, new: Counters) {
        let old = self.counters;
        assert!(
            new.attempt >= old.attempt && new.failures >= old.failures && new.crashes >= old.crashes,
            "counters never fall: {old:?} to {new:?}"
        );
        self.counters = new;
    }
}

/// A worker as it should be.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Life {
    Alive { last_heartbeat: Timestamp },
    Dead,
    Retired,
}

struct History<'a> {
    harness: &'a dyn Harness,
    store: Arc<dyn Store>,
    dice: Dice,
    seed: u64,
    now: Timestamp,
    tasks: BTreeMap<TaskId, Modelled>,
    workers: BTreeMap<WorkerId, Life>,
    /// Claims that somebody once got and may try to settle, now or as a zombie.
    hands: Vec<(WorkerId, ClaimedTask)>,
    /// Settlements that were applied, with who sent them: sent again now and then.
    applied: Vec<(WorkerId, Settlement)>,
}

impl<'a> History<'a> {
    fn new(harness: &'a dyn Harness, seed: u64) -> Self {
        Self {
            store: harness.store(),
            harness,
            dice: Dice(seed),
            seed,
            now: Timestamp::UNIX_EPOCH,
            tasks: BTreeMap::new(),
            workers: BTreeMap::new(),
            hands: Vec::new(),
            applied: Vec::new(),
        }
    }

    async fn run(mut self) {
        self.now = now(&*self.store).await;
        for step in 0..STEPS {
            match self.dice.below(16) {
                0..=2 => self.submit().await,
                3 => self.register().await,
                4..=5 => self.claim_ids().await,
                6..=7 => self.claim_next().await,
                8..=9 => self.settle().await,
                10 => self.resend().await,
                11 => self.cancel().await,
                12 => self.delete().await,
                13 => self.pass_time().await,
                14 => self.promote_and_expire().await,
                _ => self.reap().await,
            }
            if step % 10 == 0 || step == STEPS - 1 {
                self.check(step).await;
            }
        }
    }

    fn ids(&self, filter: impl Fn(&Modelled) -> bool) -> Vec<TaskId> {
        self.tasks.iter().filter(|(_, task)| filter(task)).map(|(id, _)| *id).collect()
    }

    fn tenant(&mut self) -> Tenant {
        self.dice.pick(&[Tenant::default(), tenant("acme")]).expect("two")
    }

    async fn submit(&mut self) {
        let mut tasks = Vec::new();
        for _ in 0..=self.dice.below(4) {
            let wait = Duration::from_millis(self.dice.below(20_000) as u64);
            let later = self.dice.below(3) == 0;
            let expires_at = (self.dice.below(4) == 0)
                .then(|| self.now + Duration::from_secs(5 + self.dice.below(40) as u64));
            let name = self.dice.pick(&["a", "b", "c"]).expect("three");
            let urgency = self.dice.below(3) as i64 * 4;
            let start = if later { Start::After(wait) } else { Start::Now };
            tasks.push(NewTask { tenant: self.tenant(), start, expires_at, ..task_in(name, urgency) });
        }
        let receipts = receipts(&*self.store, &tasks).await;
        for (receipt, submitted) in receipts.into_iter().zip(tasks) {
            let run_at = match submitted.start {
                Start::After(wait) if !wait.is_zero() => Some(self.now + wait),
                Start::Now | Start::At(_) | Start::After(_) => None,
            };
            assert_eq!((receipt.created_at, receipt.run_at), (self.now, run_at));
            let modelled = Modelled {
                submitted,
                state: if run_at.is_some() { State::Scheduled } else { State::Pending },
                counters: Counters::default(),
                holder: None,
                created_at: self.now,
                updated_at: None,
                run_at,
                started_at: None,
                completed_at: None,
                error: None,
                attempts: 0,
                deleted: false,
            };
            assert!(self.tasks.last_key_value().is_none_or(|(last, _)| *last < receipt.id), "ids rise");
            self.tasks.insert(receipt.id, modelled);
        }
    }

    async fn register(&mut self) {
        let id = self.store.register(&profile("w")).await.expect("register");
        assert!(self.workers.insert(id, Life::Alive { last_heartbeat: self.now }).is_none(), "a fresh id");
    }

    fn some_worker(&mut self) -> Option<WorkerId> {
        let all: Vec<_> = self.workers.keys().copied().collect();
        let alive: Vec<_> = all.iter().copied().filter(|id| self.is_alive(*id)).collect();
        if self.dice.below(6) == 0 { self.dice.pick(&all) } else { self.dice.pick(&alive) }
    }

    fn is_alive(&self, worker: WorkerId) -> bool {
        matches!(self.workers[&worker], Life::Alive { .. })
    }

    async fn claim_ids(&mut self) {
        let Some(worker) = self.some_worker() else { return };
        let all = self.ids(|_| true);
        let mut wanted: Vec<TaskId> = (0..6).filter_map(|_| self.dice.pick(&all)).collect();
        wanted.extend(self.dice.pick(&self.ids(Modelled::is_pending)));
        let claimed = self.store.claim(worker, &Claim::Ids(wanted.clone())).await.expect("claim");
        let expected: BTreeSet<_> =
            wanted.into_iter().filter(|id| self.is_alive(worker) && self.tasks[id].is_pending()).collect();
        assert_eq!(claimed.iter().map(|task| task.id).collect::<BTreeSet<_>>(), expected);
        assert_eq!(claimed.len(), expected.len(), "none twice");
        self.take(worker, claimed);
    }

    async fn claim_next(&mut self) {
        let Some(worker) = self.some_worker() else { return };
        let queues: Vec<_> = ["a", "b", "c"].iter().map(|name| (queue(name), self.dice.below(4))).collect();
        let limit = self.dice.below(8);
        let claim = Claim::Next { queues: queues.clone(), limit, patience: Patience::Any };
        let claimed = self.store.claim(worker, &claim).await.expect("claim");
        if !self.is_alive(worker) {
            assert_eq!(claimed, []);
            return;
        }
        let mut room = 0;
        // The most urgent that was left behind in a queue that had room for more.
        let mut left_behind = Vec::new();
        for (name, most) in &queues {
            let order = self.order_of(name);
            let taken: Vec<_> =
                claimed.iter().filter(|task| task.queue == *name).map(|task| task.id).collect();
            let expected: Vec<_> = order.iter().map(|(_, id)| *id).take(taken.len()).collect();
            assert_eq!(taken, expected, "queue {name} in order");
            assert!(taken.len() <= *most);
            room += order.len().min(*most);
            if taken.len() < *most {
                left_behind.extend(order.get(taken.len()).map(|(urgency, _)| *urgency));
            }
        }
        assert_eq!(claimed.len(), room.min(limit), "as many as there are and fit");
        let last = claimed.iter().map(|task| task.priority).max();
        if let (Some(last), Some(first_left)) = (last, left_behind.iter().min()) {
            assert!(last <= *first_left, "priority goes before turns");
        }
        self.take(worker, claimed);
    }

    fn order_of(&self, name: &domain::QueueName) -> Vec<(domain::Priority, TaskId)> {
        let pending =
            self.tasks.iter().filter(|(_, task)| task.is_pending() && task.submitted.queue == *name);
        let mut order: Vec<_> = pending.map(|(id, task)| (task.submitted.priority, *id)).collect();
        order.sort_unstable();
        order
    }

    fn take(&mut self, worker: WorkerId, claimed: Vec<ClaimedTask>) {
        for claim in claimed {
            let task = self.tasks.get_mut(&claim.id).expect("known");
            let change = decide(task.state, task.counters, Event::Claim).expect("claimable");
            task.apply(change, self.now);
            task.holder = Some(worker);
            assert_eq!((claim.counters, claim.started_at), (task.counters, self.now));
            assert_eq!((claim.created_at, &claim.tenant), (task.created_at, &task.submitted.tenant));
            self.hands.push((worker, claim));
        }
    }

    /// Settles a few of the claims that were ever made: by their holders, and by zombies.
    async fn settle(&mut self) {
        let Some((worker, _)) = self.dice.pick(&self.hands) else { return };
        let of_worker = |(holder, _): &&(WorkerId, ClaimedTask)| *holder == worker;
        let claims: Vec<_> = self.hands.iter().filter(of_worker).map(|(_, claim)| claim.clone()).collect();
        let mut batch: Vec<Settlement> = Vec::new();
        for _ in 0..=self.dice.below(4) {
            let claim = self.dice.pick(&claims).expect("one at least");
            if batch.iter().all(|settlement| settlement.task != claim.id) {
                batch.push(self.decision(&claim));
            }
        }
        let answers = self.store.settle(worker, &batch).await.expect("settle");
        assert_eq!(answers.len(), batch.len());
        for (settlement, answer) in batch.into_iter().zip(answers) {
            let expected = self.expect_settled(worker, &settlement);
            assert_eq!(answer, expected, "seed {}: {settlement:?} by {worker}", self.seed);
        }
    }

    /// What a worker would decide that knows of a cancellation or does not.
    fn decision(&mut self, claim: &ClaimedTask) -> Settlement {
        let requested = self.tasks[&claim.id].state == State::Processing { cancel_requested: true };
        let knows = requested && self.dice.below(2) == 0;
        let policy = RetryPolicy::default();
        let failure = match self.dice.below(3) {
            0 => Failure::permanent("bad", "bad input"),
            _ => Failure::transient("busy", "the server is busy"),
        };
        let chance = self.dice.chance();
        let event = match self.dice.below(5) {
            0..=1 => Event::Succeed,
            2 => Event::Release,
            _ => Event::Fail { failure: &failure, policy: &policy, limits: &claim.limits, chance },
        };
        let succeeded = matches!(event, Event::Succeed);
        let mut settlement = by_event(claim, knows, event);
        settlement.result = succeeded.then(|| json("1"));
        if let Change::Wait { after, .. } = &mut settlement.change {
            // Whole microseconds: how a store rounds finer ones is its own affair.
            *after = Duration::from_micros(after.as_micros() as u64);
        }
        settlement
    }

    fn expect_settled(&mut self, worker: WorkerId, settlement: &Settlement) -> Applied {
        let task = self.tasks.get_mut(&settlement.task).expect("known");
        let held =
            !task.deleted && task.holder == Some(worker) && task.counters.attempt == settlement.attempt;
        if !held {
            let outcome = |other: &Settlement| other.change.attempt_outcome();
            let before = self.applied.iter().any(|(who, other)| {
                *who == worker
                    && (other.task, other.attempt) == (settlement.task, settlement.attempt)
                    && outcome(other) == outcome(settlement)
            });
            return if before && !task.deleted { Applied::Yes } else { Applied::Stale };
        }
        let requested = task.state == State::Processing { cancel_requested: true };
        if requested && !settlement.knew_of_cancel && matches!(settlement.change, Change::Wait { .. }) {
            return Applied::CancelRequested;
        }
        task.apply(settlement.change.clone(), self.now);
        self.applied.push((worker, settlement.clone()));
        Applied::Yes
    }

    async fn resend(&mut self) {
        let Some((worker, settlement)) = self.dice.pick(&self.applied) else { return };
        let expected = if self.tasks[&settlement.task].deleted { Applied::Stale } else { Applied::Yes };
        assert_eq!(settle(&*self.store, worker, settlement).await, expected);
    }

    async fn cancel(&mut self) {
        let (all, asking) = (self.ids(|_| true), self.tenant());
        let ids: BTreeSet<_> = (0..4).filter_map(|_| self.dice.pick(&all)).collect();
        let ids: Vec<_> = ids.into_iter().collect();
        let outcomes = self.store.cancel(&asking, &ids).await.expect("cancel");
        for (id, outcome) in ids.iter().zip(outcomes) {
            let task = self.tasks.get_mut(id).expect("known");
            if task.deleted || task.submitted.tenant != asking {
                assert_eq!(outcome, CancelOutcome::Unknown);
                continue;
            }
            match decide(task.state, task.counters, Event::Cancel) {
                Ok(change) => {
                    let requests = change == Change::RequestCancel;
                    task.apply(change, self.now);
                    let expected = if requests { CancelOutcome::Requested } else { CancelOutcome::Cancelled };
                    assert_eq!(outcome, expected);
                }
                Err(_) => assert_eq!(outcome, CancelOutcome::AlreadyEnded(task.status())),
            }
        }
    }

    async fn delete(&mut self) {
        let (all, asking) = (self.ids(|_| true), self.tenant());
        let ids: Vec<_> = self.dice.pick(&all).into_iter().collect();
        let outcomes = self.store.delete(&asking, &ids).await.expect("delete");
        for (id, outcome) in ids.iter().zip(outcomes) {
            let task = self.tasks.get_mut(id).expect("known");
            let expected = match task.state {
                _ if task.deleted || task.submitted.tenant != asking => DeleteOutcome::Unknown,
                State::Processing { .. } => DeleteOutcome::Processing,
                State::Scheduled | State::Pending | State::Ended(_) => DeleteOutcome::Deleted,
            };
            assert_eq!(outcome, expected);
            task.deleted |= outcome == DeleteOutcome::Deleted;
        }
    }

    async fn pass_time(&mut self) {
        let by = Duration::from_millis(self.dice.below(9_000) as u64);
        self.harness.advance(by).await;
        self.now += by;
        for (worker, life) in &mut self.workers {
            let answered = match life {
                Life::Alive { last_heartbeat } if self.dice.below(3) > 0 => {
                    *last_heartbeat = self.now;
                    true
                }
                Life::Alive { .. } => continue,
                Life::Dead | Life::Retired => false,
            };
            assert_eq!(self.store.heartbeat(*worker).await.expect("heartbeat"), answered);
        }
    }

    async fn promote_and_expire(&mut self) {
        let expired = self.store.expire(1_000).await.expect("expire");
        let expected = self.ids(|task| {
            task.waits() && task.submitted.expires_at.is_some_and(|expires_at| expires_at <= self.now)
        });
        // A task that expires at this very moment may go now or at the next look.
        let must = self.ids(|task| {
            task.waits() && task.submitted.expires_at.is_some_and(|expires_at| expires_at < self.now)
        });
        assert!(expired.iter().all(|id| expected.contains(id)) && must.iter().all(|id| expired.contains(id)));
        for id in expired {
            let task = self.tasks.get_mut(&id).expect("known");
            let change = decide(task.state, task.counters, Event::Expire).expect("it waits");
            task.apply(change, self.now);
        }
        let promoted = self.store.promote(1_000).await.expect("promote");
        let due = self.ids(|task| {
            task.waits() && task.state == State::Scheduled && task.run_at.is_some_and(|at| at <= self.now)
        });
        let ids: BTreeSet<_> = promoted.iter().map(|waiting| waiting.id).collect();
        assert_eq!(ids, due.iter().copied().collect(), "due at {}", self.now);
        for waiting in promoted {
            let task = self.tasks.get_mut(&waiting.id).expect("known");
            assert_eq!((&waiting.queue, waiting.priority), (&task.submitted.queue, task.submitted.priority));
            task.apply(Change::BecomePending, self.now);
        }
        let next = self.tasks.values().filter(|task| task.waits()).filter_map(|task| task.run_at).min();
        let wait = next.map(|at| (at - self.now).to_std().expect("the due ones are promoted"));
        assert_eq!(self.store.next_due().await.expect("next_due"), wait);
    }

    async fn reap(&mut self) {
        for seen in self.store.overdue().await.expect("overdue") {
            let Life::Alive { last_heartbeat } = self.workers[&seen.worker] else {
                panic!("{} is overdue but {:?}", seen.worker, self.workers[&seen.worker]);
            };
            assert_eq!(seen.last_heartbeat, last_heartbeat);
            assert!(last_heartbeat + LEASE <= self.now, "its lease has run out");
            assert!(self.store.bury(&seen).await.expect("bury"));
            self.workers.insert(seen.worker, Life::Dead);
        }
        let alive: Vec<_> = self.workers.keys().copied().filter(|id| self.is_alive(*id)).collect();
        if let Some(worker) = self.dice.pick(&alive).filter(|_| alive.len() > 3) {
            self.store.retire(worker).await.expect("retire");
            self.workers.insert(worker, Life::Retired);
        }
        let orphans = self.store.orphans(1_000).await.expect("orphans");
        let expected: BTreeSet<_> = self
            .ids(|task| !task.deleted && task.holder.is_some_and(|holder| !self.is_alive(holder)))
            .into_iter()
            .collect();
        assert_eq!(orphans.iter().map(|orphan| orphan.id).collect::<BTreeSet<_>>(), expected);
        for orphan in orphans {
            let retired = self.workers[&orphan.worker] == Life::Retired;
            assert_eq!(orphan.worker_retired, retired);
            let task = &self.tasks[&orphan.id];
            assert_eq!((orphan.counters, Some(orphan.worker)), (task.counters, task.holder));
            assert_eq!(task.state, State::Processing { cancel_requested: orphan.cancel_requested });
            if self.dice.below(4) == 0 {
                continue;
            }
            let event = if retired {
                Event::Release
            } else {
                Event::LoseWorker { charged: orphan.counters.suspicion() == orphan.heaviest }
            };
            let settlement = Settlement {
                task: orphan.id,
                attempt: orphan.counters.attempt,
                change: decide(task.state, task.counters, event).expect("it runs"),
                result: None,
                details: None,
                calls: Vec::new(),
                knew_of_cancel: orphan.cancel_requested,
            };
            let expected = self.expect_settled(orphan.worker, &settlement);
            assert_eq!(settle(&*self.store, orphan.worker, settlement).await, expected);
        }
    }

    /// Everything as the store shows it against everything as it should be.
    async fn check(&self, step: usize) {
        let at = format!("seed {}, step {step}", self.seed);
        for owner in [Tenant::default(), tenant("acme")] {
            let shown = everything(&*self.store, &owner).await;
            let mut expected = self.ids(|task| !task.deleted && task.submitted.tenant == owner);
            expected.reverse();
            assert_eq!(shown.iter().map(|task| task.id).collect::<Vec<_>>(), expected, "{at}");
            for task in &shown {
                check_task(task, &self.tasks[&task.id], &at);
                let attempts = self.store.attempts(&owner, task.id).await.expect("attempts").expect("known");
                let modelled = &self.tasks[&task.id];
                let running = usize::from(modelled.holder.is_some());
                assert_eq!(attempts.len(), modelled.attempts + running, "{at}: attempts of {}", task.id);
                assert_eq!(
                    attempts.len(),
                    modelled.counters.attempt as usize,
                    "{at}: each claim has its record"
                );
            }
            let counts: u64 =
                self.store.counts(&owner).await.expect("counts").iter().map(|line| line.count).sum();
            assert_eq!(counts as usize, shown.len(), "{at}");
            assert_counts(&*self.store, &owner).await;
        }
        self.check_order(&at).await;
        for worker in self.workers.keys() {
            let mut requests = self.store.cancel_requests(*worker).await.expect("requests");
            requests.sort_unstable();
            let marked = self.tasks.iter().filter(|(_, task)| {
                task.holder == Some(*worker) && task.state == State::Processing { cancel_requested: true }
            });
            let expected: Vec<_> = marked.map(|(id, task)| (*id, task.counters.attempt)).collect();
            assert_eq!(requests, expected, "{at}");
        }
    }

    async fn check_order(&self, at: &str) {
        let mut queues = self.store.waiting_queues(&[]).await.expect("queues");
        queues.sort_unstable();
        let pending = self.tasks.values().filter(|task| !task.deleted && task.state == State::Pending);
        let expected: BTreeSet<_> = pending.map(|task| task.submitted.queue.clone()).collect();
        assert_eq!(queues, expected.into_iter().collect::<Vec<_>>(), "{at}");
        for name in queues {
            let waiting = self.store.waiting(&name, 10_000).await.expect("waiting");
            let order: Vec<_> = waiting.iter().map(|waiting| (waiting.priority, waiting.id)).collect();
            assert_eq!(order, self.order_of(&name), "{at}");
        }
    }
}

fn check_task(shown: &Task, modelled: &Modelled, at: &str) {
    let about = format!("{at}: task {}", shown.id);
    assert_eq!(shown.status, modelled.status(), "{about}");
    assert_eq!(shown.attempt, modelled.counters.attempt, "{about}");
    let requested = modelled.state == State::Processing { cancel_requested: true };
    assert_eq!(shown.cancel_requested, requested, "{about}");
    assert_eq!(shown.created_at, modelled.created_at, "{about}");
    assert_eq!(shown.run_at, modelled.run_at, "{about}: run_at");
    assert_eq!(shown.started_at, modelled.started_at, "{about}: started_at");
    assert_eq!(shown.completed_at, modelled.completed_at, "{about}: completed_at");
    assert_eq!(shown.updated_at, modelled.updated_at, "{about}: updated_at");
    assert_eq!(shown.error.as_ref().map(|error| &error.code), modelled.error.as_ref(), "{about}: error");
    assert_eq!(shown.result.is_some(), shown.status == Status::Completed, "{about}: result");
    assert_eq!(shown.queue, modelled.submitted.queue, "{about}");
    assert_eq!(shown.expires_at, modelled.submitted.expires_at, "{about}");
}
