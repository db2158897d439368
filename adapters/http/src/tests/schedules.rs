//! Schedules. Nothing fires them here.

use super::*;

async fn put(client: &Client, name: &str, body: Value) -> TestResponse {
    client.put(format!("/api/v1/schedules/{name}")).body_json(&body).send().await
}

#[tokio::test]
async fn a_schedule_is_kept_changed_paused_and_removed() {
    let client = client();
    let nightly = json!({ "cron": "0 2 * * *", "time_zone": "Europe/Berlin", "task": { "prompt": "Hi" } });
    let created = put(&client, "nightly", nightly).await;
    created.assert_status(StatusCode::CREATED);
    let created: Value = created.json().await.value().deserialize();
    assert_eq!((&created["name"], &created["overlap"]), (&json!("nightly"), &json!("allow")));
    assert_eq!(created["task"]["type"], "ai.text_generation");
    assert_eq!(created["next_ticks"][0], "2027-01-16T01:00:00.000000Z");
    assert_eq!(created["next_ticks"].as_array().map(Vec::len), Some(5));

    let often = json!({ "every_seconds": 90, "overlap": "queue", "task": { "type": "demo.noop" } });
    let changed = put(&client, "nightly", often).await;
    changed.assert_status_is_ok();
    let changed: Value = changed.json().await.value().deserialize();
    assert_eq!((&changed["cron"], &changed["every_seconds"]), (&Value::Null, &json!(90.0)));
    let read: Value = client.get("/api/v1/schedules/nightly").send().await.json().await.value().deserialize();
    assert_eq!(read, changed);

    let paused: Value =
        client.post("/api/v1/schedules/nightly/pause").send().await.json().await.value().deserialize();
    assert_eq!((&paused["paused"], &paused["next_ticks"]), (&json!(true), &json!([])));
    let going: Value =
        client.post("/api/v1/schedules/nightly/resume").send().await.json().await.value().deserialize();
    assert_eq!(going["paused"], false);

    client.post("/api/v1/schedules/nightly/trigger").send().await.assert_status(StatusCode::CREATED);
    let firings: Value =
        client.get("/api/v1/schedules/nightly/firings").send().await.json().await.value().deserialize();
    assert_eq!(firings, json!({ "items": [], "next_cursor": null }), "a trigger is no tick");
    let list: Value = client.get("/api/v1/schedules?limit=1").send().await.json().await.value().deserialize();
    assert_eq!((list["items"].as_array().map(Vec::len), &list["next_cursor"]), (Some(1), &json!("nightly")));

    client.delete("/api/v1/schedules/nightly").send().await.assert_status(StatusCode::NO_CONTENT);
    for answer in [
        client.delete("/api/v1/schedules/nightly").send().await,
        client.get("/api/v1/schedules/nightly").send().await,
        client.post("/api/v1/schedules/nightly/trigger").send().await,
        client.get("/api/v1/schedules/nightly/firings").send().await,
    ] {
        problem(answer, StatusCode::NOT_FOUND).await;
    }
}

#[tokio::test]
async fn what_cannot_run_is_not_scheduled() {
    let client = client();
    for (name, body, field) in [
        ("a b", json!({ "every_seconds": 5, "task": { "prompt": "x" } }), "name"),
        ("a", json!({ "cron": "soon", "task": { "prompt": "x" } }), "cron"),
        ("a", json!({ "every_seconds": 5, "task": { "type": "demo.nop" } }), "type"),
        ("a", json!({ "every_seconds": 5, "task": { "prompt": "x", "unique_key": "y" } }), "task.unique_key"),
    ] {
        let refused =
            problem(put(&client, &name.replace(' ', "%20"), body).await, StatusCode::UNPROCESSABLE_ENTITY)
                .await;
        assert_eq!(refused["errors"][0]["field"], field);
    }
}
