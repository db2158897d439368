//! The loop. Everything that takes time runs beside it and reports back as a [`Message`]; the loop itself only keeps
//! the books: who runs, what is free, when to look, when to beat.

mod hearing;
mod lease;
mod limits;
mod notes;
mod obeying;
mod pauses;
mod reporting;
mod starting;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use domain::{Json, QueueName, Serving, Slots, TaskId, TaskType, Throttle, Turns, WorkerId};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use self::{limits::LimitedQueues, pauses::Pauses, reporting::Reports};
use super::{
    Shutdown, WorkerConfig, WorkerPorts,
    attempt::Ended,
    fetch::{Fetched, Want, fetch},
    runs::RunBook,
    settle::{self, Settled},
    suspects::RunningSuspects,
};
use crate::{
    fleet::Ends,
    handler::{Recorder, RunningAttempt, Stop},
    ordering::refill,
    ports::{GivenCommand, LimitedTasks, StoreError},
};

/// How often the loop looks around when nothing else wakes it.
const TICK: Duration = Duration::from_millis(50);
/// How often a worker with a working order, or with news, looks at the store all the same.
const LOOK_AT_STORE: Duration = Duration::from_secs(2);
/// How often it looks when the store is all it has.
const LOOK_WHEN_ALONE: Duration = Duration::from_millis(100);
/// How often a worker looks for suspects, who are not announced.
const LOOK_FOR_SUSPECTS: Duration = Duration::from_secs(2);
/// How often it asks the store which of its tasks were cancelled.
const ASK_FOR_CANCELLATIONS: Duration = Duration::from_secs(1);
/// The pause after the store did not answer.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(250);
/// The most tasks in one claim.
const LARGEST_CLAIM: usize = 1000;
/// How many claims are under way at once while there is plenty to do, and how many settlements.
const CLAIMS_AT_ONCE: std::ops::RangeInclusive<usize> = 2..=4;
const SETTLEMENTS_AT_ONCE: usize = 2;

/// What comes back to the loop.
enum Message {
    Ended(Box<Ended>),
    /// What came of a claim of at most so many.
    Fetched(WorkerId, usize, Result<Fetched, StoreError>),
    Refilled(QueueName),
    /// With those queues with limits in which tasks ended.
    Settled(Settled, Vec<QueueName>),
    Heartbeat(WorkerId, Instant, Result<bool, StoreError>),
    Cancellations(Result<Vec<(TaskId, u32)>, StoreError>),
    Queues(Vec<QueueName>),
    Paused(Result<Vec<QueueName>, StoreError>),
    /// What came of a claim of at most so many from a queue with limits.
    FetchedLimited(WorkerId, QueueName, usize, Result<LimitedTasks, StoreError>),
    /// What came of a report: the commands that are to be carried out.
    Commands(Result<Vec<GivenCommand>, StoreError>),
}

/// What every attempt needs to run.
struct Crew {
    ports: WorkerPorts,
    recorder: Arc<Recorder>,
    runs: RunBook,
    /// Bounded by what the loop starts: one message per running task and per operation under way.
    outbox: mpsc::UnboundedSender<Message>,
}

pub(super) struct Engine {
    config: WorkerConfig,
    crew: Arc<Crew>,
    inbox: mpsc::UnboundedReceiver<Message>,
    running: HashMap<TaskId, Arc<RunningAttempt>>,
    /// Those of them whose handlers are still to be started.
    starting: Vec<(Arc<RunningAttempt>, Json)>,
    slots: Slots,
    turns: Turns,
    suspects: RunningSuspects,
    /// Tasks started since the process did.
    started: u64,
    serving: Serving,
    /// Those of them that are known.
    queues: Vec<QueueName>,
    pauses: Pauses,
    limited: LimitedQueues,
    /// Told to take no tasks: until told otherwise, or because it is to end when what runs has ended.
    paused: bool,
    finishing: bool,
    /// Types that are held to a pace, on a clock that began with the worker.
    throttles: HashMap<TaskType, Throttle>,
    began: Instant,
    ends: Ends,
    reports: Reports,
    drain: CancellationToken,
    unsettled: VecDeque<Ended>,
    /// Settlements under way, and the endings in them.
    settlements: usize,
    settling: usize,
    /// Claims under way, and the slots that they may fill.
    claims: usize,
    reserved: usize,
    /// The last claim found about as much as it could take.
    plenty: bool,
    /// Queues whose window in the order is being filled.
    refilling: HashSet<QueueName>,
    /// There may be work: claim as soon as there is room.
    news_of_work: bool,
    /// What the last news named while there was nothing else to do: the next claim takes these.
    named: Vec<TaskId>,
    /// Taken by name: the order hands these out once more.
    taken_by_name: Vec<TaskId>,
    /// The last claim left out queues or tasks for want of slots: each slot that comes free is news.
    short_of_slots: bool,
    beating: bool,
    last_beat: Instant,
    next_beat: Instant,
    asking_for_cancellations: bool,
    next_ask: Instant,
    next_look: Instant,
    next_look_for_suspects: Instant,
    next_note: Instant,
    /// Not before this moment after an error.
    claim_not_before: Instant,
    settle_not_before: Instant,
    order_works: bool,
}

