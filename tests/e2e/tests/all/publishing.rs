//! Publishing: a message goes out once, signed; what went wrong waits for a person.

use domain::outbound::SigningSecret;
use e2e_tests::{Api, Base, Message, PATIENCE, Receiver, Setup, Taken, api, on_both_bases};
use reqwest::Method;
use serde_json::{Value, json};

/// The one of the reference libraries' tests, and another.
const SECRETS: [&str; 2] =
    ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"];

on_both_bases!(
    publishing_sends_a_signed_message_once,
    publishing_leaves_to_a_person_what_may_have_been_sent,
    publishing_is_repeated_under_the_same_id_where_that_is_asked_for,
    publishing_does_not_repeat_what_a_crash_broke_off,
    publishing_a_batch_has_an_outcome_per_item,
    publishing_the_largest_batch_sends_each_item_once,
    publishing_refuses_targets_inside,
);

/// May call this machine, and is told to use a proxy that nobody runs.
pub(crate) fn setup(base: Base) -> Setup {
    base.setup()
        .set("OUTBOUND_ALLOW", "127.0.0.0/8")
        .set("OUTBOUND_PORTS", "*")
        .set("WEBHOOK_SECRETS", &SECRETS.join(","))
        .set("HTTP_PROXY", "http://127.0.0.1:9")
        .set("http_proxy", "http://127.0.0.1:9")
        .set("ALL_PROXY", "http://127.0.0.1:9")
}

/// Checks the signature as a receiver would, and answers the message's id.
pub(crate) fn verified(message: &Message) -> String {
    let (id, timestamp) = (message.header("webhook-id"), message.header("webhook-timestamp"));
    let age = chrono::Utc::now().timestamp() - timestamp.parse::<i64>().expect("seconds");
    assert!((-5..300).contains(&age), "receivers refuse messages that are older than five minutes: {age} s");
    let signatures: Vec<&str> = message.header("webhook-signature").split(' ').collect();
    let expected = SECRETS.map(|secret| {
        let secret: SigningSecret = secret.parse().expect("a secret");
        secret.sign_text(&format!("{id}.{timestamp}.{}", message.body))
    });
    assert_eq!(signatures, expected, "each secret signs");
    id.to_owned()
}

async fn publish(api: &Api, url: &str, retry: &str) -> i64 {
    let input = json!({ "url": url, "body": { "title": "It is out" }, "retry": retry });
    api.submit_type("publish.single", input).await
}

