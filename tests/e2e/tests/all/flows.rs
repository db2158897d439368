//! Chains and batches, on both bases.

use e2e_tests::{Base, on_both_bases};
use reqwest::Method;
use serde_json::{Value, json};

on_both_bases!(
    a_chain_runs_in_order_and_hands_results_on,
    a_chain_that_breaks_says_who_broke_it,
    articles_are_written_side_by_side_and_read_as_soon_as_they_are_written,
    a_batch_counts_its_items_and_retries_only_what_failed,
    a_chain_goes_on_when_the_product_is_killed_after_its_first_task,
);

async fn a_chain_runs_in_order_and_hands_results_on(base: Base) {
    let product = base.start().await;
    let api = product.api();
    let chain = json!({
        "type": "demo.simple_calculation", "input": { "x": 10, "y": 20, "operation": "add" }, "name": "sum",
        "then": [{ "type": "demo.echo", "input": { "was": { "$result": "sum" } },
            "then": [{ "type": "demo.echo", "input": { "$text": ["it was ", { "$result": "parent", "path": "/was" }] } }] }],
    });
    let head = api.submit(chain).await;
    let second = api.completed(head["then"][0].as_i64().expect("a follow-up")).await;
    assert_eq!(second["result"], json!({ "was": 30 }), "{second}");
    let third = api.completed(second["then"][0].as_i64().expect("a follow-up")).await;
    assert_eq!(third["result"], "it was 30", "{third}");
    // What has ended already can be waited for as well.
    let late = api
        .submit(json!({ "type": "demo.echo", "input": { "$result": e2e_tests::api::id(&head) },
        "after": [e2e_tests::api::id(&head)] }))
        .await;
    assert_eq!(api.completed(e2e_tests::api::id(&late)).await["result"], 30);
}

async fn a_chain_that_breaks_says_who_broke_it(base: Base) {
    let product = base.start().await;
    let api = product.api();
    let chain = json!({
        "type": "demo.simple_calculation", "input": { "x": 1, "y": 0, "operation": "divide" }, "name": "ratio",
        "then": [
            { "type": "demo.noop", "then": [{ "type": "demo.noop" }] },
            { "type": "demo.echo", "input": "anyway", "on_failure": "run" },
        ],
    });
    let head = api.submit(chain).await;
    let cancelled = api.ended(head["then"][0].as_i64().expect("a follow-up")).await;
    assert_eq!(
        (&cancelled["status"], &cancelled["error"]["code"]),
        (&json!("CANCELLED"), &json!("dependency_failed"))
    );
    let message = cancelled["error"]["message"].as_str().expect("a message");
    assert!(message.contains("(ratio)") && message.contains("division_by_zero"), "{message}");
    let last = api.ended(cancelled["then"][0].as_i64().expect("a follow-up")).await;
    assert_eq!(last["status"], "CANCELLED");
    assert_eq!(api.completed(head["then"][1].as_i64().expect("a follow-up")).await["result"], "anyway");
}

async fn articles_are_written_side_by_side_and_read_as_soon_as_they_are_written(base: Base) {
    let product = base.start().await;
    let api = product.api();
    let body = json!({ "titles": ["One", "Two", "Three"], "category": "queues" });
    let answer = api.send(Method::POST, "/tasks/generate-articles", Some(&body)).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    let batch = answer.body["task_id"].as_i64().expect("a number");
    for (id, title) in
        answer.body["item_ids"].as_array().expect("numbers").iter().zip(["One", "Two", "Three"])
    {
        let article = api.completed(id.as_i64().expect("a number")).await;
        assert_eq!(
            (&article["result"]["title"], &article["result"]["category"]),
            (&json!(title), &json!("queues"))
        );
        assert!(article["result"]["content"].as_str().is_some_and(|text| !text.is_empty()), "{article}");
    }
    let done = api.completed(batch).await;
    assert_eq!(done["result"]["completed"], 3, "{done}");
    let progress = api.get(&format!("/tasks/{batch}/progress")).await;
    assert_eq!(
        (&progress["progress"], &progress["current"], &progress["total"]),
        (&json!(100), &json!(3), &json!(3))
    );
    assert_eq!(api.get(&format!("/tasks/{batch}/status")).await["status"], "COMPLETED");
}

async fn a_batch_counts_its_items_and_retries_only_what_failed(base: Base) {
    let product = base.start().await;
    let api = product.api();
    let divide = |by: i64| json!({ "input": { "x": 1, "y": by, "operation": "divide" } });
    let body = json!({
        "defaults": { "type": "demo.simple_calculation" }, "items": [divide(1), divide(0), divide(2)],
        "then": [{ "type": "demo.echo", "input": { "$result": "parent" } }],
    });
    let answer = api.send(Method::POST, "/batches", Some(&body)).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    let id = e2e_tests::api::id(&answer.body);
    let ended = api.ended(id).await;
    assert_eq!((&ended["status"], &ended["error"]["code"]), (&json!("FAILED"), &json!("batch_incomplete")));
    // It follows a batch that failed as well, which has a result all the same.
    let then = api.completed(answer.body["then"][0].as_i64().expect("a follow-up")).await;
    assert_eq!(then["result"], ended["result"], "{then}");
    let failed = api.get(&format!("/batches/{id}/items?status=failed")).await;
    let item = failed["items"][0].clone();
    assert_eq!(item["error"]["code"], "division_by_zero", "{failed}");
    let again = api.send(Method::POST, &format!("/batches/{id}/retry"), None).await;
    assert_eq!((again.status.as_u16(), &again.body["retried"]), (200, &json!(1)), "{}", again.body);
    let batch = api.becomes(id, "ended again", |task| task["status"] == "FAILED").await;
    assert_eq!(
        batch["result"],
        json!({ "total": 3, "completed": 2, "failed": 1, "cancelled": 0, "expired": 0 })
    );
    assert_eq!(api.task(e2e_tests::api::id(&item)).await["attempt"], 2, "the others were left alone");
    let batch = api.get(&format!("/batches/{id}")).await;
    assert_eq!((&batch["counts"]["completed"], &batch["progress"]), (&json!(2), &json!(100)), "{batch}");
}

async fn a_chain_goes_on_when_the_product_is_killed_after_its_first_task(base: Base) {
    let mut product = base.setup().set("LEASE_SECONDS", "3").start().await;
    let api = product.api();
    // Ends of needed tasks are followed up within milliseconds: many chains, so that the kill falls among them.
    let mut heads: Vec<Value> = Vec::new();
    for _ in 0..30 {
        heads.push(
            api.submit(json!({ "type": "demo.sleep", "input": { "seconds": 0.05 },
            "then": [{ "type": "demo.noop", "then": [{ "type": "demo.noop" }] }] }))
                .await,
        );
    }
    api.completed(e2e_tests::api::id(&heads[3])).await;
    product.kill();
    product.start_again().await;
    let api = product.api();
    for head in heads {
        let second = api.completed(head["then"][0].as_i64().expect("a follow-up")).await;
        assert_eq!(second["attempt"].as_i64().map(|attempt| attempt <= 2), Some(true));
        api.completed(second["then"][0].as_i64().expect("a follow-up")).await;
    }
}