impl Engine {
    pub(super) fn new(config: WorkerConfig, ports: WorkerPorts) -> Self {
        let (outbox, inbox) = mpsc::unbounded_channel();
        let now = Instant::now();
        let serving = Serving::of(config.queues.clone(), config.except.clone());
        let known = if serving.is_open() { ports.routes.queues() } else { serving.only().to_vec() };
        let queues = known.into_iter().filter(|queue| serving.serves(queue)).collect();
        let crew = Arc::new(Crew { ports, recorder: Arc::default(), runs: RunBook::default(), outbox });
        Self {
            slots: Slots::new(config.concurrency),
            turns: Turns::new(config.order.clone()),
            suspects: RunningSuspects::default(),
            started: 0,
            inbox,
            running: HashMap::new(),
            starting: Vec::new(),
            serving,
            queues,
            pauses: Pauses::new(now),
            limited: LimitedQueues::default(),
            paused: false,
            finishing: false,
            throttles: HashMap::new(),
            began: now,
            ends: Ends::default(),
            reports: Reports::new(now),
            drain: CancellationToken::new(),
            unsettled: VecDeque::new(),
            settlements: 0,
            settling: 0,
            claims: 0,
            reserved: 0,
            plenty: false,
            refilling: HashSet::new(),
            news_of_work: true,
            named: Vec::new(),
            taken_by_name: Vec::new(),
            short_of_slots: false,
            beating: false,
            last_beat: now,
            next_beat: now,
            asking_for_cancellations: false,
            next_ask: now,
            next_look: now,
            next_look_for_suspects: now,
            next_note: now,
            claim_not_before: now,
            settle_not_before: now,
            order_works: true,
            config,
            crew,
        }
    }

