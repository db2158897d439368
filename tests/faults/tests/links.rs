//! Links that fail without a sign, under one adapter or one worker: what the runs found, held by a small test each.
#![allow(clippy::disallowed_methods)] // tests may wait for other processes

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use application::{
    in_process::InProcessSignals,
    ports::{Chance, StoreError, TaskStore as _},
    registry::{Output, Registry, TaskTypeSpec},
    worker::{Shutdown, Worker, WorkerConfig, WorkerPorts},
};
use contract_tests::{fixtures, servers::PostgresServer};
use domain::{LeaseTerms, QueueName, Routes, Status, TaskType, Tenant, WorkerName};
use faults_tests::proxy::{Mode, Proxy, Wire};
use postgres_adapter::{PostgresOptions, PostgresStore};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::{sync::Notify, time::timeout};

const PATIENCE: Duration = Duration::from_secs(30);

async fn behind_a_proxy(options: PostgresOptions) -> (Arc<PostgresStore>, Proxy, String) {
    let url = PostgresServer::shared().create_database().await;
    let (proxy, through) = Proxy::before(&url, Wire::Postgres, 1).await.expect("a proxy");
    (Arc::new(PostgresStore::connect(&through, &options).await.expect("a store")), proxy, url)
}

/// Waits in turn for each of many mute connections would outlast every caller.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mute_connections_are_given_up_together() {
    let statement_timeout = Duration::from_millis(100);
    let options = PostgresOptions { max_connections: 20, statement_timeout, ..PostgresOptions::default() };
    let (store, proxy, _) = behind_a_proxy(options).await;
    proxy.set(Mode::Delay(Duration::from_millis(20)));
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.ping().await })
        })
        .collect();
    for call in calls {
        call.await.expect("no panic").expect("an answer");
    }
    assert!(proxy.counts().accepted >= 10, "many connections rest: {:?}", proxy.counts());
    proxy.set(Mode::Forget);
    // The first one finds a connection that was just used, and so was trusted.
    let answer = store.ping().await;
    assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
    proxy.set(Mode::Pass);
    store.ping().await.expect("one wait for a sign of life, then a new connection");
}

/// A connection that swallows a heartbeat costs that heartbeat, not the work of the whole worker.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_heartbeat_that_hangs_does_not_cost_the_lease() {
    struct Even;
    impl Chance for Even {
        fn next(&self) -> f64 {
            0.5
        }
    }
    let (store, proxy, url) = behind_a_proxy(PostgresOptions::default()).await;
    let (started, end) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (its_start, its_end) = (Arc::clone(&started), Arc::clone(&end));
    let spec = TaskTypeSpec::new("faults.long", "Ends when told.", move |_, _: serde_json::Value| {
        let (started, end) = (Arc::clone(&its_start), Arc::clone(&its_end));
        async move {
            started.notify_one();
            end.notified().await;
            Output::of("done")
        }
    });
    let lease = LeaseTerms::new(Duration::from_secs(6)).expect("a lease");
    let config = WorkerConfig {
        largest_result: application::worker::LARGEST_RESULT,
        name: WorkerName::new("w").expect("a name"),
        queues: vec![QueueName::default_queue()],
        except: Vec::new(),
        order: Default::default(),
        concurrency: 5,
        lease,
        grace: Duration::ZERO,
        ..WorkerConfig::default()
    };
    let ports = WorkerPorts {
        store: store.clone(),
        order: None,
        signals: Arc::new(InProcessSignals::one_of_many()),
        registry: Arc::new(Registry::new([spec]).expect("one type")),
        routes: Arc::new(Routes::new(Vec::new(), QueueName::default_queue())),
        chance: Arc::new(Even),
    };
    let shutdown = Shutdown::default();
    let worker = tokio::spawn(Worker::new(config, ports).run(shutdown.clone()));
    let task_type = TaskType::new("faults.long").expect("a name");
    let task = domain::NewTask { task_type, queue: QueueName::default_queue(), ..fixtures::task() };
    let id = fixtures::submit_one(&*store, task).await;
    timeout(PATIENCE, started.notified()).await.expect("it starts");

    // All connections have just been used, and are trusted, when they are lost shortly before a heartbeat.
    let enough = Arc::new(AtomicBool::new(false));
    let using: Vec<_> = (0..8)
        .map(|_| {
            let (store, enough) = (Arc::clone(&store), Arc::clone(&enough));
            tokio::spawn(
                async move { while !enough.load(Ordering::Relaxed) && store.ping().await.is_ok() {} },
            )
        })
        .collect();
    let mut direct = PgConnection::connect(&url).await.expect("a connection");
    let mut until = async |what: &str| {
        let sql = format!("SELECT count(*) FROM worker WHERE clock_timestamp() - heartbeat_at {what}");
        let looking = async {
            while sqlx::query_scalar::<_, i64>(AssertSqlSafe(sql.clone()))
                .fetch_one(&mut direct)
                .await
                .expect("a count")
                != 1
            {}
        };
        timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("in time: {what}"));
    };
    until("< interval '0.1 s'").await;
    until("> interval '1 s'").await;
    enough.store(true, Ordering::Relaxed);
    for user in using {
        user.await.expect("no panic");
    }
    proxy.set(Mode::Forget);
    until("> interval '1.3 s'").await;
    assert!(proxy.counts().forgotten >= 16, "all connections are lost: {:?}", proxy.counts());
    proxy.set(Mode::Pass);

    until("> interval '2 s'").await;
    until("< interval '1 s'").await;
    end.notify_one();
    let ended = async {
        loop {
            let task = store.read(&Tenant::default(), &[id]).await.expect("read").remove(0);
            if task.status.is_terminal() {
                return task;
            }
        }
    };
    let task = timeout(PATIENCE, ended).await.expect("it ends");
    assert_eq!((task.status, task.attempt), (Status::Completed, 1), "no lease was lost");
    shutdown.halt.cancel();
    timeout(PATIENCE, worker).await.expect("it stops").expect("no panic");
}
