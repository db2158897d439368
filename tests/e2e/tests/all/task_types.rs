//! The task types that come with the product.

use e2e_tests::{Base, api, on_both_bases};
use serde_json::{Value, json};

on_both_bases!(
    every_demo_task_type_does_its_work,
    a_division_by_zero_is_a_precise_failure,
    sleep_reports_progress_while_it_runs,
    counts_and_lists_show_what_became_of_tasks,
);

async fn every_demo_task_type_does_its_work(base: Base) {
    let product = base.start().await;
    let api = product.api();
    for (task_type, input, result) in [
        ("demo.simple_calculation", json!({ "x": 10, "y": 20, "operation": "add" }), json!(30)),
        ("demo.simple_calculation", json!({ "x": 10, "y": 20, "operation": "subtract" }), json!(-10)),
        ("demo.simple_calculation", json!({ "x": 6, "y": 7, "operation": "multiply" }), json!(42)),
        ("demo.simple_calculation", json!({ "x": 1, "y": 4, "operation": "divide" }), json!(0.25)),
        ("demo.noop", Value::Null, Value::Null),
        (
            "demo.echo",
            json!({ "hello": ["world", 1.5, null, "ä€😀"] }),
            json!({ "hello": ["world", 1.5, null, "ä€😀"] }),
        ),
        ("demo.sleep", json!({ "seconds": 0.05 }), json!({ "slept_seconds": 0.05 })),
    ] {
        let id = api.submit_type(task_type, input).await;
        let task = api.completed(id).await;
        assert_eq!(task["result"], result, "{task_type}");
        assert_eq!((&task["queue"], &task["attempt"]), (&json!("demo_tasks"), &json!(1)), "{task}");
    }
    let id = api.submit_type("demo.debug", json!({ "note": 7 })).await;
    let context = api.completed(id).await["result"].clone();
    for (field, value) in [
        ("id", json!(id)),
        ("type", json!("demo.debug")),
        ("queue", json!("demo_tasks")),
        ("priority", json!(5)),
        ("attempt", json!(1)),
        ("input", json!({ "note": 7 })),
    ] {
        assert_eq!(context[field], value, "{field} of {context}");
    }
    assert!(context["worker"].as_str().is_some_and(|worker| worker.starts_with("worker@")), "{context}");

    let types = api.get("/task-types").await;
    let names: Vec<_> = types["items"].as_array().into_iter().flatten().map(|item| &item["name"]).collect();
    for name in [
        "ai.text_generation",
        "demo.debug",
        "demo.echo",
        "demo.noop",
        "demo.simple_calculation",
        "demo.sleep",
    ] {
        assert!(names.contains(&&json!(name)), "{name} is not among {names:?}");
    }
}

async fn a_division_by_zero_is_a_precise_failure(base: Base) {
    let product = base.start().await;
    let api = product.api();
    let input = json!({ "x": 1, "y": 0, "operation": "divide" });
    let task = api.ended(api.submit_type("demo.simple_calculation", input).await).await;
    assert_eq!((&task["status"], &task["attempt"]), (&json!("FAILED"), &json!(1)), "{task}");
    assert_eq!(task["error"]["code"], "division_by_zero");
    assert!(
        task["error"]["message"].as_str().is_some_and(|text| text.contains("divide 1 by zero")),
        "{task}"
    );
    assert_eq!(api.outcomes(api::id(&task)).await, ["FAILED"]);
}

async fn sleep_reports_progress_while_it_runs(base: Base) {
    let product = base.start().await;
    let api = product.api();
    let id = api.submit_type("demo.sleep", json!({ "seconds": 2.5 })).await;
    let running = api
        .becomes(id, "on its way", |task| task["progress"].as_i64().is_some_and(|percent| percent > 0))
        .await;
    assert_eq!(running["status"], "PROCESSING", "{running}");
    let progress = api.get(&format!("/tasks/{id}/progress")).await;
    assert_eq!((&progress["total"], &progress["message"]), (&json!(2500), &json!("sleeping")), "{progress}");
    assert!(progress["current"].as_i64().is_some_and(|current| (1..2500).contains(&current)), "{progress}");
    assert!(progress["updated_at"].is_string(), "{progress}");
    let status = api.get(&format!("/tasks/{id}/status")).await;
    assert_eq!((&status["status"], &status["attempt"]), (&json!("PROCESSING"), &json!(1)), "{status}");
    let task = api.completed(id).await;
    assert_eq!(task["progress"], 100);
    assert_eq!(api.get(&format!("/tasks/{id}/progress")).await["progress"], 100);
}

async fn counts_and_lists_show_what_became_of_tasks(base: Base) {
    let product = base.start().await;
    let api = product.api();
    let completed = api.submit_type("demo.noop", Value::Null).await;
    let failed =
        api.submit_type("demo.simple_calculation", json!({ "x": 1, "y": 0, "operation": "divide" })).await;
    let later = json!({ "type": "demo.noop", "queue": "somewhere_else", "delay_seconds": 3600 });
    let scheduled = api::id(&api.submit(later).await);
    api.ended(completed).await;
    api.ended(failed).await;

    let ids =
        |list: &Value| -> Vec<i64> { list["items"].as_array().into_iter().flatten().map(api::id).collect() };
    assert_eq!(ids(&api.get("/tasks").await), [scheduled, failed, completed], "newest first");
    assert_eq!(ids(&api.get("/tasks?status=success").await), [completed]);
    assert_eq!(ids(&api.get("/tasks?status=Failed,SCHEDULED").await), [scheduled, failed]);
    assert_eq!(ids(&api.get("/tasks?type=demo.noop&queue=demo_tasks").await), [completed]);
    let first = api.get("/tasks?limit=2").await;
    assert_eq!(ids(&first), [scheduled, failed]);
    let cursor = first["next_cursor"].as_str().expect("there is a next page");
    let second = api.get(&format!("/tasks?limit=2&cursor={cursor}")).await;
    assert_eq!((ids(&second), &second["next_cursor"]), (vec![completed], &Value::Null));

    let stats = api.get("/stats").await;
    assert_eq!(stats["tasks"]["completed"], 1, "{stats}");
    assert_eq!(stats["tasks"]["failed"], 1, "{stats}");
    assert_eq!(stats["tasks"]["scheduled"], 1, "{stats}");
    let queues = stats["queues"].as_array().expect("a list");
    let elsewhere = queues.iter().find(|queue| queue["queue"] == "somewhere_else").expect("its queue");
    assert_eq!(elsewhere["tasks"]["scheduled"], 1, "{stats}");

    let deleted = api.send(reqwest::Method::DELETE, &format!("/tasks/{failed}"), None).await;
    assert_eq!(deleted.status, 204);
    let gone = api.send(reqwest::Method::GET, &format!("/tasks/{failed}"), None).await;
    assert_eq!((gone.status.as_u16(), gone.header("content-type")), (404, "application/problem+json"));
}