    pub(super) async fn run(mut self, shutdown: Shutdown) {
        let stop_recorder = CancellationToken::new();
        let WorkerPorts { store, signals, .. } = self.crew.ports.clone();
        tokio::spawn(Arc::clone(&self.crew.recorder).run(store, signals, stop_recorder.clone()));
        let _stop_recorder_at_the_end = stop_recorder.drop_guard();

        self.drain = shutdown.drain.clone();
        let mut news = self.crew.ports.signals.work();
        let mut registered: Option<WorkerId> = None;
        let mut give_back_at: Option<Instant> = None;
        loop {
            if shutdown.halt.is_cancelled() {
                return;
            }
            if shutdown.drain.is_cancelled() && give_back_at.is_none() {
                give_back_at = Some(Instant::now() + self.config.grace);
                tracing::info!(running = self.running.len(), grace = ?self.config.grace, "draining: no new tasks");
            }
            if give_back_at.is_none() && self.config.max_tasks.is_some_and(|most| self.started >= most) {
                tracing::info!(started = self.started, "as many tasks as this worker may run: it drains");
                shutdown.drain.cancel();
                continue;
            }
            let draining = give_back_at.is_some();
            if self.finishing && !draining && self.has_nothing_in_hand() {
                tracing::info!("all that ran has ended: the worker ends as it was told to");
                shutdown.drain.cancel();
                continue;
            }
            if draining && self.has_nothing_in_hand() && !self.reports.owes_answers() {
                break;
            }
            if give_back_at.is_some_and(|at| Instant::now() >= at) {
                self.stop_all(Stop::Release);
            }
            if give_back_at.is_some_and(|at| Instant::now() >= at + self.config.lease.length()) {
                let unsettled = self.unsettled.len() + self.settling;
                tracing::error!(
                    unsettled,
                    "the store took no outcomes for a whole lease; others will take over"
                );
                return;
            }
            match registered {
                None if draining && self.unsettled.is_empty() && self.settling == 0 => break,
                None => registered = self.register(&shutdown).await,
                Some(worker) if self.lease_is_lost() => {
                    tracing::error!(%worker, "no heartbeat was answered in time: the lease counts as lost, work stops");
                    self.stop_all(Stop::Abandon);
                    registered = None;
                    continue;
                }
                Some(worker) => {
                    self.beat(worker);
                    self.ask_for_cancellations(worker);
                    self.ask_for_pauses();
                    self.note_runs();
                    self.report(worker, draining);
                    let takes_tasks = !(draining || self.paused || self.finishing);
                    if takes_tasks {
                        self.fetch_limited(worker);
                    }
                    for _ in 0..if takes_tasks { self.claims_at_once() } else { 0 } {
                        self.fetch(worker);
                    }
                }
            }
            self.settle();
            self.run_handlers();
            let wake_at = Instant::now() + TICK;
            tokio::select! {
                Some(message) = self.inbox.recv() => {
                    self.take(message, &mut registered);
                    while let Ok(message) = self.inbox.try_recv() {
                        self.take(message, &mut registered);
                    }
                }
                signal = news.recv() => self.hear(signal),
                () = shutdown.halt.cancelled() => {}
                () = shutdown.drain.cancelled(), if !draining => {}
                () = tokio::time::sleep_until(wake_at) => {}
            }
        }
        self.note_the_last_runs().await;
        if let Some(worker) = registered
            && let Err(error) = self.crew.ports.store.retire(worker).await
        {
            tracing::warn!(%error, "the worker could not sign off; its lease will run out by itself");
        }
        tracing::info!("drained");
    }

    fn has_nothing_in_hand(&self) -> bool {
        self.running.is_empty()
            && self.unsettled.is_empty()
            && self.settling == 0
            && self.claims == 0
            && !self.limited.under_way()
    }

    fn stop_all(&self, stop: Stop) {
        self.running.values().for_each(|attempt| attempt.stop(stop));
    }

    /// Starts a claim of exactly what can be run, if anything can and there is a reason to look.
    fn fetch(&mut self, worker: WorkerId) {
        let now = Instant::now();
        let mut named = std::mem::take(&mut self.named);
        let look = now >= self.next_look;
        let look_for_suspects = now >= self.next_look_for_suspects;
        let reason = look || look_for_suspects || self.news_of_work;
        let most_claims = if self.plenty { self.claims_at_once() } else { 1 };
        if self.claims >= most_claims || !reason || now < self.claim_not_before {
            return;
        }
        let others = usize::from(self.serving.is_open());
        // What another claim may bring counts as if each queue had got it all.
        let allowance = self.slots.allowance(&self.queues, others).into_iter();
        let allowance = allowance.map(|most| most.saturating_sub(self.reserved));
        let (open, allowance): (Vec<_>, Vec<_>) =
            self.queues.iter().zip(allowance).filter(|(queue, _)| self.is_open(queue)).unzip();
        let all = open.len();
        let queues: Vec<(QueueName, usize)> =
            open.into_iter().cloned().zip(allowance).filter(|(_, most)| *most > 0).collect();
        let limit = self.largest_claim();
        if self.unsettled_are_many() || (queues.is_empty() && all > 0) || limit == 0 {
            self.short_of_slots = true;
            return;
        }
        if all == 0 && !look {
            self.news_of_work = false;
            return;
        }
        self.claims += 1;
        self.reserved += limit;
        self.news_of_work = self.plenty && self.claims < self.claims_at_once();
        if look {
            self.next_look = now + if self.has_news() { LOOK_AT_STORE } else { LOOK_WHEN_ALONE };
        }
        self.short_of_slots = queues.len() < all;
        let mut suspects = Vec::new();
        if look_for_suspects {
            self.next_look_for_suspects = now + LOOK_FOR_SUSPECTS;
            suspects = self.suspects.room();
        }
        // Not where something else is due, or where it is not certain that all of them can run.
        let room = queues.iter().map(|(_, most)| *most).min().unwrap_or(0).min(limit);
        if look || look_for_suspects || self.short_of_slots || named.len() > room {
            named.clear();
        }
        let already = if named.is_empty() { std::mem::take(&mut self.taken_by_name) } else { Vec::new() };
        let limited = if suspects.is_empty() { Vec::new() } else { self.open_limited() };
        let requests = self.turns.requests(&queues, limit);
        let want =
            Want { queues, requests, limit, look_at_the_store: look, suspects, limited, named, already };
        let crew = Arc::clone(&self.crew);
        let known = (look && self.serving.is_open())
            .then(|| self.queues.iter().chain(self.serving.except()).cloned().collect::<Vec<_>>());
        tokio::spawn(async move {
            let WorkerPorts { store, order, .. } = &crew.ports;
            let fetched = fetch(store.as_ref(), order.as_deref(), worker, &want).await;
            let _ = crew.outbox.send(Message::Fetched(worker, want.limit, fetched));
            if let Some(known) = known
                && let Ok(queues) = store.waiting_queues(&known).await
            {
                let _ = crew.outbox.send(Message::Queues(queues));
            }
        });
    }

