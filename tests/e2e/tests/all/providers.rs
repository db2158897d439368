//! Several providers in the configuration: who is asked, who is asked next, and what it costs.

use e2e_tests::{Base, Product, Provider, Reply, on_both_bases};
use reqwest::Method;
use serde_json::{Value, json};

on_both_bases!(another_provider_answers_where_one_cannot, tokens_and_cost_are_kept_by_attempt_task_and_day,);

const KEY: &str = "sk-test-4242424242";

fn overloaded() -> Reply {
    Reply::Refusal { status: "503 Service Unavailable", headers: vec![], message: "try later" }
}

fn counted(words: Vec<&'static str>, input: u64, output: u64) -> Reply {
    let usage = json!({ "choices": [], "usage": { "prompt_tokens": input, "completion_tokens": output } });
    let stop = json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": "stop" }] });
    Reply::Ending(words, vec![stop.to_string(), usage.to_string(), "[DONE]".to_owned()])
}

async fn start(base: Base, first: &Provider, second: &Provider) -> Product {
    let file = format!(
        r#"
        [[providers]]
        name = "first"
        kind = "openai"
        base_url = "{}"
        api_key_env = "FIRST_KEY"
        prices = [{{ models = "*", input = 1, output = 1 }}]

        [[providers]]
        name = "second"
        kind = "openai"
        base_url = "{}"
        models = ["their-*"]
        prices = [{{ models = "their-*", input = 2.5, output = 10 }}]

        [[models]]
        models = "gpt-*"
        providers = ["first", "second/their-gpt"]
        fall_back_on = ["overloaded"]
        "#,
        first.base_url(),
        second.base_url(),
    );
    base.setup().file(&file).set("FIRST_KEY", KEY).start().await
}

async fn another_provider_answers_where_one_cannot(base: Base) {
    let refusal = Reply::Refusal { status: "400 Bad Request", headers: vec![], message: "no" };
    let replies = vec![("overloaded", vec![overloaded()]), ("wrong", vec![refusal])];
    let first = Provider::by_prompt(replies).await;
    let mut second = Provider::start(vec![counted(vec!["from ", "the second"], 10, 3)]).await;
    let product = start(base, &first, &second).await;
    let api = product.api();
    let ask = async |prompt: &str| {
        let task = api.submit(json!({ "prompt": prompt, "model": "gpt-4o" })).await;
        api.ended(e2e_tests::api::id(&task)).await
    };
    let task = ask("overloaded").await;
    assert_eq!((&task["result"], &task["attempt"]), (&json!("from the second"), &json!(1)), "{task}");
    assert_eq!(task["details"]["provider"], "second", "{task}");
    let e2e_tests::Noticed::Request { body, authorization } = second.notices().await else {
        panic!("a request")
    };
    assert_eq!(
        (&body["model"], authorization.as_str()),
        (&json!("their-gpt"), ""),
        "its own model, and no other's key"
    );
    // Another provider would say the same.
    let task = ask("wrong").await;
    assert_eq!((&task["status"], &task["error"]["code"]), (&json!("FAILED"), &json!("http_400")), "{task}");
    assert!(second.prompts().is_empty());
    let logs = product.logs();
    assert!(logs.contains("gen_ai.provider.name") && !logs.contains(KEY), "{logs}");
}

async fn tokens_and_cost_are_kept_by_attempt_task_and_day(base: Base) {
    let first = Provider::start(vec![overloaded()]).await;
    let second = vec![Reply::Cut(vec!["so "]), counted(vec!["whole"], 1_000, 200)];
    let second = Provider::start(second).await;
    let product = start(base, &first, &second).await;
    let api = product.api();
    let id = e2e_tests::api::id(&api.submit(json!({ "prompt": "x".repeat(4_000), "model": "gpt-4o" })).await);
    let task = api.completed(id).await;
    assert_eq!((&task["attempt"], &task["details"]["cost_micros"]), (&json!(2), &json!(4_500)), "{task}");
    let attempts = api.get(&format!("/tasks/{id}/attempts")).await;
    let shown: Vec<Value> = attempts["items"]
        .as_array()
        .expect("items")
        .iter()
        .flat_map(|attempt| attempt["calls"].as_array().expect("calls"))
        .map(|call| {
            json!([
                call["provider"],
                call["error"],
                call["input_tokens"],
                call["estimated"],
                call["cost_micros"]
            ])
        })
        .collect();
    let expected = json!([
        ["first", "http_503", 0, false, 0],
        ["second", "truncated", 1_000, true, 2_510],
        ["first", "http_503", 0, false, 0],
        ["second", null, 1_000, false, 4_500],
    ]);
    assert_eq!(json!(shown), expected, "{attempts}");
    let last = &attempts["items"][1]["calls"][1];
    assert_eq!(last["attributes"]["gen_ai.request.model"], "their-gpt", "{last}");
    assert_eq!(last["attributes"]["gen_ai.response.finish_reasons"], json!(["stop"]), "{last}");
    assert_eq!(attempts["usage"]["cost_micros"], 7_010, "the task's cost is the sum over its attempts");

    let report = api.get("/usage?group_by=provider").await;
    assert_eq!(
        (&report["total"]["cost_micros"], &report["total"]["calls"]),
        (&json!(7_010), &json!(4)),
        "{report}"
    );
    assert_eq!(
        (&report["items"][0]["key"], &report["items"][0]["usage"]["input_tokens"]),
        (&json!("second"), &json!(2_000))
    );
    assert_eq!(report["items"][1]["key"], "first", "{report}");
    // What was spent stays spent.
    assert_eq!(api.send(Method::DELETE, &format!("/tasks/{id}"), None).await.status, 204);
    let by_day = api.get("/usage?group_by=day").await;
    assert_eq!((&by_day["total"], by_day["items"].as_array().map(Vec::len)), (&report["total"], Some(1)));
    for (query, field) in [
        ("from=2026-13-01", "from"),
        ("from=2026-02-01&to=2026-01-01", "from"),
        ("from=2020-01-01", "from"),
        ("group_by=user", "group_by"),
    ] {
        let answer = api.send(Method::GET, &format!("/usage?{query}"), None).await;
        assert_eq!(
            (answer.status.as_u16(), answer.body["errors"][0]["field"].as_str()),
            (422, Some(field)),
            "{query}: {}",
            answer.body
        );
    }
}
