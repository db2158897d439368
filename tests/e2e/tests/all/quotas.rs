//! What may be asked of a provider, over all worker processes.

use std::time::Duration;

use e2e_tests::{Base, Noticed, Product, Provider, Reply, on_both_bases};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

on_both_bases!(
    one_429_pauses_the_provider_for_all_that_wait_and_charges_nobody,
    twenty_tasks_under_a_budget_for_ten_never_pass_it,
    each_fairness_key_may_have_a_budget_of_its_own,
    no_more_calls_are_under_way_than_may_be_over_all_workers,
    a_server_that_grows_slow_is_asked_for_less_at_once,
);

/// One provider, with this in its table.
async fn start(setup: e2e_tests::Setup, provider: &Provider, more: &str) -> Product {
    let base_url = provider.base_url();
    let file =
        format!("[[providers]]\nname = \"main\"\nkind = \"openai\"\nbase_url = \"{base_url}\"\n{more}\n");
    setup.file(&file).start().await
}

/// An answer that used so many tokens.
fn using(input: u64, output: u64) -> Reply {
    let usage = json!({ "choices": [], "usage": { "prompt_tokens": input, "completion_tokens": output } });
    let stop = json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": "stop" }] });
    Reply::Ending(vec!["so"], vec![stop.to_string(), usage.to_string(), "[DONE]".to_owned()])
}

async fn submit(product: &Product, count: usize, item: &Value) -> i64 {
    let body = json!({ "items": vec![item; count] });
    let answer = product.api().send(Method::POST, "/batches", Some(&body)).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    e2e_tests::api::id(&answer.body)
}

async fn one_429_pauses_the_provider_for_all_that_wait_and_charges_nobody(base: Base) {
    let refusal = Reply::Refusal {
        status: "429 Too Many Requests",
        headers: vec![("retry-after", "5")],
        message: "slow down",
    };
    let mut provider = Provider::start(vec![refusal, using(10, 1)]).await;
    // One call at a time, so that fifty wait while the first is refused.
    let setup = base.setup().set("WORKER_CONCURRENCY", "1").workers(2);
    let product = start(setup, &provider, "max_in_flight = 1").await;
    let once = json!({ "type": "ai.text_generation", "input": { "prompt": "Hi" }, "max_attempts": 1 });
    let batch = submit(&product, 51, &once).await;
    assert!(matches!(provider.notices().await, Noticed::Request { .. }));
    let refused = Instant::now();
    // Those that another worker had begun before it could know.
    let mut others_begun = 0;
    let next = loop {
        assert!(matches!(provider.notices().await, Noticed::Request { .. }));
        match refused.elapsed() {
            early if early < Duration::from_millis(500) => others_begun += 1,
            late => break late,
        }
    };
    assert!(others_begun <= 1, "two workers with a slot each: {others_begun}");
    assert!(next >= Duration::from_millis(4_950), "asked again after {next:?}");
    let ended = product.api().ended(batch).await;
    assert_eq!(ended["result"]["completed"], 51, "nobody was charged with an attempt: {ended}");
}

/// Four worker processes use what there is and no more.
#[tokio::test]
async fn four_workers_keep_to_a_quota_of_tokens_and_use_it() {
    const RATE: u64 = 1_000; // tokens a second
    const BURST: u64 = 2_000;
    const CALL: u64 = 200;
    const WINDOW: Duration = Duration::from_secs(60);
    let mut provider = Provider::start(vec![using(CALL / 2, CALL / 2)]).await;
    let setup = Base::PostgresAndRedis.setup().workers(4);
    let quota = r#"quotas = [{ models = "*", tokens_per_minute = 60000, burst = "2s" }]"#;
    let product = start(setup, &provider, quota).await;
    // Estimated at 100 tokens to read and 300 to write: more than it uses.
    let input = json!({ "prompt": "x".repeat(400), "max_tokens": 300 });
    let begun = Instant::now();
    submit(&product, 450, &json!({ "type": "ai.text_generation", "input": input })).await;
    let (mut first, mut calls) = (None, 0);
    loop {
        let seen = timeout(Duration::from_secs(10), provider.notices()).await.expect("the quota is used");
        assert!(matches!(seen, Noticed::Request { .. }));
        calls += 1;
        let (since, used) = (begun.elapsed(), calls * CALL);
        let most = BURST as f64 + RATE as f64 * since.as_secs_f64();
        assert!(used as f64 <= most, "{used} tokens after {since:?}, of {most}");
        if first.get_or_insert_with(Instant::now).elapsed() >= WINDOW {
            break;
        }
    }
    let whole = RATE * WINDOW.as_secs();
    assert!(calls * CALL >= whole * 9 / 10, "{} of {whole} tokens were used", calls * CALL);
}

