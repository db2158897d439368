//! What is not urgent goes through the provider's Batch API.

use std::time::Duration;

use chrono::Utc;
use e2e_tests::{Base, BatchProvider, PATIENCE, Product, Setup, api, on_both_bases};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

on_both_bases!(
    a_far_deadline_costs_half_and_each_line_is_a_task,
    a_batch_that_was_begun_and_not_noted_is_found_again,
    what_has_no_answer_when_the_deadline_nears_is_asked_live,
);

const QUICK: &str = r#"gather = "200ms", look = "200ms""#;

fn lane(base: Base, provider: &BatchProvider, batch: &str) -> Setup {
    let base_url = provider.base_url();
    base.setup().file(&format!(
        "[[providers]]\nname = \"main\"\nkind = \"openai\"\nbase_url = \"{base_url}\"\nbatch = {{ {batch}, {QUICK} }}\n\
         prices = [{{ models = \"*\", input = 1, output = 3 }}]\n"
    ))
}

async fn submit(product: &Product, prompt: &str, deadline: Duration) -> i64 {
    let input = json!({ "prompt": prompt, "deadline": (Utc::now() + deadline).to_rfc3339() });
    product.api().submit_type("ai.text_generation", input).await
}

/// Until it is so at the provider.
async fn until(provider: &BatchProvider, what: &str, wanted: impl Fn(&BatchProvider) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !wanted(provider) {
        assert!(Instant::now() < deadline, "not {what} in time: {:?}", provider.batches());
        sleep(Duration::from_millis(20)).await;
    }
}

async fn a_far_deadline_costs_half_and_each_line_is_a_task(base: Base) {
    let provider = BatchProvider::start().await;
    let product = lane(base, &provider, r#"at_least = "1h""#).start().await;
    let (api, day) = (product.api(), Duration::from_secs(86_400));
    let mut ids = Vec::new();
    for prompt in ["one — é", "two", "too long"] {
        ids.push(submit(&product, prompt, day).await);
    }
    for id in &ids {
        let waits = api.becomes(*id, "in the lane", |task| task["error"]["code"] == "batch_lane").await;
        assert_eq!(waits["status"], "SCHEDULED", "{waits}");
    }
    until(&provider, "sent", |provider| provider.batches().iter().sum::<usize>() == 3).await;
    provider.complete();
    let first = api.completed(ids[0]).await;
    assert_eq!(
        (&first["result"], &first["details"]["provider"]),
        (&json!("one — é"), &json!("main")),
        "{first}"
    );
    assert_eq!(
        first["details"]["cost_micros"], 2_000,
        "half of a thousand at 1 and a thousand at 3: {first}"
    );
    assert_eq!(api.completed(ids[1]).await["result"], "two");
    let refused = api.ended(ids[2]).await;
    assert_eq!(
        (&refused["status"], &refused["error"]["code"]),
        (&json!("FAILED"), &json!("context_length_exceeded"))
    );
    assert_eq!(provider.live_calls(), 0);
    assert_eq!(api.get("/usage").await["total"]["cost_micros"], 4_000);
}

async fn a_batch_that_was_begun_and_not_noted_is_found_again(base: Base) {
    let provider = BatchProvider::start().await;
    let mut product = lane(base, &provider, r#"at_least = "1h""#).start().await;
    provider.be_silent(true);
    let id = submit(&product, "one", Duration::from_secs(86_400)).await;
    until(&provider, "begun", |provider| provider.batches() == [1]).await;
    product.kill();
    provider.be_silent(false);
    product.start_again().await;
    provider.complete();
    assert_eq!(product.api().completed(id).await["result"], "one");
    assert_eq!((provider.batches(), provider.live_calls()), (vec![1], 0), "once");
}

async fn what_has_no_answer_when_the_deadline_nears_is_asked_live(base: Base) {
    let provider = BatchProvider::start().await;
    let product = lane(base, &provider, r#"at_least = "3s", reserve = "2s""#).start().await;
    let api = product.api();
    let soon = submit(&product, "soon", Duration::from_secs(2)).await;
    assert_eq!(api.completed(soon).await["result"], "live", "it is urgent");
    let id = submit(&product, "later", Duration::from_secs(5)).await;
    until(&provider, "begun", |provider| provider.batches() == [1]).await;
    let ended: Value = api.completed(id).await;
    assert_eq!((&ended["result"], provider.live_calls()), (&json!("live"), 2), "{ended}");
    // Its answer comes too late, and changes nothing.
    provider.complete();
    until(&provider, "read", |provider| provider.fetched() == 2).await;
    assert_eq!(api.task(api::id(&ended)).await["result"], "live");
}
