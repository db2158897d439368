use std::sync::Mutex;

use domain::{
    Idempotency, IdempotencyKey, Json, Status, Task, TaskId, TaskType, Tenant,
    outbound::{CallbackEvent, Missed},
};
use serde_json::{Value, json};

use super::{Callback, Duration, WEBHOOK_TYPE};
use crate::{
    ports::{ListPage, Post, TaskFilter, TaskStore},
    task_types::publish::tests::{missed, product},
    tasks::{Submission, SubmitError},
    testing::Product,
};

fn callback(events: &[CallbackEvent]) -> Callback {
    Callback { url: "https://example.org/hook".into(), events: events.to_vec() }
}

fn submission(task_type: &str, input: Value) -> Submission {
    Submission::new(TaskType::new(task_type).expect("a type"), Json::from_value(&input).expect("JSON"))
}

async fn submit(product: &Product, submission: Submission, callback: &Callback) -> TaskId {
    let admission = product.tasks.submit_with_callback(&Tenant::default(), submission.into(), callback).await;
    admission.expect("submitted").expect("an answer").task().expect("a task").id
}

async fn webhooks(product: &Product) -> Vec<Task> {
    let filter = TaskFilter { task_type: TaskType::new(WEBHOOK_TYPE).ok(), ..TaskFilter::default() };
    product
        .tasks
        .list(&Tenant::default(), &filter, ListPage { before: None, limit: 100 })
        .await
        .expect("listed")
}

/// The only webhook, once it has ended.
async fn webhook(product: &Product) -> Task {
    let all = webhooks(product).await;
    let [webhook] = all.as_slice() else { panic!("one webhook, not {all:?}") };
    loop {
        let task = product.tasks.wait(&Tenant::default(), webhook.id, Duration::from_secs(1)).await;
        let task = task.expect("readable").expect("known");
        if task.status.is_terminal() {
            return task;
        }
        // Its waits add up to more than three days.
        let now = product.store.ping().await.expect("it answers").now;
        if let Some(left) = task.run_at.and_then(|at| (at - now).to_std().ok()) {
            product.jump(left.saturating_sub(Duration::from_secs(1)));
        }
    }
}

fn bodies(sent: &Mutex<Vec<Post>>) -> Vec<Value> {
    sent.lock().expect("not poisoned").iter().map(|post| post.body.to().expect("JSON")).collect()
}

