//! What is asked of models, and what it came to.

use std::sync::Arc;

use application::{
    memory::MemoryStore,
    ports::{Claim, Patience, Settlement, WorkStore, WorkerProfile},
};
use chrono::DateTime;
use domain::{
    Event, QueueName, State, WorkerName,
    ai::{ModelCall, Operation, Price, ProviderName, Usage},
    decide,
};
use poem::http::StatusCode;
use serde_json::{Value, json};

use super::{ApiConfig, client, client_over, problem};

#[tokio::test]
async fn an_input_that_no_model_can_be_asked_is_refused_before_it_is_stored() {
    let client = client();
    for input in [
        json!({ "prompt": "x", "temperature": -1 }),
        json!({ "prompt": "x", "response_format": { "type": "json_schema", "json_schema": { "name": "a", "schema": { "type": 7 } } } }),
        json!({ "messages": [], "model": "m" }),
    ] {
        let body = json!({ "type": "ai.text_generation", "input": input });
        let response = client.post("/api/v1/tasks").body_json(&body).send().await;
        let refusal = problem(response, StatusCode::UNPROCESSABLE_ENTITY).await;
        assert_eq!(refusal["errors"][0]["field"], "input", "{refusal}");
    }
}

#[tokio::test]
async fn calls_of_models_are_shown_with_their_attempt_and_summed() {
    let store = Arc::new(MemoryStore::new(DateTime::from_timestamp(1_800_000_000, 0).expect("a moment")));
    let client = client_over(store.clone(), store.clone(), ApiConfig::default(), None);
    client
        .post("/api/v1/tasks")
        .body_json(&json!({ "prompt": "Hi" }))
        .send()
        .await
        .assert_status(StatusCode::CREATED);
    let profile = WorkerProfile {
        name: WorkerName::new("test@host").expect("a name"),
        queues: Vec::new(),
        except: Vec::new(),
        concurrency: 1,
        lease: std::time::Duration::from_secs(12),
        about: None,
    };
    let worker = store.register(&profile).await.expect("registered");
    let queues = vec![(QueueName::new("ai_processing").expect("a name"), 1)];
    let next = Claim::Next { queues, limit: 1, patience: Patience::Any };
    let claimed = store.claim(worker, &next).await.expect("claimed").remove(0);
    let mut call = ModelCall::new(Operation::Chat, ProviderName::new("main").expect("a name"), "m");
    call.finish_reason = Some("stop".to_owned());
    call.charge(
        Usage { input_tokens: 1_000, output_tokens: 10, estimated: false },
        Price::per_million(1.0, 10.0),
    );
    let change = decide(State::Processing { cancel_requested: false }, claimed.counters, Event::Succeed);
    let settlement = Settlement {
        task: claimed.id,
        attempt: 1,
        change: change.expect("allowed"),
        result: None,
        details: None,
        calls: vec![call],
        knew_of_cancel: false,
    };
    store.settle(worker, &[settlement]).await.expect("settled");

    let attempts: Value =
        client.get("/api/v1/tasks/1/attempts").send().await.json().await.value().deserialize();
    let shown = &attempts["items"][0]["calls"][0];
    assert_eq!((&shown["provider"], &shown["cost_micros"]), (&json!("main"), &json!(1_100)), "{attempts}");
    assert_eq!(shown["attributes"]["gen_ai.usage.output_tokens"], 10, "{attempts}");
    assert_eq!(attempts["usage"]["cost_micros"], 1_100, "{attempts}");
    let report: Value = client.get("/api/v1/usage").send().await.json().await.value().deserialize();
    assert_eq!((&report["to"], &report["group_by"]), (&json!("2027-01-15"), &json!("model")), "{report}");
    assert_eq!(report["items"], json!([{ "key": "m", "usage": report["total"] }]), "{report}");
}

#[tokio::test]
async fn days_that_cannot_be_asked_for_are_named() {
    let client = client();
    for (query, field) in [
        ("from=yesterday", "from"),
        ("from=2026-02-30", "from"),
        ("to=2026-1-1", "to"),
        ("from=2026-02-01&to=2026-01-01", "from"),
        ("from=2020-01-01&to=2026-01-01", "from"),
        ("group_by=user", "group_by"),
    ] {
        let response = client.get(format!("/api/v1/usage?{query}")).send().await;
        let refusal = problem(response, StatusCode::UNPROCESSABLE_ENTITY).await;
        assert_eq!(refusal["errors"][0]["field"], field, "{query}: {refusal}");
    }
}
