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

#[tokio::test]
async fn coming_ticks_are_told_before_and_after_a_schedule_is_made() {
    let client = client();
    let ask = async |path: &str| {
        client.get(format!("/api/v1{path}")).send().await.json().await.value().deserialize::<Value>()
    };
    let preview = ask("/schedule-ticks?cron=0%202%20*%20*%20*&time_zone=Europe/Berlin&count=2").await;
    let expected = json!(["2027-01-16T01:00:00.000000Z", "2027-01-17T01:00:00.000000Z"]);
    assert_eq!((&preview["items"], &preview["description"]), (&expected, &json!("At 02:00.")), "{preview}");
    let often = ask("/schedule-ticks?every_seconds=90&count=3").await;
    assert_eq!(often["items"].as_array().map(Vec::len), Some(3), "{often}");
    let nightly = json!({ "cron": "0 2 * * *", "jitter_seconds": 60, "task": { "prompt": "Hi" } });
    let made: Value = put(&client, "nightly", nightly).await.json().await.value().deserialize();
    assert_eq!((&made["jitter_seconds"], &made["configured"]), (&json!(60.0), &json!(false)));
    assert_eq!(ask("/schedules/nightly/next?count=7").await["items"].as_array().map(Vec::len), Some(7));
    for (path, field) in [
        ("/schedule-ticks", "cron"),
        ("/schedule-ticks?cron=soon", "cron"),
        ("/schedule-ticks?every_seconds=often", "every_seconds"),
        ("/schedule-ticks?cron=0%202%20*%20*%20*&time_zone=Berlin", "time_zone"),
        ("/schedules/nightly/next?count=0", "count"),
    ] {
        let answer = client.get(format!("/api/v1{path}")).send().await;
        let refused = problem(answer, StatusCode::UNPROCESSABLE_ENTITY).await;
        assert_eq!(refused["errors"][0]["field"], field, "{path}");
    }
}
