//! Random histories played to the store in memory and to the one under test at once: every answer must be the same. The
//! store in memory is short enough to be read, so it says what the other one should do.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    sync::Arc,
    time::Duration,
};

use application::{
    memory::MemoryStore,
    ports::{
        Applied, CancelOutcome, Claim, ClaimedTask, DeleteOutcome, DiscardOutcome, FailureGroup, FlowStored,
        ListPage, Needed, NewNeed, NewNode, Overdue, Patience, Purged, QueueCounts, QueueStore,
        Reprioritised, Retry, RetryOutcome, Settlement, Store, Submitted, TaskFilter, TaskStore, UpkeepStore,
        Waiting, WorkStore,
    },
};
use domain::{
    Attempt, ErrorClass, Event, Failure, Idempotency, IdempotencyKey, Limits, NewTask, QueueName,
    RetryPolicy, Start, State, Status, Suspicion, Task, TaskId, TaskType, Tenant, Timestamp, Unique,
    UniqueKey, WorkerId, decide,
    flow::{BATCH_TYPE, NodeName, OnFailure},
};

use crate::{Harness, fixtures::*};

/// How long the histories are that every store is held to.
const STEPS: usize = 700;

/// One history.
pub async fn both_answer_alike_first(harness: &dyn Harness) {
    history(harness, 3, STEPS).await;
}

/// Another one.
pub async fn both_answer_alike_second(harness: &dyn Harness) {
    history(harness, 0xC0FF_EE00, STEPS).await;
}

/// A third one.
pub async fn both_answer_alike_third(harness: &dyn Harness) {
    history(harness, 20_261_123, STEPS).await;
}

/// Plays the history of this seed, so many steps of it, on a store that nobody has used.
///
/// # Panics
///
/// Where an answer differs; the message names seed and step.
pub async fn history(harness: &dyn Harness, seed: u64, steps: usize) {
    let seen = Mirror::new(harness, seed).await.run(steps).await;
    assert!(
        steps < STEPS || seen > steps / 10,
        "only {seen} settlements: the history is too thin to say anything"
    );
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

    fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> Option<T> {
        if of.is_empty() { None } else { Some(of[self.below(of.len())].clone()) }
    }
}

struct Mirror<'h> {
    memory: MemoryStore,
    store: Arc<dyn Store>,
    harness: &'h dyn Harness,
    now: Timestamp,
    seed: u64,
    dice: Dice,
    step: usize,
    ids: Vec<TaskId>,
    workers: Vec<WorkerId>,
    hands: Vec<(WorkerId, ClaimedTask)>,
    sent: Vec<(WorkerId, Settlement)>,
}

/// The answer of both, which must be one.
macro_rules! both {
    ($mirror:ident, $($call:tt)*) => {{
        let mut memory = $mirror.memory.$($call)*.await.expect("memory");
        let mut store = $mirror.store.$($call)*.await.expect("the store under test");
        memory.forget_classes();
        store.forget_classes();
        $mirror.same(stringify!($($call)*), memory, store)
    }};
}

/// What decided about the next try has done its work: no store has to keep an error's class.
trait ForgetClasses {
    fn forget_classes(&mut self) {}
}

fn forget_class(error: &mut Option<Failure>) {
    if let Some(error) = error {
        (error.class, error.retry_after) = (ErrorClass::Permanent, None);
    }
}

impl ForgetClasses for Vec<Task> {
    fn forget_classes(&mut self) {
        self.iter_mut().for_each(|task| forget_class(&mut task.error));
    }
}

impl ForgetClasses for Option<Vec<Attempt>> {
    fn forget_classes(&mut self) {
        self.iter_mut().flatten().for_each(|attempt| forget_class(&mut attempt.error));
    }
}

macro_rules! without_classes {
    ($($answer:ty),+ $(,)?) => { $(impl ForgetClasses for $answer {})+ };
}
without_classes! {
    bool, usize, (), FlowStored, WorkerId, Option<Duration>, Vec<Submitted>, Vec<ClaimedTask>, Vec<Applied>, Vec<DeleteOutcome>,
    Vec<DiscardOutcome>, Vec<CancelOutcome>, Vec<RetryOutcome>, Vec<FailureGroup>, Vec<QueueCounts>, Vec<Overdue>,
    Vec<Waiting>, Vec<Reprioritised>, Purged, Vec<(QueueName, Timestamp)>,
}

