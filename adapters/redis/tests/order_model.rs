//! Random histories of the order against a simple model of the store: whatever is pushed, popped, refilled (also by
//! several workers at once) and wiped in between, no task is lost, and each pop gives the first that wait.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use application::ports::{Order, Waiting};
use contract_tests::servers::RedisServer;
use domain::{Priority, QueueName, Rank, Suspicion, TaskId};
use proptest::prelude::*;
use redis_adapter::RedisOrder;
use support::{open, options, queue, spy};

const WINDOW: usize = 8;
const QUEUES: usize = 3;

#[derive(Debug, Clone)]
enum Step {
    /// So many tasks of these priorities are submitted to these queues, and pushed.
    Submit(Vec<(usize, i64)>),
    /// They are submitted, but whoever should push them dies.
    SubmitOnly(usize, i64),
    /// A worker pops and claims.
    Pop {
        allowances: Vec<usize>,
        limit: usize,
    },
    /// A worker pops and dies before it claims.
    PopOnly {
        limit: usize,
    },
    /// A worker (one of two) marks a queue and reads the store.
    Read {
        worker: usize,
        queue: usize,
        limit: usize,
    },
    /// It refills the queue with what it read.
    Refill {
        worker: usize,
    },
    /// It dies before it does.
    Abandon {
        worker: usize,
    },
    Wipe,
}

fn step() -> impl Strategy<Value = Step> {
    let task = (0..QUEUES, 0..10_i64);
    prop_oneof![
        6 => proptest::collection::vec(task.clone(), 1..6).prop_map(Step::Submit),
        1 => proptest::collection::vec(task.clone(), 20..30).prop_map(Step::Submit),
        1 => task.prop_map(|(queue, priority)| Step::SubmitOnly(queue, priority)),
        6 => (proptest::collection::vec(0_usize..6, QUEUES), 0_usize..12)
            .prop_map(|(allowances, limit)| Step::Pop { allowances, limit }),
        1 => (1_usize..4).prop_map(|limit| Step::PopOnly { limit }),
        4 => (0_usize..2, 0..QUEUES, prop_oneof![3 => Just(WINDOW), 1 => 1..2 * WINDOW])
            .prop_map(|(worker, queue, limit)| Step::Read { worker, queue, limit }),
        4 => (0_usize..2).prop_map(|worker| Step::Refill { worker }),
        1 => (0_usize..2).prop_map(|worker| Step::Abandon { worker }),
        1 => Just(Step::Wipe),
    ]
}

/// What a worker read from the store, to refill a queue with it.
struct Reading {
    queue: usize,
    mark: u64,
    tasks: Vec<Waiting>,
    complete: bool,
    /// Submitted to the queue since.
    since: usize,
    /// Whether another refill of the queue overlapped or was abandoned, or the server was wiped since.
    disturbed: bool,
}

#[derive(Default)]
struct Model {
    /// What waits, in order.
    store: [BTreeSet<(Priority, i64)>; QUEUES],
    last_id: i64,
    readings: BTreeMap<usize, Reading>,
    /// Queues of which the store holds more before the window's end than the order knows; allowed after the death of a
    /// worker, and where a refill met more than what is kept of what comes in between.
    gaps: [bool; QUEUES],
    /// Queues whose late ids still wait for somebody who died: less room for those of others.
    abandoned: [bool; QUEUES],
}

impl Model {
    /// A worker dies between the store and the order.
    fn die(&mut self) {
        self.gaps = [true; QUEUES];
        self.readings.values_mut().for_each(|reading| reading.since = usize::MAX);
    }
}

struct Run {
    order: RedisOrder,
    names: [QueueName; QUEUES],
    model: Model,
    spy: redis::aio::MultiplexedConnection,
    prefix: String,
}

impl Run {
    fn waiting(&self, queue: usize, (priority, id): (Priority, i64)) -> Waiting {
        Waiting {
            id: TaskId(id),
            queue: self.names[queue].clone(),
            priority,
            rank: Rank(id),
            suspicion: Suspicion::None,
        }
    }