    /// Endings that the store has not taken yet hold their claim's place, so that memory stays bounded.
    fn unsettled_are_many(&self) -> bool {
        self.unsettled.len() + self.settling >= 2 * settle::BATCH.max(self.config.concurrency)
    }

    /// More where there are slots for several of the largest claims.
    fn claims_at_once(&self) -> usize {
        (self.config.concurrency / LARGEST_CLAIM).clamp(*CLAIMS_AT_ONCE.start(), *CLAIMS_AT_ONCE.end())
    }

    /// The most that the next claim may take. Half of the slots at most, where there are many, so that one claim is on its
    /// way while what another has brought is run.
    fn largest_claim(&self) -> usize {
        let allowed = self.config.max_tasks.map_or(u64::MAX, |most| most.saturating_sub(self.started));
        let allowed = usize::try_from(allowed).unwrap_or(usize::MAX);
        let free = self.slots.free().min(allowed).saturating_sub(self.reserved);
        let half = if self.config.concurrency < 100 {
            usize::MAX
        } else {
            self.config.concurrency.div_ceil(self.claims_at_once())
        };
        free.min(half).min(LARGEST_CLAIM)
    }

    /// Fills windows of the order from the store, beside everything else; each once at a time.
    fn refill(&mut self, low: Vec<QueueName>) {
        for queue in low {
            if !self.refilling.insert(queue.clone()) {
                continue;
            }
            let crew = Arc::clone(&self.crew);
            tokio::spawn(async move {
                let WorkerPorts { store, order, .. } = &crew.ports;
                if let Some(order) = order
                    && let Err(error) = refill(store.as_ref(), order.as_ref(), &queue).await
                {
                    tracing::debug!(%error, %queue, "the order's window could not be refilled yet");
                }
                let _ = crew.outbox.send(Message::Refilled(queue));
            });
        }
    }

    /// Whether new work is announced to this worker, so that it need not look all the time.
    fn has_news(&self) -> bool {
        self.crew.ports.signals.connected() && self.order_works
    }

    /// Settles what has ended: at once when nothing is being settled, else by whole batches.
    fn settle(&mut self) {
        while self.settlements < SETTLEMENTS_AT_ONCE
            && self.unsettled.len() >= if self.settlements == 0 { 1 } else { settle::BATCH }
            && Instant::now() >= self.settle_not_before
        {
            // Of one registration: nearly always all of them.
            let worker = self.unsettled[0].attempt.worker;
            let same = self.unsettled.iter().take(settle::BATCH);
            let count = same.take_while(|ended| ended.attempt.worker == worker).count();
            let batch: Vec<_> = self.unsettled.drain(..count).collect();
            let limited = self.limited_in(&batch);
            self.settlements += 1;
            self.settling += count;
            let crew = Arc::clone(&self.crew);
            tokio::spawn(async move {
                let settled = settle::settle(batch, &crew.ports, &crew.recorder, &crew.runs).await;
                let _ = crew.outbox.send(Message::Settled(settled, limited));
            });
        }
    }