#[tokio::test(start_paused = true)]
async fn a_completion_webhook_tells_how_the_task_ended() {
    let (product, sent) = product(vec![]);
    let _upkeep = tokio::spawn(product.upkeep().run(Default::default()));
    let _worker = product.worker(4);
    let mut echo = submission("demo.echo", json!({ "said": "hello" }));
    echo.metadata = Json::parse(r#"{"order":7}"#).ok();
    let id = submit(&product, echo, &callback(&[])).await;
    let task = product.end_of(id).await;
    let delivered = webhook(&product).await;
    let body = bodies(&sent).pop().expect("a message");
    assert_eq!((&body["type"], &body["data"]["id"]), (&json!("task.completed"), &json!(id.0)), "{body}");
    let ended = task.completed_at.expect("it has ended").to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
    assert_eq!((&body["timestamp"], &body["data"]["completed_at"]), (&json!(ended), &json!(ended)));
    for (field, value) in [
        ("type", json!("demo.echo")),
        ("status", json!("COMPLETED")),
        ("result", json!({ "said": "hello" })),
        ("result_omitted", json!(false)),
        ("error", Value::Null),
        ("metadata", json!({ "order": 7 })),
        ("attempt", json!(1)),
    ] {
        assert_eq!(body["data"][field], value, "{field} of {body}");
    }
    let result: Value = delivered.result.expect("a result").to().expect("JSON");
    assert_eq!((&result["event"], &result["http_status"]), (&json!("task.completed"), &json!(200)));
}

#[tokio::test(start_paused = true)]
async fn only_the_ends_that_were_asked_for_are_told() {
    use CallbackEvent::{Cancelled, Completed, Failed};
    let wrong = json!({ "x": 1, "y": 0, "operation": "divide" });
    for (events, told) in [(vec![Failed], true), (vec![Completed, Cancelled], false), (vec![], true)] {
        let (product, sent) = product(vec![]);
        let _upkeep = tokio::spawn(product.upkeep().run(Default::default()));
        let _worker = product.worker(4);
        let task = submission("demo.simple_calculation", wrong.clone());
        submit(&product, task, &callback(&events)).await;
        let webhook = webhook(&product).await;
        assert_eq!(webhook.status, Status::Completed, "{:?}", webhook.error);
        let bodies = bodies(&sent);
        assert_eq!(bodies.len(), usize::from(told), "{events:?}");
        if let Some(body) = bodies.first() {
            assert_eq!(body["type"], "task.failed");
            assert_eq!(body["data"]["error"]["code"], "division_by_zero", "{body}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_webhook_is_tried_as_standard_webhooks_recommends_and_then_left_to_a_person() {
    for (failures, end) in [(3, Status::Completed), (10, Status::Failed)] {
        let (product, sent) = product(vec![missed(Missed::Refused(500)); failures]);
        let _upkeep = tokio::spawn(product.upkeep().run(Default::default()));
        let _worker = product.worker(4);
        let id = submit(&product, submission("demo.noop", Value::Null), &callback(&[])).await;
        product.end_of(id).await;
        let webhook = webhook(&product).await;
        assert_eq!(webhook.status, end, "{:?}", webhook.error);
        let sent = sent.lock().expect("not poisoned").clone();
        assert_eq!(sent.len(), 10.min(failures + 1));
        assert!(sent.iter().all(|post| post.id == sent[0].id && post.body == sent[0].body), "{sent:?}");
        let waits = [5.0, 300.0, 1_800.0, 7_200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0];
        for (pair, most) in sent.windows(2).zip(waits) {
            let waited = (pair[1].timestamp - pair[0].timestamp).as_seconds_f64();
            assert!(waited >= most * 0.9 && waited <= most + 2.0, "{waited} s where {most} s are due");
        }
        if end == Status::Failed {
            assert_eq!(webhook.error.expect("an error").code, "webhook.refused");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_result_that_is_too_large_is_left_out() {
    let (product, sent) = product(vec![]);
    let _upkeep = tokio::spawn(product.upkeep().run(Default::default()));
    let _worker = product.worker(4);
    submit(&product, submission("demo.echo", json!("x".repeat(3_000))), &callback(&[])).await;
    webhook(&product).await;
    let body = bodies(&sent).pop().expect("a message");
    assert_eq!((&body["data"]["result"], &body["data"]["result_omitted"]), (&Value::Null, &json!(true)));
    assert_eq!(body["data"]["status"], "COMPLETED");
}

#[tokio::test(start_paused = true)]
async fn asking_again_makes_no_second_webhook_and_another_callback_does() {
    let (product, _) = product(vec![]);
    let mut ids = Vec::new();
    for url in ["https://example.org/a", "https://example.org/a", "https://example.org/b"] {
        let mut task = submission("demo.noop", Value::Null);
        let key = IdempotencyKey::new("once").expect("a key");
        task.idempotency = Some(Idempotency { key, fingerprint: [1; 32] });
        ids.push(submit(&product, task, &Callback { url: url.into(), events: vec![] }).await);
    }
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(webhooks(&product).await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_promised_is_refused_and_nothing_is_stored() {
    let (product, _) = product(vec![]);
    let tenant = Tenant::default();
    for (url, part) in
        [("http://10.0.0.1/", "private"), ("nonsense", "no URL"), ("https://u:sesame@a.example", "user name")]
    {
        let callback = Callback { url: url.into(), events: vec![] };
        let task = submission("demo.noop", Value::Null);
        let refusal =
            product.tasks.submit_with_callback(&tenant, task.into(), &callback).await.expect_err("refused");
        let SubmitError::Invalid(fields) = &refusal else { panic!("{refusal}") };
        assert_eq!(fields[0].field, "callback_url");
        assert!(fields[0].message.contains(part) && !fields[0].message.contains("sesame"), "{refusal}");
    }
    // Nobody but the runner submits the type.
    let direct = submission(WEBHOOK_TYPE, json!({ "task": 1, "url": "https://example.org" }));
    let refusal = product.tasks.submit(&tenant, vec![direct]).await.expect_err("refused").to_string();
    assert!(refusal.starts_with("type: ") && !refusal.contains("known: webhook"), "{refusal}");
    assert!(product.tasks.counts(&tenant).await.expect("counted").is_empty());
}
