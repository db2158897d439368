//! Routing and workers, row by row: routes, priorities, dedicated workers, failure isolation; and handling a queue.

use std::time::Duration;

use e2e_tests::{Base, api, on_both_bases};
use reqwest::Method;
use serde_json::{Value, json};

on_both_bases!(
    a_paused_queue_outlives_a_restart_and_goes_on_when_it_is_resumed,
    a_purge_ends_what_waits_and_says_so_in_each_task,
    another_priority_moves_a_waiting_task_to_the_front,
    the_limits_of_a_queue_hold_over_all_workers,
    routes_row_types_go_to_their_queues_by_ordered_globs_of_the_configuration,
    priorities_row_a_waiting_task_grows_more_urgent_where_its_queue_asks_for_it,
    dedicated_workers_row_excluded_queues_are_left_and_a_queue_nobody_serves_is_told_of,
    failure_isolation_row_a_slow_and_limited_queue_never_blocks_a_fast_one,
);

async fn post(api: &e2e_tests::Api, path: &str) -> Value {
    let answer = api.send(Method::POST, path, None).await;
    assert_eq!(answer.status, 200, "POST {path}: {}", answer.body);
    answer.body
}

async fn a_paused_queue_outlives_a_restart_and_goes_on_when_it_is_resumed(base: Base) {
    let mut product = base.start().await;
    assert_eq!(post(&product.api(), "/queues/demo_tasks/pause").await["paused"], true);
    product.kill();
    product.start_again().await;
    let api = product.api();
    let held = api.submit_type("demo.noop", Value::Null).await;
    let body = json!({ "type": "demo.noop", "queue": "urgent" });
    api.completed(api::id(&api.submit(body).await)).await;
    assert_eq!(api.task(held).await["status"], "PENDING");
    let queue = api.get("/queues/demo_tasks").await;
    assert_eq!((&queue["paused"], &queue["tasks"]["pending"]), (&json!(true), &json!(1)));
    post(&api, "/queues/demo_tasks/resume").await;
    api.completed(held).await;
}

async fn a_purge_ends_what_waits_and_says_so_in_each_task(base: Base) {
    let product = base.setup().set("WORKER_EXCLUDE_QUEUES", "reports").start().await;
    let api = product.api();
    let submit = async |change: Value| {
        let mut body = json!({ "type": "demo.noop", "queue": "reports" });
        body.as_object_mut().expect("an object").extend(change.as_object().cloned().unwrap_or_default());
        api::id(&api.submit(body).await)
    };
    let ids = [submit(json!({})).await, submit(json!({ "delay_seconds": 3600 })).await];
    assert_eq!(post(&api, "/queues/reports/purge").await, json!({ "purged": 2, "more": false }));
    for id in ids {
        let task = api.task(id).await;
        assert_eq!((&task["status"], &task["error"]["code"]), (&json!("CANCELLED"), &json!("purged")));
    }
}

async fn another_priority_moves_a_waiting_task_to_the_front(base: Base) {
    let product = base.setup().set("WORKER_CONCURRENCY", "1").start().await;
    let api = product.api();
    let first = api.submit_type("demo.sleep", json!({ "seconds": 2 })).await;
    api.reaches(first, "PROCESSING").await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(api.submit_type("demo.noop", Value::Null).await);
    }
    let change = json!({ "priority": 0 });
    let answer = api.send(Method::PATCH, &format!("/tasks/{}", ids[3]), Some(&change)).await;
    assert_eq!((answer.status.as_u16(), &answer.body["priority"]), (200, &json!(0)), "{}", answer.body);
    let mut started = Vec::new();
    for id in &ids {
        started.push((api.completed(*id).await["started_at"].as_str().expect("a time").to_owned(), *id));
    }
    started.sort_unstable();
    assert_eq!(started.iter().map(|(_, id)| *id).collect::<Vec<_>>(), [ids[3], ids[0], ids[1], ids[2]]);
    let answer = api.send(Method::PATCH, &format!("/tasks/{}", ids[3]), Some(&change)).await;
    assert_eq!(answer.status, 409, "{}", answer.body);
}