/// What holds a task back is said, and what can never pass fails at once.
#[tokio::test]
async fn a_task_says_that_it_waits_for_a_quota_and_what_is_too_large_for_it_fails() {
    let provider = Provider::start(vec![using(10, 10)]).await;
    let quota = r#"quotas = [{ models = "gpt-*", requests_per_minute = 1 }, { models = "small", tokens_per_minute = 600, burst = "10s" }]"#;
    let product = start(Base::Sqlite.setup(), &provider, quota).await;
    let api = product.api();
    let ask =
        async |model: &str| e2e_tests::api::id(&api.submit(json!({ "prompt": "Hi", "model": model })).await);
    api.completed(ask("gpt-4o").await).await;
    let waits = ask("gpt-4o-mini").await;
    api.becomes(waits, "waits for the quota", |task| task["status"] == "SCHEDULED").await;
    let why = api.get(&format!("/tasks/{waits}/why")).await;
    assert_eq!(why["held_by"][0]["reason"], "rate_limited", "{why}");
    let message = why["held_by"][0]["message"].as_str().expect("a text");
    assert!(message.contains("main: it may be asked for 1 requests a minute"), "{message}");
    assert!(why["expected_start"].is_string(), "{why}");
    let failed = api.ended(ask("small").await).await;
    assert_eq!(failed["error"]["code"], "larger_than_quota", "{failed}");
    assert!(failed["error"]["message"].as_str().expect("a text").contains("max_tokens"), "{failed}");
}

/// However many ask side by side, together they spend what there is, and the rest is told so.
async fn twenty_tasks_under_a_budget_for_ten_never_pass_it(base: Base) {
    let provider = Provider::start(vec![using(1, 100)]).await;
    let more = r#"
        prices = [{ models = "*", input = 0, output = 1000 }]

        [[budgets]]
        name = "daily"
        period = "day"
        limit = 1.05
    "#;
    let product = start(base.setup().workers(2), &provider, more).await;
    let api = product.api();
    let input = json!({ "prompt": "Hi", "max_tokens": 100 });
    let batch = submit(&product, 20, &json!({ "type": "ai.text_generation", "input": input })).await;
    let ended = api.ended(batch).await;
    assert_eq!(
        (&ended["result"]["completed"], &ended["result"]["failed"]),
        (&json!(10), &json!(10)),
        "{ended}"
    );
    let failed = api.get(&format!("/batches/{batch}/items?status=failed")).await;
    for item in failed["items"].as_array().expect("items") {
        assert_eq!(item["error"]["code"], "budget_spent", "{item}");
        let message = item["error"]["message"].as_str().expect("a text");
        assert!(message.contains("budget daily has 1.000000 of 1.050000 spent"), "{message}");
        assert_eq!(item["attempt"], 1, "money does not come back by trying: {item}");
    }
    assert_eq!(api.get("/usage").await["total"]["cost_micros"], 1_000_000);
    assert_eq!(api.get(&format!("/batches/{batch}/usage")).await["cost_micros"], 1_000_000);
    let budgets = api.get("/usage/budgets").await;
    let daily = &budgets["items"][0];
    assert_eq!((&daily["name"], &daily["limit_micros"]), (&json!("daily"), &json!(1_050_000)), "{budgets}");
    assert_eq!(
        (&daily["spent_micros"], &daily["left_micros"]),
        (&json!(1_000_000), &json!(50_000)),
        "{budgets}"
    );
    let unknown = api.send(Method::GET, &format!("/batches/{}/usage", batch + 1), None).await;
    assert_eq!(unknown.status, 404, "an item is no batch: {}", unknown.body);
    assert_eq!(product.logs().matches("the budget daily is nearly spent").count(), 1);
}