/// All that is to be followed up: who starts, who ends, and how far batches have come.
async fn followed_up(
    store: &dyn UpkeepStore,
) -> (BTreeSet<TaskId>, BTreeMap<TaskId, Status>, BTreeMap<TaskId, u64>) {
    let (mut starts, mut ends, mut progress) = (BTreeSet::new(), BTreeMap::new(), BTreeMap::new());
    loop {
        let done = store.follow_up(3).await.expect("followed up");
        if done.seen == 0 {
            return (starts, ends, progress);
        }
        starts.extend(done.released.into_iter().map(|waiting| waiting.id));
        ends.extend(done.ended);
        progress.extend(done.progress.into_iter().map(|(id, progress)| (id, progress.current)));
    }
}

impl<'h> Mirror<'h> {
    async fn new(harness: &'h dyn Harness, seed: u64) -> Self {
        let store = harness.store();
        let now = store.ping().await.expect("the store under test").now;
        Self {
            memory: MemoryStore::new(now),
            store,
            harness,
            now,
            seed,
            dice: Dice(seed),
            step: 0,
            ids: Vec::new(),
            workers: Vec::new(),
            hands: Vec::new(),
            sent: Vec::new(),
        }
    }

    fn same<T: PartialEq + Debug>(&self, call: &str, memory: T, store: T) -> T {
        let (seed, step) = (self.seed, self.step);
        assert_eq!(
            store, memory,
            "seed {seed}, step {step}: the store under test (left) and memory (right) on {call}"
        );
        memory
    }

    /// Answers how many settlements there were.
    async fn run(mut self, steps: usize) -> usize {
        for step in 0..steps {
            self.step = step;
            match self.dice.below(25) {
                0..=3 => self.submit().await,
                4 => self.register().await,
                5..=7 => self.claim().await,
                8..=12 => self.settle().await,
                13 => self.cancel_or_remove().await,
                14..=15 => self.retry().await,
                16..=17 => self.pass_time().await,
                18..=19 => self.reap().await,
                20 => self.flow().await,
                23 => self.rearrange().await,
                21..=22 => self.follow_up().await,
                _ => self.keep_house().await,
            }
            if step % 8 == 0 {
                self.look().await;
            }
        }
        self.look().await;
        self.sent.len()
    }

    fn tenant(&mut self) -> Tenant {
        self.dice.pick(&[Tenant::default(), Tenant::default(), tenant("acme")]).expect("three")
    }

    fn some_ids(&mut self) -> Vec<TaskId> {
        (0..=self.dice.below(5)).filter_map(|_| self.dice.pick(&self.ids)).collect()
    }

    async fn submit(&mut self) {
        let mut batch = Vec::new();
        for _ in 0..=self.dice.below(5) {
            let start = match self.dice.below(4) {
                0 => Start::After(Duration::from_millis(self.dice.below(9_000) as u64)),
                1 => Start::At(self.now + Duration::from_millis(self.dice.below(3_000) as u64)),
                _ => Start::Now,
            };
            let limits = Limits {
                max_attempts: 2,
                soft_time_limit: None,
                time_limit: Duration::from_secs(1 + self.dice.below(20) as u64),
            };
            let lives = Duration::from_secs(5 + self.dice.below(60) as u64);
            let expires_at = self.dice.once_in(4).then(|| self.now + lives);
            let (idempotency, unique) = (self.idempotency(), self.unique());
            let urgency = self.dice.below(3) as i64;
            let name = self.dice.pick(&["a", "b"]).expect("two");
            let tenant = self.tenant();
            batch.push(NewTask {
                tenant,
                start,
                limits,
                expires_at,
                idempotency,
                unique,
                ..task_in(name, urgency)
            });
        }
        let submitted = both!(self, submit(&batch));
        for outcome in submitted {
            if let Submitted::New(receipt) = outcome {
                self.ids.push(receipt.id);
            }
        }
    }

