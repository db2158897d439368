//! Schedules: each tick submits one task, whoever fires it.

use std::{collections::BTreeSet, time::Duration};

use e2e_tests::{Base, PATIENCE, on_both_bases};
use reqwest::Method;
use serde_json::json;
use tokio::time::Instant;

on_both_bases!(
    each_tick_submits_one_task_also_across_a_restart,
    mission_scheduled_the_daily_clean_up_is_a_schedule_and_reports_numbers,
);

async fn mission_scheduled_the_daily_clean_up_is_a_schedule_and_reports_numbers(base: Base) {
    let product = base.setup().workers(2).start().await;
    let api = product.api();
    let deadline = Instant::now() + PATIENCE;
    while api.send(Method::GET, "/schedules/clean-up", None).await.status != 200 {
        assert!(Instant::now() < deadline, "the built-in schedule does not appear");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let built_in = api.get("/schedules/clean-up").await;
    assert_eq!((&built_in["cron"], &built_in["configured"]), (&json!("0 2 * * *"), &json!(true)));
    assert_eq!(built_in["task"]["type"], "upkeep.clean_up");
    assert_eq!(api.get("/schedules/clean-up/next?count=3").await["items"].as_array().map(Vec::len), Some(3));
    let triggered = api.send(Method::POST, "/schedules/clean-up/trigger", None).await.body;
    let report = api.completed(e2e_tests::api::id(&triggered)).await["result"].clone();
    assert_eq!(
        (&report["removed"], &report["by_status"]),
        (&json!(0), &json!({})),
        "nothing is a week old: {report}"
    );
    let paused = api.send(Method::POST, "/schedules/clean-up/pause", None).await.body;
    assert_eq!((&paused["paused"], &paused["configured"]), (&json!(true), &json!(true)));
}

async fn each_tick_submits_one_task_also_across_a_restart(base: Base) {
    let mut product = base.setup().workers(2).start().await;
    let api = product.api();
    let every_second = json!({ "every_seconds": 1, "task": { "type": "demo.noop" } });
    let made = api.send(Method::PUT, "/schedules/often", Some(&every_second)).await;
    assert_eq!(made.status, 201, "{}", made.body);
    fires(&product.api(), 3).await;
    product.kill();
    product.start_again().await;

    let api = product.api();
    let firings = fires(&api, 6).await;
    let mut tasks = BTreeSet::new();
    for firing in &firings {
        assert_eq!(firing["outcome"], "FIRED", "nothing is a minute late: {firing}");
        let task = firing["task_id"].as_i64().expect("a task");
        assert!(tasks.insert(task), "task {task} was submitted for two ticks");
        let notes = &api.completed(task).await["metadata"];
        assert_eq!(notes["schedule"], "often", "{notes}");
    }
    let removed = api.send(Method::DELETE, "/schedules/often", None).await;
    assert_eq!(removed.status, 204);
}

/// Waits until so many ticks were fired; answers all of them, each of which is there once.
async fn fires(api: &e2e_tests::Api, count: usize) -> Vec<serde_json::Value> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let firings =
            api.get("/schedules/often/firings").await["items"].as_array().cloned().unwrap_or_default();
        let ticks: BTreeSet<_> = firings.iter().map(|firing| firing["tick"].to_string()).collect();
        assert_eq!(ticks.len(), firings.len(), "a tick was fired twice: {firings:?}");
        if firings.len() >= count {
            return firings;
        }
        assert!(Instant::now() < deadline, "only {} ticks in time", firings.len());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