async fn the_limits_of_a_queue_hold_over_all_workers(base: Base) {
    let text = "[[queues]]\nname = 'few'\nmax_running = 2\n[[queues]]\nname = 'slow'\nrate_limit = '5/s'\nrate_burst = 1";
    let product = base.setup().file(text).workers(2).start().await;
    let api = product.api();
    let settings = api.get("/queues/few").await["settings"].clone();
    assert_eq!(settings["max_running"], 2);
    let submit = async |queue: &str, task_type: &str, input: Value| {
        let body = json!({ "type": task_type, "queue": queue, "input": input });
        api::id(&api.submit(body).await)
    };
    let (mut few, mut slow) = (Vec::new(), Vec::new());
    for _ in 0..6 {
        few.push(submit("few", "demo.sleep", json!({ "seconds": 0.5 })).await);
        slow.push(submit("slow", "demo.noop", Value::Null).await);
    }
    let time = |task: &Value, field: &str| {
        let text = task[field].as_str().expect("a time").to_owned();
        chrono::DateTime::parse_from_rfc3339(&text).expect("a time").timestamp_millis()
    };
    let mut spans = Vec::new();
    for id in few {
        let task = api.completed(id).await;
        spans.push((time(&task, "started_at"), time(&task, "completed_at")));
    }
    for (start, _) in &spans {
        let at_once = spans.iter().filter(|(from, to)| from <= start && start < to).count();
        assert!(at_once <= 2, "{at_once} ran at once: {spans:?}");
    }
    let mut starts = Vec::new();
    for id in slow {
        starts.push(time(&api.completed(id).await, "started_at"));
    }
    starts.sort_unstable();
    assert!(starts[5] - starts[0] >= 990, "six at five a second: {starts:?}");
}

async fn routes_row_types_go_to_their_queues_by_ordered_globs_of_the_configuration(base: Base) {
    let text = "default_queue = 'rest'\n[[routes]]\npattern = 'demo.no*'\nqueue = 'first'\n\
                [[routes]]\npattern = 'demo.*'\nqueue = 'second'\n[[queues]]\nname = 'second'\nmax_attempts = 7";
    let product = base.setup().file(text).start().await;
    let api = product.api();
    for (body, queue, attempts) in [
        (json!({ "type": "demo.noop" }), "first", 4),
        (json!({ "type": "demo.echo", "input": 1 }), "second", 7),
        (json!({ "type": "demo.echo", "input": 1, "max_attempts": 2 }), "second", 2),
        (json!({ "prompt": "Hi" }), "rest", 4),
        (json!({ "type": "demo.noop", "queue": "other" }), "other", 4),
    ] {
        let task = api.completed(api::id(&api.submit(body).await)).await;
        assert_eq!((&task["queue"], &task["max_attempts"]), (&json!(queue), &json!(attempts)), "{task}");
    }
    assert_eq!(api.get("/queues/first").await["patterns"], json!(["demo.no*"]));
    assert_eq!(api.get("/queues/rest").await["is_default"], true);
}

async fn priorities_row_a_waiting_task_grows_more_urgent_where_its_queue_asks_for_it(base: Base) {
    let text = "[[queues]]\nname = 'fair'\npriority_ageing = '1s'";
    let product = base.setup().file(text).set("WORKER_CONCURRENCY", "1").start().await;
    let api = product.api();
    let submit = async |task_type: &str, priority: i64, input: Value| {
        let body = json!({ "type": task_type, "queue": "fair", "priority": priority, "input": input });
        api::id(&api.submit(body).await)
    };
    let blocker = submit("demo.sleep", 0, json!({ "seconds": 5 })).await;
    api.reaches(blocker, "PROCESSING").await;
    let last = submit("demo.noop", 9, Value::Null).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let younger = submit("demo.noop", 8, Value::Null).await;
    let (last, younger) = (api.completed(last).await, api.completed(younger).await);
    assert!(last["started_at"].as_str() < younger["started_at"].as_str(), "{last} {younger}");
    assert_eq!(last["priority"], 9, "what was asked for is shown");
}

async fn dedicated_workers_row_excluded_queues_are_left_and_a_queue_nobody_serves_is_told_of(base: Base) {
    let product = base.setup().set("WORKER_QUEUES", "-reports").start().await;
    let api = product.api();
    let left = api::id(&api.submit(json!({ "type": "demo.noop", "queue": "reports" })).await);
    for queue in ["urgent", "brand-new"] {
        api.completed(api::id(&api.submit(json!({ "type": "demo.noop", "queue": queue })).await)).await;
    }
    assert_eq!(api.task(left).await["status"], "PENDING");
    let queue = api.get("/queues/reports").await;
    assert!(queue["warning"].as_str().is_some_and(|text| text.contains("no living worker")), "{queue}");
    assert_eq!((&queue["workers"], &api.get("/queues/urgent").await["workers"]), (&json!(0), &json!(1)));
}

async fn failure_isolation_row_a_slow_and_limited_queue_never_blocks_a_fast_one(base: Base) {
    let text = "[[queues]]\nname = 'reports'\nmax_running = 1";
    let product = base.setup().file(text).set("WORKER_CONCURRENCY", "4").start().await;
    let api = product.api();
    for _ in 0..20 {
        api.submit(json!({ "type": "demo.sleep", "queue": "reports", "input": { "seconds": 30 } })).await;
    }
    for _ in 0..10 {
        let id = api.submit_type("demo.noop", Value::Null).await;
        let task = api.ended_within(id, Duration::from_secs(5)).await;
        assert_eq!(task["status"], "COMPLETED", "{task}");
    }
    assert!(api.get("/queues/reports").await["tasks"]["processing"].as_i64().is_some_and(|n| n <= 1));
}