    /// Tasks that wait for each other and for others; one in three flows is a batch.
    async fn flow(&mut self) {
        let is_batch = self.dice.once_in(3);
        let mut nodes = Vec::new();
        for place in 0..2 + self.dice.below(3) {
            let mut node = NewNode::of(task_in(self.dice.pick(&["a", "b"]).expect("two"), 2));
            if is_batch && place == 0 {
                node.task.task_type = TaskType::new(BATCH_TYPE).expect("a type");
                nodes.push(node);
                continue;
            }
            node.is_item = is_batch && self.dice.once_in(2);
            // An item cannot wait for its batch.
            let first = usize::from(is_batch);
            for _ in 0..self.dice.below(3) {
                let on = match self.dice.pick(&self.ids).filter(|_| self.dice.once_in(2)) {
                    Some(id) => Needed::Stored(id),
                    None if place > first => Needed::Node(first + self.dice.below(place - first)),
                    None => continue,
                };
                let name = NodeName::new("needed").ok();
                let on_failure = self.dice.pick(&OnFailure::ALL).expect("two");
                if node.needs.iter().all(|need: &NewNeed| need.on != on) {
                    node.needs.push(NewNeed { on, name, on_failure });
                }
            }
            if self.dice.once_in(3) {
                node.task.input = json(r#"{"was":{"$result":"needed"}}"#);
            }
            node.task.idempotency = if place == 0 { self.idempotency() } else { None };
            nodes.push(node);
        }
        let nodes = nodes.as_slice();
        if let FlowStored::New(receipts) = both!(self, submit_flow(nodes)) {
            self.ids.extend(receipts.into_iter().map(|receipt| receipt.id));
        }
    }

    /// Whatever the steps, all that is to be followed up comes to the same.
    async fn follow_up(&mut self) {
        let memory = followed_up(&self.memory).await;
        let store = followed_up(self.store.as_ref()).await;
        self.same("follow_up", memory, store);
        let batches = self.ids.clone();
        let mut counted = self.memory.batch_counts(&Tenant::default(), &batches).await.expect("memory");
        counted.sort_by_key(|(id, _)| *id);
        let also = self.store.batch_counts(&Tenant::default(), &batches).await;
        let mut also = also.expect("the store under test");
        also.sort_by_key(|(id, _)| *id);
        self.same("batch_counts", counted, also);
    }

    fn idempotency(&mut self) -> Option<Idempotency> {
        let key = self.dice.below(30);
        (key < 12).then(|| Idempotency {
            key: IdempotencyKey::new(format!("request-{key}")).expect("a valid key"),
            fingerprint: [self.dice.below(2) as u8; 32],
        })
    }

    fn unique(&mut self) -> Option<Unique> {
        let key = self.dice.below(12);
        (key < 4).then(|| Unique {
            key: UniqueKey::new(format!("report {key}")).expect("a valid key"),
            among: match self.dice.below(4) {
                0 => vec![Status::Completed, Status::Failed],
                1 => vec![Status::Processing],
                2 => Status::ALL.to_vec(),
                _ => Unique::UNFINISHED.to_vec(),
            },
            window: self.dice.once_in(2).then(|| Duration::from_secs(5 + self.dice.below(30) as u64)),
        })
    }

    async fn register(&mut self) {
        let profile = profile("w");
        let worker = both!(self, register(&profile));
        self.workers.push(worker);
    }

    async fn claim(&mut self) {
        let Some(worker) = self.dice.pick(&self.workers) else { return };
        let name = queue(self.dice.pick(&["a", "b"]).expect("two"));
        let limit = self.dice.below(6);
        let claim = match self.dice.below(4) {
            0 => Claim::Ids(self.some_ids()),
            1 => Claim::Next { queues: vec![(name, 4)], limit, patience: Patience::Any },
            _ => {
                let suspicion = self.dice.pick(&Suspicion::ALL).expect("three");
                Claim::Suspects { queues: vec![queue("b"), queue("a")], suspicion, limit }
            }
        };
        let claimed = both!(self, claim(worker, &claim));
        self.hands.extend(claimed.into_iter().map(|task| (worker, task)));
    }

    async fn settle(&mut self) {
        if let (true, Some((worker, again))) = (self.dice.once_in(4), self.dice.pick(&self.sent)) {
            both!(self, settle(worker, std::slice::from_ref(&again)));
            return;
        }
        let recent = self.hands.len().saturating_sub(12);
        let Some((worker, claimed)) = self.dice.pick(&self.hands[recent..]) else { return };
        let knows = self.dice.once_in(3);
        let (permanent, transient) =
            (Failure::permanent("bad", "bad \"input\""), Failure::transient("busy", "the server is busy"));
        let late = Failure::new(ErrorClass::TimedOut, "time_limit", "ran too long");
        let policy = RetryPolicy::default();
        let fail = |failure| Event::Fail { failure, policy: &policy, limits: &claimed.limits, chance: 0.5 };
        let event = match self.dice.below(7) {
            0 => Event::Succeed,
            1 => Event::Release,
            2 => fail(&late),
            3 => fail(&transient),
            4 => Event::LoseWorker { charged: true },
            _ => fail(&permanent),
        };
        let result = matches!(event, Event::Succeed).then(|| json("[1]"));
        let settlement = Settlement { result, ..by_event(&claimed, knows, event) };
        both!(self, settle(worker, std::slice::from_ref(&settlement)));
        self.sent.push((worker, settlement));
    }

    async fn cancel_or_remove(&mut self) {
        let (tenant, ids) = (self.tenant(), self.some_ids());
        match self.dice.below(4) {
            0 => drop(both!(self, delete(&tenant, &ids[..1.min(ids.len())]))),
            1 => drop(both!(self, discard(&tenant, &ids))),
            _ => drop(both!(self, cancel(&tenant, &ids))),
        }
    }

    async fn rearrange(&mut self) {
        let (tenant, name) = (self.tenant(), queue(self.dice.pick(&["a", "b"]).expect("two")));
        let few = 1 + self.dice.below(5);
        match self.dice.below(30) {
            0..=13 => {
                let (ids, urgency) = (self.some_ids(), priority(self.dice.below(10) as i64));
                both!(self, reprioritise(&tenant, &ids, urgency));
            }
            14..=24 => {
                let every = Duration::from_secs(1 + self.dice.below(20) as u64);
                both!(self, age(&name, every, few));
            }
            25..=28 => drop(both!(self, waiting_since(&[queue("b"), queue("a")]))),
            _ => drop(both!(self, purge(&tenant, &name, TaskId(0), few))),
        }
    }

    async fn retry(&mut self) {
        let tenant = self.tenant();
        let mut tasks = Vec::new();
        let mut ids = self.some_ids();
        if self.dice.once_in(2) {
            // Such as have ended: most others are refused.
            let statuses = vec![Status::Failed, Status::Cancelled, Status::Expired];
            let filter = TaskFilter { statuses, ..TaskFilter::default() };
            let page = ListPage { before: None, limit: 3 };
            ids.extend(both!(self, list(&tenant, &filter, page)).into_iter().map(|task| task.id));
        }
        for id in ids {
            tasks.push(Retry { id, input: self.dice.once_in(3).then(|| json(r#"{"n":"edited"}"#)) });
        }
        both!(self, retry(&tenant, &tasks));
    }

    async fn pass_time(&mut self) {
        let by = if self.dice.once_in(12) {
            Duration::from_secs(24 * 3600)
        } else {
            Duration::from_millis(self.dice.below(6_000) as u64)
        };
        self.harness.advance(by).await;
        self.memory.advance(by);
        self.now += by;
        for worker in self.workers.clone() {
            if !self.dice.once_in(3) {
                both!(self, heartbeat(worker));
            }
        }
        let due = both!(self, next_due());
        assert!(due.is_none_or(|due| due < Duration::from_secs(1_000)));
        let promoted = self.memory.promote(1_000).await.expect("memory");
        let mut expected: Vec<_> = promoted.into_iter().collect();
        expected.sort_by_key(|waiting| waiting.id);
        let mut promoted = self.store.promote(1_000).await.expect("the store under test");
        promoted.sort_by_key(|waiting| waiting.id);
        self.same("promote", expected, promoted);
        let mut expired = self.memory.expire(1_000).await.expect("memory");
        expired.sort_unstable();
        let mut also = self.store.expire(1_000).await.expect("the store under test");
        also.sort_unstable();
        self.same("expire", expired, also);
    }

    async fn reap(&mut self) {
        let overdue = both!(self, overdue());
        for seen in overdue {
            assert!(both!(self, bury(&seen)));
            assert!(!both!(self, bury(&seen)), "once");
        }
        if let (true, Some(worker)) = (self.dice.once_in(6), self.dice.pick(&self.workers)) {
            both!(self, retire(worker));
        }
        let mut orphans = self.memory.orphans(1_000).await.expect("memory");
        let mut also = self.store.orphans(1_000).await.expect("the store under test");
        orphans.sort_by_key(|orphan| orphan.id);
        also.sort_by_key(|orphan| orphan.id);
        for orphan in self.same("orphans", orphans, also) {
            if self.dice.once_in(4) {
                continue; // the next page
            }
            let charged = orphan.counters.suspicion() == orphan.heaviest;
            let event = if orphan.worker_retired { Event::Release } else { Event::LoseWorker { charged } };
            let state = State::Processing { cancel_requested: orphan.cancel_requested };
            let change = decide(state, orphan.counters, event).expect("it runs");
            let (task, attempt) = (orphan.id, orphan.counters.attempt);
            let settlement = Settlement {
                task,
                attempt,
                change,
                result: None,
                details: None,
                calls: Vec::new(),
                knew_of_cancel: true,
            };
            both!(self, settle(orphan.worker, std::slice::from_ref(&settlement)));
        }
    }

    async fn keep_house(&mut self) {
        let grace = Duration::from_secs(self.dice.below(10) as u64);
        // Of what the dead held, the orphans tell.
        let dead: Vec<_> =
            self.memory.orphans(1_000).await.expect("memory").into_iter().map(|orphan| orphan.id).collect();
        let mut late = self.memory.overrunning(grace, 1_000).await.expect("memory");
        late.retain(|late| !dead.contains(&late.id));
        let mut also = self.store.overrunning(grace, 1_000).await.expect("the store under test");
        also.sort_by_key(|late| late.id);
        self.same("overrunning", late, also);
        both!(self, forget_keys(1_000));
        let age = Duration::from_secs(self.dice.below(3_000) as u64);
        if self.dice.once_in(4) {
            both!(self, discard_failed(age, 1_000));
        }
    }

    /// All that a client can see.
    async fn look(&mut self) {
        for tenant in [Tenant::default(), tenant("acme")] {
            let ids = self.ids.clone();
            both!(self, read(&tenant, &ids));
            both!(self, counts(&tenant));
            both!(self, failures(&tenant, 2));
            for id in ids.into_iter().rev().take(40) {
                both!(self, attempts(&tenant, id));
            }
            for statuses in
                [vec![], vec![Status::Failed], vec![Status::Pending, Status::Failed, Status::Completed]]
            {
                let code = self.dice.pick(&[None, None, Some("bad"), Some("poison")]).expect("four");
                let age = Duration::from_secs(self.dice.below(40) as u64);
                let ended_before = self.dice.once_in(2).then(|| self.now - age);
                let error_code = code.map(str::to_owned);
                let filter = TaskFilter { statuses, error_code, ended_before, ..TaskFilter::default() };
                let page = ListPage { before: self.dice.pick(&self.ids), limit: 1 + self.dice.below(30) };
                both!(self, list(&tenant, &filter, page));
            }
        }
        let mut queues = self.memory.waiting_queues(&[]).await.expect("memory");
        queues.sort_unstable();
        let mut also = self.store.waiting_queues(&[]).await.expect("the store under test");
        also.sort_unstable();
        self.same("waiting_queues", queues, also);
        for name in ["a", "b"].map(queue) {
            both!(self, waiting(&name, 5));
        }
        for worker in self.workers.clone() {
            let mut requests = self.memory.cancel_requests(worker).await.expect("memory");
            requests.sort_unstable();
            let also = self.store.cancel_requests(worker).await.expect("the store under test");
            self.same("cancel_requests", requests, also);
        }
    }
}
