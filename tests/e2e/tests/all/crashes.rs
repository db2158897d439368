//! `kill -9`: nothing that was acknowledged is lost, and nothing runs twice at the same time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use e2e_tests::{Base, PATIENCE, api, on_both_bases};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

on_both_bases!(
    a_killed_product_goes_on_with_its_tasks_where_it_is_started_again,
    nothing_acknowledged_is_lost_by_a_kill_during_submissions,
);

async fn a_killed_product_goes_on_with_its_tasks_where_it_is_started_again(base: Base) {
    let mut product = base.setup().set("LEASE_SECONDS", "3").start().await;
    let api = product.api();
    let running = api.submit_type("demo.sleep", json!({ "seconds": 1.5 })).await;
    let scheduled = api::id(&api.submit(json!({ "type": "demo.noop", "delay_seconds": 1 })).await);
    api.reaches(running, "PROCESSING").await;
    product.kill();
    product.start_again().await;

    let api = product.api();
    let task = api.completed(running).await;
    assert_eq!(task["attempt"], 2, "{task}");
    assert_eq!(api.outcomes(running).await, ["CRASHED", "COMPLETED"]);
    assert_eq!(api.completed(scheduled).await["attempt"], 1);
}

async fn nothing_acknowledged_is_lost_by_a_kill_during_submissions(base: Base) {
    const ENOUGH: usize = 200;
    let mut product = base.setup().set("LEASE_SECONDS", "3").start().await;
    let api = product.api();
    let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (api, acknowledged, stop) = (api.clone(), Arc::clone(&acknowledged), Arc::clone(&stop));
            tokio::spawn(async move {
                let body = json!({ "type": "demo.sleep", "input": { "seconds": 0.02 } });
                while !stop.load(Ordering::Relaxed) {
                    match api.try_send(Method::POST, "/tasks", Some(&body)).await {
                        Some(answer) if answer.status == 201 => {
                            acknowledged.lock().expect("no panics").insert(api::id(&answer.body));
                        }
                        Some(answer) => panic!("{}: {}", answer.status, answer.body),
                        None => return, // killed
                    }
                }
            })
        })
        .collect();
    let deadline = Instant::now() + PATIENCE;
    while acknowledged.lock().expect("no panics").len() < ENOUGH {
        assert!(Instant::now() < deadline, "submissions are too slow");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    // They go on submitting while the process dies.
    product.kill();
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("a client does not panic");
    }
    let acknowledged = acknowledged.lock().expect("no panics").clone();
    assert!(acknowledged.len() >= ENOUGH);

    product.start_again().await;
    let api = product.api();
    for id in acknowledged {
        let task = api.completed(id).await;
        assert!(task["attempt"].as_i64().is_some_and(|attempt| (1..=2).contains(&attempt)), "{task}");
        let outcomes = api.outcomes(id).await;
        assert_eq!(
            outcomes.iter().filter(|outcome| *outcome == "COMPLETED").count(),
            1,
            "{id}: {outcomes:?}"
        );
    }
}

#[tokio::test]
async fn the_task_of_a_killed_worker_is_taken_over_by_another() {
    let setup = Base::PostgresAndRedis.setup().set("LEASE_SECONDS", "3");
    let mut product = setup.start().await;
    let api = product.api();
    let id = api.submit_type("demo.sleep", json!({ "seconds": 1.5 })).await;
    api.reaches(id, "PROCESSING").await;
    product.add_worker().await;
    product.worker().kill();
    let killed = Instant::now();

    let task = api.becomes(id, "taken over", |task| task["attempt"] == 2).await;
    assert!(killed.elapsed() < Duration::from_secs(20), "it took {:?}", killed.elapsed());
    let attempts = api.get(&format!("/tasks/{id}/attempts")).await;
    assert_eq!(attempts["items"][0]["error"]["code"], "worker_lost", "{attempts}; now {task}");
    assert_eq!(api.completed(id).await["attempt"], 2);
    assert_eq!(api.outcomes(id).await, ["CRASHED", "COMPLETED"]);
}

#[tokio::test]
async fn a_worker_that_froze_past_its_lease_changes_nothing_when_it_wakes() {
    let mut product = Base::PostgresAndRedis.setup().set("LEASE_SECONDS", "3").start().await;
    let api = product.api();
    let id = api.submit_type("demo.sleep", json!({ "seconds": 1.5 })).await;
    api.reaches(id, "PROCESSING").await;
    product.worker().freeze();
    product.add_worker().await;
    let taken_over = api.completed(id).await;
    assert_eq!(taken_over["attempt"], 2, "{taken_over}");

    // Its sleep is over long since, and it has a result to tell.
    product.worker().thaw();
    let ready_again = "worker ready";
    let deadline = Instant::now() + PATIENCE;
    while product.worker().log().matches(ready_again).count() < 2 {
        assert!(Instant::now() < deadline, "it does not register anew: {}", product.worker().log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(api.task(id).await, taken_over);
    assert_eq!(api.outcomes(id).await, ["CRASHED", "COMPLETED"]);
    // Under its new registration it works again.
    product.workers.pop();
    let id = api.submit_type("demo.noop", Value::Null).await;
    assert_eq!(api.completed(id).await["attempt"], 1);
}

#[tokio::test]
async fn two_workers_never_run_one_task_at_the_same_time() {
    let setup = Base::PostgresAndRedis.setup().set("WORKER_CONCURRENCY", "5").workers(2);
    let product = setup.start().await;
    let api = product.api();
    let submissions = (0..100).map(|_| api.submit_type("demo.sleep", json!({ "seconds": 0.1 })));
    let ids = futures_util::future::join_all(submissions).await;
    for id in &ids {
        assert_eq!(api.completed(*id).await["attempt"], 1);
        assert_eq!(api.outcomes(*id).await, [Value::from("COMPLETED")]);
    }
    // Each worker says which tasks it received.
    let mut received: BTreeMap<i64, usize> = BTreeMap::new();
    for worker in &product.workers {
        let log = worker.log();
        let tasks: Vec<i64> = log
            .lines()
            .filter(|line| line.contains("task received"))
            .filter_map(|line| line.split_once("task_id=")?.1.split(' ').next()?.parse().ok())
            .collect();
        assert!(!tasks.is_empty(), "a worker took no part");
        for task in tasks {
            *received.entry(task).or_default() += 1;
        }
    }
    assert_eq!(received, ids.into_iter().map(|id| (id, 1)).collect());
}
