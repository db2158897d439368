//! Live events: what is written arrives while it is written, once, and in order.

use contract_tests::servers::RedisServer;
use e2e_tests::{Base, Event, Joined, Provider, Reply, api, on_both_bases};
use serde_json::{Value, json};

on_both_bases!(
    the_text_arrives_as_it_is_written_and_is_the_result,
    a_reader_that_comes_back_gets_the_rest_without_gap_or_repeat,
    a_late_reader_gets_it_all,
    a_text_survives_the_kill_of_api_and_worker_in_the_middle,
    a_cancelled_text_keeps_what_was_written,
);

fn text(events: &[Event]) -> String {
    events.iter().map(Event::text).collect()
}

fn last_status(events: &[Event]) -> &str {
    let last = events.last().expect("events");
    assert_eq!(last.name, "state", "the last event is a state: {last:?}");
    last.data["status"].as_str().expect("a status")
}

async fn the_text_arrives_as_it_is_written_and_is_the_result(base: Base) {
    let product = base.setup().set("SIMULATED_LATENCY", "1500ms").start().await;
    let api = product.api();
    let id = api::id(&api.submit(json!({ "prompt": "Explain quantum computing" })).await);
    let mut reader = api.events(id, None).await;
    let first = reader.next().await.expect("an event");
    assert_eq!(first.name, "state", "{first:?}");
    let early = reader.next_of("chunk").await;
    let meanwhile = api.task(id).await;
    assert_eq!(meanwhile["status"], "PROCESSING", "the first chunk comes before the end: {meanwhile}");

    let mut events = vec![first, early];
    events.extend(reader.rest().await);
    assert_eq!(last_status(&events), "COMPLETED");
    let task = api.task(id).await;
    assert_eq!(text(&events), task["result"].as_str().expect("a text"));
    let ids: Vec<_> = events.iter().filter_map(|event| event.id.clone()).collect();
    let expected: Vec<_> = (1..=ids.len()).map(|seq| format!("1.{seq}")).collect();
    assert_eq!(ids, expected, "chunks are numbered without gaps");
    assert!(ids.len() > 5, "the text came in {} pieces", ids.len());
    let progress: Vec<_> = events.iter().filter(|event| event.name == "progress").collect();
    let percents: Vec<_> = progress.iter().filter_map(|event| event.data["progress"].as_i64()).collect();
    assert!(percents.len() > 2 && percents.is_sorted(), "{percents:?}");
    assert_eq!(percents.last(), Some(&100));
}

async fn a_reader_that_comes_back_gets_the_rest_without_gap_or_repeat(base: Base) {
    let product = base.setup().set("SIMULATED_LATENCY", "2s").start().await;
    let api = product.api();
    let id = api::id(&api.submit(json!({ "prompt": "Explain quantum computing" })).await);
    let mut reader = api.events(id, None).await;
    let mut read = String::new();
    let mut last = String::new();
    for _ in 0..6 {
        let chunk = reader.next_of("chunk").await;
        read.push_str(chunk.text());
        last = chunk.id.expect("a chunk has an id");
    }
    drop(reader);
    assert_eq!(api.task(id).await["status"], "PROCESSING", "it was left in the middle");

    let rest = api.events(id, Some(&last)).await.rest().await;
    assert_eq!(last_status(&rest), "COMPLETED");
    let task = api.task(id).await;
    assert_eq!(format!("{read}{}", text(&rest)), task["result"].as_str().expect("a text"));
    // Resuming works just as well once the task has ended.
    let again = api.events(id, Some(&last)).await.rest().await;
    assert_eq!(text(&again), text(&rest));
}

