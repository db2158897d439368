//! A product in a test's hand: the memory store on tokio's clock, which tests can pause, and a worker.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, TimeDelta};
use domain::{
    Change, End, Failure, Json, LeaseTerms, QueueName, Routes, Task, TaskId, TaskType, Tenant, WorkerName,
};
use tokio::{task::JoinHandle, time::Instant};

use crate::{
    fleet::Workers,
    in_process::InProcessSignals,
    memory::MemoryStore,
    ports::{
        Applied, Chance, Claim, ClaimedTask, MockChance, Order, Patience, Settlement, Signal, Signals, Store,
        UpkeepStore, WorkStore, WorkerProfile,
    },
    queues::Queues,
    registry::{Registry, TaskTypeSpec},
    schedules::Schedules,
    tasks::{Submission, Tasks},
    upkeep::{Upkeep, UpkeepConfig},
    worker::{Shutdown, Worker, WorkerConfig, WorkerPorts},
};

pub(crate) struct Product {
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) tasks: Tasks,
    ports: WorkerPorts,
    /// By how many seconds the store's clock is ahead of tokio's.
    jumped: Arc<AtomicU64>,
}

impl Product {
    /// A product with these task types. Its store's clock is tokio's.
    pub(crate) fn new(types: impl IntoIterator<Item = TaskTypeSpec>) -> Self {
        Self::with(|_, _| types)
    }

    /// The same, with task types that stand on its store and its signals.
    pub(crate) fn with<T: IntoIterator<Item = TaskTypeSpec>>(
        types: impl FnOnce(Arc<dyn Store>, Arc<dyn Signals>) -> T,
    ) -> Self {
        let start = Instant::now();
        let jumped = Arc::new(AtomicU64::new(0));
        let jumps = Arc::clone(&jumped);
        let epoch = DateTime::from_timestamp(1_800_000_000, 0).expect("a moment");
        let store = Arc::new(MemoryStore::with_clock(move || {
            let passed = start.elapsed() + Duration::from_secs(jumps.load(Ordering::Relaxed));
            epoch + TimeDelta::from_std(passed).expect("a short test")
        }));
        let mut chance = MockChance::new();
        chance.expect_next().returning(|| 0.5);
        let signals: Arc<dyn Signals> = Arc::new(InProcessSignals::new());
        let types = types(Arc::clone(&store) as _, Arc::clone(&signals));
        let ports = WorkerPorts {
            store: Arc::clone(&store) as Arc<dyn Store>,
            order: None,
            signals,
            registry: Arc::new(Registry::new(types).expect("distinct types")),
            routes: Arc::new(Routes::default()),
            chance: Arc::new(chance) as Arc<dyn Chance>,
        };
        let WorkerPorts { signals, registry, routes, .. } = ports.clone();
        Self {
            tasks: Tasks::new(Arc::clone(&store) as _, None, signals, registry, routes),
            store,
            ports,
            jumped,
        }
    }

    /// Gives it an order.
    pub(crate) fn with_order(self, order: impl Order + 'static) -> Self {
        let order: Option<Arc<dyn Order>> = Some(Arc::new(order));
        let ports = WorkerPorts { order, ..self.ports };
        let WorkerPorts { order, signals, registry, routes, .. } = ports.clone();
        Self {
            tasks: Tasks::new(Arc::clone(&self.store) as _, order, signals, registry, routes),
            ports,
            ..self
        }
    }

    /// Gives it other routes.
    pub(crate) fn with_routes(self, routes: Routes) -> Self {
        let ports = WorkerPorts { routes: Arc::new(routes), ..self.ports };
        let WorkerPorts { order, signals, registry, routes, .. } = ports.clone();
        Self {
            tasks: Tasks::new(Arc::clone(&self.store) as _, order, signals, registry, routes),
            ports,
            ..self
        }
    }

    /// Sends this news.
    pub(crate) async fn publish(&self, signal: Signal) {
        self.ports.signals.publish(&[signal]).await;
    }

    /// Moves the store's clock, and no other.
    pub(crate) fn jump(&self, by: Duration) {
        self.jumped.fetch_add(by.as_secs(), Ordering::Relaxed);
    }