    fn take(&mut self, message: Message, registered: &mut Option<WorkerId>) {
        match message {
            Message::Ended(ended) => {
                self.running.remove(&ended.attempt.info.id);
                self.slots.give_back(&ended.attempt.info.queue);
                if self.suspects.give_back(ended.counters().suspicion()) {
                    self.next_look_for_suspects = Instant::now();
                }
                self.news_of_work |= self.short_of_slots;
                self.unsettled.push_back(*ended);
            }
            Message::Fetched(worker, limit, fetched) => {
                self.claims -= 1;
                self.reserved -= limit;
                // A claim is seldom full: some slots are kept for other queues.
                self.plenty = fetched.as_ref().is_ok_and(|fetched| 2 * fetched.tasks.len() >= limit);
                self.take_fetched(worker, *registered, fetched);
            }
            Message::Refilled(queue) => {
                self.refilling.remove(&queue);
                self.news_of_work = true;
            }
            Message::Settled(settled, limited) => {
                limited.iter().for_each(|queue| self.limited.has_room(queue));
                self.settlements -= 1;
                self.settling -= settled.of;
                self.ends += settled.ends;
                if let Some(error) = &settled.error {
                    tracing::warn!(%error, waiting = settled.again.len(), "outcomes cannot be stored yet; trying again");
                    self.settle_not_before = Instant::now() + PAUSE_AFTER_ERROR;
                }
                self.unsettled.extend(settled.again);
            }
            Message::Heartbeat(worker, asked, answer) => {
                self.beating = false;
                match answer {
                    Ok(true) => self.last_beat = self.last_beat.max(asked),
                    Ok(false) if *registered == Some(worker) => {
                        tracing::error!(%worker, "this worker was declared dead: work stops and it registers anew");
                        self.stop_all(Stop::Abandon);
                        *registered = None;
                    }
                    Ok(false) => {}
                    Err(error) => {
                        tracing::warn!(%error, "a heartbeat was not answered");
                        self.next_beat = Instant::now() + PAUSE_AFTER_ERROR;
                    }
                }
            }
            Message::Cancellations(answer) => {
                self.asking_for_cancellations = false;
                for (id, attempt) in answer.unwrap_or_default() {
                    if let Some(running) =
                        self.running.get(&id).filter(|running| running.info.attempt == attempt)
                    {
                        running.stop(Stop::Cancel);
                    }
                }
            }
            Message::Paused(answer) => self.take_pauses(answer),
            Message::FetchedLimited(worker, queue, limit, answer) => {
                self.take_limited(worker, *registered, &queue, limit, answer);
            }
            Message::Queues(queues) => {
                for queue in queues {
                    let known = self.queues.contains(&queue);
                    self.news_of_work |= self.learn_queue(&queue) && !known;
                }
            }
            Message::Commands(answer) => self.take_commands(answer),
        }
    }

    fn take_fetched(
        &mut self,
        worker: WorkerId,
        registered: Option<WorkerId>,
        fetched: Result<Fetched, StoreError>,
    ) {
        match fetched {
            Ok(fetched) => {
                self.refill(fetched.low);
                self.taken_by_name.extend(fetched.by_name);
                self.order_works = fetched.order_works;
                if !self.has_news() {
                    self.next_look = self.next_look.min(Instant::now() + LOOK_WHEN_ALONE);
                }
                self.news_of_work |= fetched.maybe_more;
                self.tell_of_starts(&fetched.tasks);
                for task in fetched.tasks {
                    self.start(task, worker, registered == Some(worker));
                }
            }
            Err(error) => {
                tracing::warn!(%error, "no tasks can be claimed; trying again");
                self.claim_not_before = Instant::now() + PAUSE_AFTER_ERROR;
                self.news_of_work = true;
            }
        }
    }
}

/// In words.
fn describe(serving: &Serving) -> String {
    let join = |queues: &[QueueName]| queues.iter().map(QueueName::as_str).collect::<Vec<_>>().join(",");
    match (serving.is_open(), serving.except()) {
        (false, _) => join(serving.only()),
        (true, []) => "every queue".to_owned(),
        (true, except) => format!("every queue but {}", join(except)),
    }
}