async fn publishing_sends_a_signed_message_once(base: Base) {
    let mut receiver = Receiver::start(vec![]).await;
    let product = setup(base).start().await;
    let api = product.api();
    let body = format!(
        r#"{{"type":"publish.single","input":{{"url":"{}","body":{{ "n": 1.0e2 }},"headers":{{"Authorization":"Bearer sesame-4242"}}}}}}"#,
        receiver.url("/hook?key=open-4242")
    );
    let json = [("content-type", "application/json")];
    let submitted = api.send_raw(Method::POST, "/tasks", &json, body.as_bytes()).await;
    assert_eq!(submitted.status, 201, "{}", submitted.body);
    let task = api.completed(api::id(&submitted.body)).await;
    let message = receiver.next().await;
    assert_eq!((message.path.as_str(), message.body.as_str()), ("/hook?key=open-4242", r#"{ "n": 1.0e2 }"#));
    assert_eq!(message.header("content-type"), "application/json");
    assert_eq!(message.header("authorization"), "Bearer sesame-4242");
    let id = verified(&message);
    assert_eq!(
        task["result"],
        json!({ "webhook_id": id, "http_status": 200, "signed": true, "response": "heard" })
    );
    assert!(receiver.rest().is_empty());
    let logs = product.logs();
    for secret in ["open-4242", "sesame-4242", &SECRETS[0][6..], &SECRETS[1][6..]] {
        assert!(!logs.contains(secret), "{secret} is in the logs: {logs}");
    }
}

async fn publishing_leaves_to_a_person_what_may_have_been_sent(base: Base) {
    let answers = vec![Taken::Status("503 Service Unavailable"), Taken::Lost, Taken::Never];
    let mut receiver = Receiver::start(answers).await;
    let product =
        setup(base).set("OUTBOUND_CONNECT_TIMEOUT", "500ms").set("OUTBOUND_TIMEOUT", "1s").start().await;
    let api = product.api();
    let mut ids = Vec::new();
    for code in ["publish.refused", "publish.maybe_sent", "publish.maybe_sent"] {
        let id = publish(&api, &receiver.url("/"), "unsent").await;
        let task = api.ended(id).await;
        assert_eq!((&task["status"], &task["attempt"]), (&json!("FAILED"), &json!(1)), "{task}");
        assert_eq!(task["error"]["code"], code, "{task}");
        ids.push((id, verified(&receiver.next().await)));
    }
    let failures = api.get("/manual-tasks").await;
    assert_eq!(
        (&failures["total"], &failures["groups"][0]["reason"]),
        (&json!(3), &json!("publish.maybe_sent"))
    );
    // A person found out that it did not arrive, and has it sent again: under its old name.
    let (id, message) = ids.swap_remove(1);
    let retry = api.send(Method::POST, &format!("/manual-tasks/{id}/retry"), None).await;
    assert_eq!(retry.status, 200, "{}", retry.body);
    api.completed(id).await;
    assert_eq!(verified(&receiver.next().await), message);
    assert!(receiver.rest().is_empty(), "nothing else was sent");
}

async fn publishing_is_repeated_under_the_same_id_where_that_is_asked_for(base: Base) {
    let mut receiver = Receiver::start(vec![Taken::Lost, Taken::Status("500 Internal Server Error")]).await;
    let product = setup(base).start().await;
    let api = product.api();
    let id = publish(&api, &receiver.url("/"), "always").await;
    let task = api.completed(id).await;
    assert_eq!(task["attempt"], 3, "{task}");
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(verified(&receiver.next().await));
    }
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
}

async fn publishing_does_not_repeat_what_a_crash_broke_off(base: Base) {
    let mut receiver = Receiver::start(vec![Taken::Never]).await;
    let mut product = setup(base).set("LEASE_SECONDS", "2").start().await;
    let id = publish(&product.api(), &receiver.url("/"), "unsent").await;
    receiver.next().await;
    product.worker().kill();
    product.start_again().await;
    let task = product.api().ended(id).await;
    assert_eq!((&task["status"], &task["attempt"]), (&json!("FAILED"), &json!(2)), "{task}");
    assert_eq!(task["error"]["code"], "publish.maybe_sent", "{task}");
    assert!(receiver.rest().is_empty(), "it was not sent twice");
    assert_eq!(product.api().outcomes(id).await, ["CRASHED", "FAILED"]);
}

async fn publishing_a_batch_has_an_outcome_per_item(base: Base) {
    let mut good = Receiver::start(vec![]).await;
    let bad = Receiver::start(vec![Taken::Status("400 Bad Request"); 2]).await;
    // One slot: the batch does not stand in its own way.
    let product = setup(base).set("WORKER_CONCURRENCY", "1").start().await;
    let api = product.api();
    let target = |url: String, n: i32| json!({ "url": url, "body": { "n": n } });
    let targets = [target(good.url("/a"), 0), target(bad.url("/b"), 1), target(good.url("/c"), 2)];
    let batch = api.submit_type("publish.batch", json!({ "targets": targets })).await;
    let result = api.completed(batch).await["result"].clone();
    assert_eq!(
        (&result["total"], &result["delivered"], &result["failed"]),
        (&json!(3), &json!(2), &json!(1)),
        "{result}"
    );
    let of = |field: &str| -> Vec<Value> {
        result["items"].as_array().into_iter().flatten().map(|item| item[field].clone()).collect()
    };
    assert_eq!(of("status"), ["COMPLETED", "FAILED", "COMPLETED"]);
    assert_eq!(of("http_status"), [json!(200), Value::Null, json!(200)]);
    assert_eq!(result["items"][1]["error"]["code"], "publish.refused");
    let mut paths = [good.next().await, good.next().await].map(|message| {
        verified(&message);
        message.path
    });
    paths.sort();
    assert_eq!(paths, ["/a", "/c"]);
    // The item that failed is a task of its own in manual handling.
    let failed = result["items"][1]["task_id"].as_i64().expect("a task");
    let inspected = api.get(&format!("/manual-tasks/{failed}")).await;
    assert_eq!(inspected["task"]["metadata"], json!({ "publish_batch": batch, "item": 1 }), "{inspected}");
    assert_eq!(api.get("/manual-tasks").await["total"], 1);
}

async fn publishing_the_largest_batch_sends_each_item_once(base: Base) {
    let mut receiver = Receiver::start(vec![]).await;
    let product = setup(base).set("WORKER_CONCURRENCY", "100").start().await;
    let api = product.api();
    let items: Vec<_> = (0..1_000).map(|n| json!({ "n": n })).collect();
    let batch = api.submit_type("publish.batch", json!({ "url": receiver.url("/"), "items": items })).await;
    let result = api.ended_within(batch, PATIENCE * 3).await["result"].clone();
    assert_eq!((&result["delivered"], &result["failed"]), (&json!(1_000), &json!(0)));
    let mut seen: Vec<_> =
        receiver.rest().iter().filter_map(|message| message.json()["n"].as_i64()).collect();
    seen.sort_unstable();
    assert!(seen.iter().copied().eq(0..1_000), "each item came once: {} came", seen.len());
}

async fn publishing_refuses_targets_inside(base: Base) {
    let product = base.start().await;
    let api = product.api();
    for (url, part) in [
        ("http://127.0.0.1/", "loopback"),
        ("http://2130706433/", "loopback"),
        ("http://[::ffff:127.0.0.1]/", "loopback"),
        ("http://localhost/", "loopback"),
        ("http://10.0.0.1/", "private"),
        ("http://169.254.169.254/latest/meta-data/", "metadata"),
        ("https://example.org:22/", "port 22"),
        ("https://me:sesame@example.org/", "user name"),
        ("file:///etc/passwd", "file:"),
    ] {
        let body = json!({ "type": "publish.single", "input": { "url": url, "body": {} } });
        let refused = api.send(Method::POST, "/tasks", Some(&body)).await;
        assert_eq!(refused.status, 422, "{url}: {}", refused.body);
        assert_eq!(refused.body["errors"][0]["field"], "input", "{}", refused.body);
        let message = refused.body["errors"][0]["message"].as_str().unwrap_or_default();
        assert!(message.contains(part) && !message.contains("sesame"), "{url}: {message}");
    }
}