    /// Starts a worker of every queue.
    pub(crate) fn worker(&self, concurrency: usize) -> (Shutdown, JoinHandle<()>) {
        self.worker_with(concurrency, |_| {})
    }

    /// The same, changed.
    pub(crate) fn worker_with(
        &self,
        concurrency: usize,
        change: impl FnOnce(&mut WorkerConfig),
    ) -> (Shutdown, JoinHandle<()>) {
        let shutdown = Shutdown::default();
        let mut config = WorkerConfig {
            name: WorkerName::new("test@host").expect("a valid name"),
            concurrency,
            ..WorkerConfig::default()
        };
        change(&mut config);
        let worker = Worker::new(config, self.ports.clone()).run(shutdown.clone());
        (shutdown, tokio::spawn(worker))
    }

    pub(crate) fn upkeep(&self) -> Upkeep {
        Upkeep::new(self.ports.clone(), UpkeepConfig::default())
    }

    pub(crate) fn schedules(&self) -> Schedules {
        Schedules::new(Arc::clone(&self.store) as _, self.tasks.clone())
    }

    pub(crate) fn queues(&self) -> Queues {
        let WorkerPorts { store, signals, routes, .. } = self.ports.clone();
        Queues::new(store, signals, routes, self.tasks.clone())
    }

    pub(crate) fn workers(&self) -> Workers {
        Workers::new(Arc::clone(&self.store) as _, Arc::clone(&self.ports.signals))
    }

    pub(crate) async fn submit(&self, task_type: &str, change: impl FnOnce(&mut Submission)) -> TaskId {
        let mut submission =
            Submission::new(TaskType::new(task_type).expect("a type"), Json::parse("null").expect("JSON"));
        change(&mut submission);
        let admissions = self.tasks.submit(&Tenant::default(), vec![submission]).await.expect("submitted");
        admissions[0].task().expect("a task").id
    }

    pub(crate) async fn read(&self, id: TaskId) -> Task {
        self.tasks.read(&Tenant::default(), id).await.expect("readable").expect("known")
    }

    /// The task once it has ended, within ten minutes of the test's time.
    pub(crate) async fn end_of(&self, id: TaskId) -> Task {
        for _ in 0..20 {
            let task =
                self.tasks.wait(&Tenant::default(), id, Duration::from_secs(30)).await.expect("readable");
            let task = task.expect("known");
            if task.status.is_terminal() {
                return task;
            }
        }
        panic!("task {id} has not ended: {:?}", self.read(id).await);
    }
}

pub(crate) fn queue(name: &str) -> QueueName {
    QueueName::new(name).expect("a valid name")
}

/// Claims all that waits and fails it for good, with the code that `code` gives.
pub(crate) async fn fail_all(store: &MemoryStore, code: impl Fn(TaskId) -> &'static str) {
    let worker = store.register(&profile("failing@host")).await.expect("registered");
    let queues =
        store.waiting_queues(&[]).await.expect("readable").into_iter().map(|queue| (queue, usize::MAX));
    let claim = Claim::Next { queues: queues.collect(), limit: usize::MAX, patience: Patience::Any };
    let claimed = store.claim(worker, &claim).await.expect("claimed");
    let settle = |task: &ClaimedTask| Settlement {
        task: task.id,
        attempt: task.counters.attempt,
        change: Change::Finish {
            end: End::Failed,
            counters: task.counters,
            error: Some(Failure::permanent(code(task.id), "as the test says")),
        },
        result: None,
        details: None,
        calls: Vec::new(),
        knew_of_cancel: false,
    };
    let settlements: Vec<_> = claimed.iter().map(settle).collect();
    let applied = store.settle(worker, &settlements).await.expect("settled");
    assert!(applied.iter().all(|applied| *applied == Applied::Yes));
}

/// A worker of one slot, as the store knows it.
pub(crate) fn profile(name: &str) -> WorkerProfile {
    WorkerProfile {
        name: WorkerName::new(name).expect("a valid name"),
        queues: Vec::new(),
        except: Vec::new(),
        concurrency: 1,
        lease: LeaseTerms::default().length(),
        about: None,
    }
}