    fn submit(&mut self, queue: usize, priority: i64) -> Waiting {
        self.model.last_id += 1;
        let place = (Priority::new(priority).expect("0 to 9"), self.model.last_id);
        self.model.store[queue].insert(place);
        for reading in self.model.readings.values_mut().filter(|reading| reading.queue == queue) {
            reading.since = reading.since.saturating_add(1);
        }
        self.waiting(queue, place)
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Submit(tasks) => {
                let tasks: Vec<_> =
                    tasks.into_iter().map(|(queue, priority)| self.submit(queue, priority)).collect();
                self.order.push(&tasks).await.expect("a push");
            }
            Step::SubmitOnly(queue, priority) => {
                self.submit(queue, priority);
                self.model.die();
            }
            Step::Pop { allowances, limit } => self.pop(&allowances, limit).await,
            Step::PopOnly { limit } => {
                let queues: Vec<_> = self.names.iter().map(|name| (name.clone(), limit)).collect();
                self.order.pop(&queues, limit).await.expect("a pop");
                self.model.die();
            }
            Step::Read { worker, queue, limit } => self.read(worker, queue, limit).await,
            Step::Refill { worker } => self.refill(worker).await,
            Step::Abandon { worker } => {
                if let Some(reading) = self.model.readings.remove(&worker) {
                    self.model.abandoned[reading.queue] = true;
                }
            }
            Step::Wipe => {
                let () = redis::cmd("FLUSHALL").query_async(&mut self.spy).await.expect("a flush");
                self.model.readings.values_mut().for_each(|reading| reading.disturbed = true);
                self.model.gaps = [false; QUEUES];
                self.model.abandoned = [false; QUEUES];
            }
        }
        let mut sizes = redis::pipe();
        for (part, name) in
            ["window", "late"].into_iter().flat_map(|part| self.names.iter().map(move |name| (part, name)))
        {
            sizes.cmd("ZCARD").arg(format!("{{{}}}:v1:{part}:{name}", self.prefix));
        }
        let sizes: Vec<usize> = sizes.query_async(&mut self.spy).await.expect("counts");
        assert!(sizes.iter().all(|size| *size <= WINDOW), "windows, then late ids: {sizes:?}");
    }

    async fn pop(&mut self, allowances: &[usize], limit: usize) {
        let queues: Vec<_> = self.names.iter().cloned().zip(allowances.iter().copied()).collect();
        let popped = self.order.pop(&queues, limit).await.expect("a pop");
        assert!(popped.ids.len() <= limit);
        let mut taken = [const { Vec::new() }; QUEUES];
        let mut stale = [false; QUEUES];
        let mut all = Vec::new();
        for id in &popped.ids {
            let place =
                |queue: &usize| self.model.store[*queue].iter().find(|(_, other)| *other == id.0).copied();
            // What is not there any more has been claimed before; the claim finds out.
            match (0..QUEUES).find_map(|queue| Some((queue, place(&queue)?))) {
                Some((queue, place)) => {
                    taken[queue].push(place);
                    all.push((place.0, queue));
                }
                None => stale = [true; QUEUES],
            }
        }
        assert!(all.is_sorted_by_key(|(priority, _)| *priority), "across queues, priority decides: {all:?}");
        for queue in 0..QUEUES {
            let low = popped.low.contains(&self.names[queue]);
            let expected: Vec<_> = self.model.store[queue].iter().take(taken[queue].len()).copied().collect();
            assert!(taken[queue].len() <= allowances[queue]);
            if !self.model.gaps[queue] {
                assert_eq!(taken[queue], expected, "the first that wait in {queue}");
                let room =
                    popped.ids.len() < limit && taken[queue].len() < allowances[queue] && !stale[queue];
                let left = self.model.store[queue].len() > taken[queue].len();
                assert!(low || !(room && left), "{queue} holds back without asking for a refill");
            }
            for place in &taken[queue] {
                assert!(self.model.store[queue].remove(place));
            }
        }
    }

    async fn read(&mut self, worker: usize, queue: usize, limit: usize) {
        if self.model.readings.contains_key(&worker) {
            return;
        }
        let mark = self.order.mark(&self.names[queue]).await.expect("a mark");
        let all = &self.model.store[queue];
        let tasks: Vec<_> = all.iter().take(limit).map(|place| self.waiting(queue, *place)).collect();
        let complete = all.len() <= limit;
        let mut disturbed = self.model.abandoned[queue];
        for other in self.model.readings.values_mut().filter(|other| other.queue == queue) {
            other.disturbed = true;
            disturbed = true;
        }
        let reading = Reading { queue, mark, tasks, complete, since: 0, disturbed };
        self.model.readings.insert(worker, reading);
    }

    async fn refill(&mut self, worker: usize) {
        let Some(Reading { queue, mark, tasks, complete, since, disturbed }) =
            self.model.readings.remove(&worker)
        else {
            return;
        };
        let name = self.names[queue].clone();
        self.order.refill(&name, mark, &tasks, complete).await.expect("a refill");
        if since > 0 && (disturbed || since > WINDOW / 2) {
            self.model.gaps[queue] = true;
        } else if complete || tasks.len() >= WINDOW {
            self.model.gaps[queue] = false;
        }
    }

    /// What the upkeep does with time: refills every queue, whoever died before.
    async fn sweep(&mut self) {
        self.model.readings.clear();
        for queue in 0..QUEUES {
            self.read(0, queue, WINDOW).await;
            self.refill(0).await;
            self.model.gaps[queue] = false;
        }
    }

    /// Drains all that waits, refilling only what a pop calls low.
    async fn drain(&mut self) {
        let everything = [usize::MAX; QUEUES];
        for _ in 0..10_000 {
            let before: usize = self.model.store.iter().map(BTreeSet::len).sum();
            let queues: Vec<_> = self.names.iter().map(|name| (name.clone(), 0)).collect();
            let low = self.order.pop(&queues, 1).await.expect("a pop").low;
            for name in &low {
                let queue = self.names.iter().position(|other| other == name).expect("one of ours");
                self.read(0, queue, WINDOW).await;
                self.refill(0).await;
            }
            self.pop(&everything, 5).await;
            if low.is_empty() && before == 0 {
                return;
            }
        }
        panic!("it never ends: {:?} wait, low for ever", self.model.store);
    }
}

async fn play(server: &RedisServer, steps: Vec<Step>) {
    let options = options(server);
    let mut run = Run {
        order: RedisOrder::new(&open(&options)).with_window(WINDOW),
        names: std::array::from_fn(|at| queue(&format!("q{at}"))),
        model: Model::default(),
        spy: spy(server.url()).await,
        prefix: options.prefix,
    };
    for step in steps {
        run.step(step).await;
    }
    run.sweep().await;
    run.drain().await;
}

#[test]
fn nothing_is_lost_and_the_order_holds() {
    // Wipes need a server of one's own.
    let server = RedisServer::start().expect("a server");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let config = ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(steps in proptest::collection::vec(step(), 1..60))| {
        runtime.block_on(play(&server, steps));
    });
}
