//! Fair queues: who sends much does not hold up who sends little.

use chrono::{DateTime, Utc};
use e2e_tests::{
    Base,
    api::{self, Api},
    on_both_bases,
};
use reqwest::Method;
use serde_json::{Value, json};

on_both_bases!(
    a_thousand_waiting_tasks_of_one_key_delay_five_of_another_by_two_task_times_at_most,
    a_key_for_a_queue_that_is_not_fair_is_refused_with_what_to_do,
);

const SLOTS: usize = 10;

fn moment(task: &Value, field: &str) -> DateTime<Utc> {
    let text = task[field].as_str().unwrap_or_else(|| panic!("no {field} in {task}"));
    text.parse().expect("a moment")
}

async fn items(api: &Api, batch: i64, filter: &str) -> Vec<Value> {
    let page = api.get(&format!("/batches/{batch}/items?limit=500{filter}")).await;
    page["items"].as_array().expect("a list").clone()
}

async fn a_thousand_waiting_tasks_of_one_key_delay_five_of_another_by_two_task_times_at_most(base: Base) {
    let file = "[[queues]]\nname = \"demo_tasks\"\nfair = true\n";
    let product = base.setup().file(file).set("WORKER_CONCURRENCY", &SLOTS.to_string()).start().await;
    let api = product.api();
    let submit = async |key: &str, count: usize| {
        let task = json!({ "type": "demo.sleep", "input": { "seconds": 1 }, "fairness_key": key });
        let body = json!({ "items": vec![task; count] });
        api::id(&api.send(Method::POST, "/batches", Some(&body)).await.body)
    };
    let many = submit("many", 1_000).await;
    api.becomes(many, "begun", |batch| batch["progress"].as_f64().is_some_and(|done| done > 0.0)).await;
    let few = submit("few", 5).await;
    let ended = api.completed(few).await;

    // A task time is what all slots take at once. It is counted in tasks: how long these take is the machine's affair.
    let few = items(&api, few, "").await;
    let last = few.iter().map(|task| moment(task, "started_at")).max().expect("five tasks");
    let asked = moment(&ended, "created_at");
    let between = |task: &&Value| (asked..last).contains(&moment(task, "started_at"));
    let started = items(&api, many, "&status=completed,processing").await;
    assert!(started.len() < 500, "the other key's tasks are still waiting: {}", started.len());
    let before = started.iter().filter(between).count();
    assert!(before <= 2 * SLOTS, "{before} of the other key's tasks went first");
    assert!(few.iter().all(|task| task["fairness_key"] == "few"), "{few:?}");
}

async fn a_key_for_a_queue_that_is_not_fair_is_refused_with_what_to_do(base: Base) {
    let product = base.start().await;
    let body = json!({ "type": "demo.noop", "fairness_key": "a" });
    let refusal = product.api().send(Method::POST, "/tasks", Some(&body)).await;
    assert_eq!((refusal.status.as_u16(), &refusal.body["errors"][0]["field"]), (422, &json!("fairness_key")));
    let message = refusal.body["errors"][0]["message"].as_str().unwrap_or_default();
    assert!(message.contains("demo_tasks") && message.contains("fair = true"), "{}", refusal.body);
}
