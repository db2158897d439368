//! What failed for good: seen by its reason, run again as it should have been, or discarded.

use e2e_tests::{Base, api, on_both_bases};
use reqwest::Method;
use serde_json::json;

on_both_bases!(a_failed_task_is_edited_and_runs_again, what_failed_alike_is_handled_together,);

async fn a_failed_task_is_edited_and_runs_again(base: Base) {
    let product = base.start().await;
    let api = product.api();
    let wrong = json!({ "operation": "divide", "x": 6, "y": 0 });
    let id = api.submit_type("demo.simple_calculation", wrong).await;
    assert_eq!(api.ended(id).await["status"], "FAILED");
    let failures = api.get("/manual-tasks").await;
    assert_eq!(
        (&failures["total"], &failures["groups"][0]["reason"]),
        (&json!(1), &json!("division_by_zero"))
    );
    let inspected = api.get(&format!("/manual-tasks/{id}")).await;
    assert_eq!(inspected["attempts"].as_array().map(Vec::len), Some(1), "{inspected}");

    let right = json!({ "input": { "operation": "divide", "x": 6, "y": 3 } });
    let retry = api.send(Method::POST, &format!("/manual-tasks/{id}/retry"), Some(&right)).await;
    assert_eq!(retry.status, 200, "{}", retry.body);
    let task = api.completed(id).await;
    assert_eq!((&task["attempt"], &task["error"]), (&json!(2), &json!(null)), "{task}");
    assert_eq!(api.outcomes(id).await, ["FAILED", "COMPLETED"]);
    assert_eq!(api.get("/manual-tasks").await["total"], 0);
    let again = api.send(Method::POST, &format!("/tasks/{id}/retry"), None).await;
    assert_eq!(again.status, 409, "{}", again.body);
}

async fn what_failed_alike_is_handled_together(base: Base) {
    let product = base.start().await;
    let api = product.api();
    let mut failed = Vec::new();
    for _ in 0..6 {
        let wrong = json!({ "operation": "divide", "x": 1, "y": 0 });
        failed.push(api.submit_type("demo.simple_calculation", wrong).await);
    }
    for id in &failed {
        api.ended(*id).await;
    }
    let filter = json!({ "filter": { "error_code": "division_by_zero" }, "limit": 2 });
    let swept = api.send(Method::POST, "/manual-tasks/retry", Some(&filter)).await.body;
    assert_eq!((&swept["changed"], &swept["more"]), (&json!(2), &json!(true)), "{swept}");
    // The newest two; they fail once more.
    for id in &failed[4..] {
        assert_eq!(api.ended(*id).await["attempt"], 2);
    }
    let all = json!({ "filter": {} });
    let swept = api.send(Method::POST, "/manual-tasks/discard", Some(&all)).await.body;
    assert_eq!(swept["changed"], 6, "{swept}");
    assert_eq!(api.send(Method::GET, &format!("/tasks/{}", failed[0]), None).await.status, 404);
    assert_eq!(api.get("/stats").await["tasks"]["failed"], 0);
    let kept = api::id(&api.submit(json!({ "type": "demo.noop" })).await);
    api.completed(kept).await;
}