async fn a_late_reader_gets_it_all(base: Base) {
    let product = base.start().await;
    let api = product.api();
    let id = api::id(&api.submit(json!({ "prompt": "Explain quantum computing" })).await);
    let task = api.completed(id).await;
    let events = api.events(id, None).await.rest().await;
    assert_eq!(
        (text(&events).as_str(), last_status(&events)),
        (task["result"].as_str().expect("a text"), "COMPLETED")
    );
    let unknown = api.send(reqwest::Method::GET, "/tasks/99999/events", None).await;
    assert_eq!(unknown.status, 404);
    let path = format!("/tasks/{id}/events");
    let nonsense = api.send_raw(reqwest::Method::GET, &path, &[("last-event-id", "nonsense")], b"").await;
    assert_eq!(nonsense.status, 422, "{}", nonsense.body);
}

async fn a_text_survives_the_kill_of_api_and_worker_in_the_middle(base: Base) {
    let setup = base.setup().set("SIMULATED_LATENCY", "2s").set("LEASE_SECONDS", "2");
    let mut product = setup.start().await;
    let api = product.api();
    let id = api::id(&api.submit(json!({ "prompt": "Explain quantum computing" })).await);
    let mut reader = api.events(id, None).await;
    let mut joined = Joined::default();
    for _ in 0..6 {
        joined.take(&reader.next_of("chunk").await);
    }
    product.kill();
    while let Some(event) = reader.next().await {
        joined.take(&event);
    }
    let early = joined.text.clone();
    product.start_again().await;

    let api = product.api();
    let rest = api.events(id, joined.after.as_deref()).await.rest().await;
    assert_eq!(last_status(&rest), "COMPLETED");
    rest.iter().for_each(|event| joined.take(event));
    let task = api.task(id).await;
    assert_eq!((task["attempt"].as_i64(), &*joined.resets), (Some(2), &[2][..]), "{task}");
    assert!(!early.is_empty());
    assert_eq!(joined.text, task["result"].as_str().expect("a text"));
    // Who comes late hears of the first attempt what was stored of it, and ends with the same text.
    let mut late = Joined::default();
    api.events(id, None).await.rest().await.iter().for_each(|event| late.take(event));
    assert_eq!(late.text, joined.text);
}

async fn a_cancelled_text_keeps_what_was_written(base: Base) {
    let provider = Provider::start(vec![Reply::Endless]).await;
    let product = base.setup().set("OPENAI_BASE_URL", &provider.base_url()).start().await;
    let api = product.api();
    let id = api::id(&api.submit(json!({ "prompt": "Count to infinity" })).await);
    let mut reader = api.events(id, None).await;
    let mut joined = Joined::default();
    for _ in 0..3 {
        joined.take(&reader.next_of("chunk").await);
    }
    api.cancel(id).await;
    reader.rest().await.iter().for_each(|event| joined.take(event));
    let task = api.ended(id).await;
    assert_eq!((&task["status"], &task["result"]), (&json!("CANCELLED"), &Value::Null), "{task}");
    assert_eq!(task["partial_result"], json!(joined.text), "{task}");
    assert!(!joined.text.is_empty());
}

#[tokio::test]
async fn a_text_streams_on_through_a_restart_of_redis() {
    let redis = RedisServer::start().expect("a Redis of its own");
    let setup = Base::PostgresAndRedis.setup().set("REDIS_URL", redis.url()).set("SIMULATED_LATENCY", "4s");
    let product = setup.start().await;
    let api = product.api();
    let id = api::id(&api.submit(json!({ "prompt": "Explain quantum computing" })).await);
    let mut reader = api.events(id, None).await;
    let mut joined = Joined::default();
    joined.take(&reader.next_of("chunk").await);
    redis.stop().expect("it stops");
    // From now on the pieces come by way of the store.
    joined.take(&reader.next_of("chunk").await);
    redis.resume().expect("it starts again");
    reader.rest().await.iter().for_each(|event| joined.take(event));
    let task = api.completed(id).await;
    assert_eq!((task["attempt"].as_i64(), &*joined.resets), (Some(1), &[][..]), "{task}");
    assert_eq!(joined.text, task["result"].as_str().expect("a text"));
}
