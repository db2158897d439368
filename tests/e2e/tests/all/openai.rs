//! The openai provider against a stand-in that misbehaves.

use std::time::Duration;

use chrono::{DateTime, Utc};
use e2e_tests::{Base, Noticed, Product, Provider, Reply, api, on_both_bases};
use serde_json::{Value, json};

const KEY: &str = "sk-test-4242424242";

on_both_bases!(
    a_prompt_is_sent_and_the_streamed_answer_is_the_result,
    an_answer_that_breaks_off_is_asked_for_again,
    a_rate_limit_is_waited_for_and_charged_to_nobody,
    a_refusal_is_a_failure_that_keeps_the_key_secret,
);

async fn start(base: Base, provider: &Provider) -> Product {
    let setup = base.setup().set("OPENAI_BASE_URL", &provider.base_url()).set("OPENAI_API_KEY", KEY);
    let product = setup.start().await;
    let logs = product.logs();
    assert!(logs.contains(&provider.base_url()), "the start names the provider: {logs}");
    product
}

async fn a_prompt_is_sent_and_the_streamed_answer_is_the_result(base: Base) {
    let mut provider = Provider::start(vec![Reply::Words(vec!["Hello", " wörld", "!"])]).await;
    let product = start(base, &provider).await;
    let api = product.api();
    let task = api.submit(json!({ "prompt": "Say hello", "model": "some-model" })).await;
    let Noticed::Request { body, authorization } = provider.notices().await else {
        panic!("a request first")
    };
    assert_eq!((&body["model"], &body["stream"]), (&json!("some-model"), &json!(true)), "{body}");
    assert_eq!(body["messages"][0]["content"], "Say hello");
    assert_eq!(authorization, format!("Bearer {KEY}"));
    let task = api.completed(api::id(&task)).await;
    assert_eq!(task["result"], "Hello wörld!");
    assert_eq!(
        (&task["details"]["model"], &task["details"]["finish_reason"]),
        (&json!("stub-model"), &json!("stop"))
    );
    assert!(!product.logs().contains(KEY), "the key is in a log");
}

async fn an_answer_that_breaks_off_is_asked_for_again(base: Base) {
    let replies = vec![Reply::Cut(vec!["This ", "is "]), Reply::Words(vec!["whole"])];
    let provider = Provider::start(replies).await;
    let product = start(base, &provider).await;
    let api = product.api();
    let id = api::id(&api.submit(json!({ "prompt": "Hi" })).await);
    let watching = api.events(id, None).await;
    let task = api.completed(id).await;
    assert_eq!((&task["result"], &task["attempt"]), (&json!("whole"), &json!(2)), "{task}");
    assert_eq!(task["error"], Value::Null, "{task}");
    assert_eq!(api.outcomes(id).await, ["FAILED", "COMPLETED"]);
    // A reader can tell the attempts apart.
    let events = watching.rest().await;
    let second: String =
        events.iter().filter(|event| event.data["attempt"] == 2).map(|event| event.text()).collect();
    assert_eq!(second, "whole", "{events:?}");
}

async fn a_rate_limit_is_waited_for_and_charged_to_nobody(base: Base) {
    let busy = Reply::Refusal {
        status: "429 Too Many Requests",
        headers: vec![("retry-after", "1")],
        message: "slow down",
    };
    let provider = Provider::start(vec![busy, Reply::Words(vec!["at last"])]).await;
    let product = start(base, &provider).await;
    let api = product.api();
    // With one attempt, a failure that is charged would end it.
    let id = api::id(&api.submit(json!({ "prompt": "Hi", "max_attempts": 1 })).await);
    let task = api.completed(id).await;
    assert_eq!((&task["result"], &task["attempt"]), (&json!("at last"), &json!(2)), "{task}");
    let attempts = api.get(&format!("/tasks/{id}/attempts")).await["items"].clone();
    assert_eq!((&attempts[0]["outcome"], &attempts[1]["outcome"]), (&json!("RELEASED"), &json!("COMPLETED")));
    let moment =
        |value: &Value| -> DateTime<Utc> { value.as_str().expect("a time").parse().expect("a time") };
    let waited = moment(&attempts[1]["started_at"]) - moment(&attempts[0]["ended_at"]);
    let waited = waited.to_std().expect("not negative");
    assert!(waited >= Duration::from_secs(1) && waited < Duration::from_secs(4), "it waited for {waited:?}");
}

async fn a_refusal_is_a_failure_that_keeps_the_key_secret(base: Base) {
    let refusal = Reply::Refusal {
        status: "401 Unauthorized",
        headers: vec![],
        message: "Incorrect API key provided: {authorization}",
    };
    let provider = Provider::start(vec![refusal]).await;
    let product = start(base, &provider).await;
    let api = product.api();
    let id = api::id(&api.submit(json!({ "prompt": "Hi" })).await);
    let task = api.ended(id).await;
    assert_eq!((&task["status"], &task["attempt"]), (&json!("FAILED"), &json!(1)), "{task}");
    assert!(task["error"]["message"].as_str().is_some_and(|text| text.contains("401")), "{task}");
    let attempts = api.get(&format!("/tasks/{id}/attempts")).await;
    for text in [task.to_string(), attempts.to_string(), product.logs()] {
        assert!(!text.contains(KEY), "the key shows: {text}");
    }
}
