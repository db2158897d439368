//! Live events: what is written arrives while it is written, once, and in order.

use e2e_tests::{Base, Event, api, on_both_bases};
use serde_json::json;

on_both_bases!(
    the_text_arrives_as_it_is_written_and_is_the_result,
    a_reader_that_comes_back_gets_the_rest_without_gap_or_repeat,
    a_late_reader_gets_it_all,
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