async fn each_fairness_key_may_have_a_budget_of_its_own(base: Base) {
    let provider = Provider::start(vec![using(1, 100)]).await;
    let more = r#"
        prices = [{ models = "*", input = 0, output = 1000 }]

        [[budgets]]
        name = "each"
        per = "fairness_key"
        period = "day"
        limit = 0.35

        [[queues]]
        name = "ai_processing"
        fair = true
    "#;
    let product = start(base.setup().workers(2), &provider, more).await;
    let api = product.api();
    let task = |key: Option<&str>| {
        let input = json!({ "prompt": "Hi", "max_tokens": 100 });
        json!({ "type": "ai.text_generation", "input": input, "fairness_key": key })
    };
    for (key, tasks, completed) in [(Some("a"), 6, 3), (Some("b"), 2, 2), (None, 4, 3)] {
        let ended = api.ended(submit(&product, tasks, &task(key)).await).await;
        assert_eq!(ended["result"]["completed"], completed, "{key:?}: {ended}");
    }
    for (query, left) in [
        ("?fairness_key=a", 50_000),
        ("?fairness_key=b", 150_000),
        ("?fairness_key=c", 350_000),
        ("", 50_000),
    ] {
        let budgets = api.get(&format!("/usage/budgets{query}")).await;
        let each = &budgets["items"][0];
        assert_eq!(
            (&each["per"], &each["left_micros"]),
            (&json!("fairness_key"), &json!(left)),
            "{query}: {budgets}"
        );
    }
}

async fn no_more_calls_are_under_way_than_may_be_over_all_workers(base: Base) {
    let (provider, most) = Provider::with_places(100, Duration::from_millis(200)).await;
    let product = start(base.setup().workers(2), &provider, "max_in_flight = 3").await;
    let batch =
        submit(&product, 30, &json!({ "type": "ai.text_generation", "input": { "prompt": "Hi" } })).await;
    let ended = product.api().ended(batch).await;
    assert_eq!(ended["result"]["completed"], 30, "{ended}");
    assert_eq!(most.take(), 3);
}

/// A server of one's own has no quota; it is found out how many calls at once it answers in time.
async fn a_server_that_grows_slow_is_asked_for_less_at_once(base: Base) {
    const PLACES: usize = 4;
    const TAKES: Duration = Duration::from_millis(250);
    const TASKS: usize = 400;
    let (provider, most) = Provider::with_places(PLACES, TAKES).await;
    let more = "max_in_flight = 64\nfirst_token_target = \"1s\"";
    let product = start(base.setup().workers(2), &provider, more).await;
    let api = product.api();
    let batch =
        submit(&product, TASKS, &json!({ "type": "ai.text_generation", "input": { "prompt": "Hi" } })).await;
    let begun = Instant::now();
    let half = |batch: &Value| batch["progress"].as_f64().is_some_and(|done| done >= 50.0);
    api.becomes(batch, "half done", half).await;
    let at_first = most.take();
    let ended = api.ended_within(batch, Duration::from_secs(60)).await;
    assert_eq!(ended["result"]["completed"], TASKS, "{ended}");
    let later = most.take();
    // Four at once and three rounds that wait are answered within a second.
    assert!(at_first > 32 && later <= 28, "{at_first} at once at first, {later} later");
    let ideal = TAKES * u32::try_from(TASKS / PLACES).expect("small");
    assert!(begun.elapsed() < ideal * 2, "it is kept busy: {:?} instead of {ideal:?}", begun.elapsed());
}
