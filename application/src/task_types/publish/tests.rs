use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use domain::{
    Json, Routes, Status, TaskType, Tenant,
    outbound::{Missed, OutboundRules},
};
use serde_json::{Value, json};

use super::Publishing;
use crate::{
    ports::{Claim, Delivered, MockOutbound, NotDelivered, Patience, Post, Retry, UpkeepStore, WorkStore},
    task_types::{built_in, publishing, tests::silent},
    tasks::{Submission, SubmitError},
    testing::{Product, profile},
};

pub(in crate::task_types) type Answer = Result<Delivered, NotDelivered>;

pub(in crate::task_types) fn accepted() -> Answer {
    Ok(Delivered { status: 200, text: "ok".into(), signed: true })
}

pub(in crate::task_types) fn missed(missed: Missed) -> Answer {
    Err(NotDelivered { missed, message: format!("as the test says: {missed:?}"), retry_after: None })
}

/// A product whose way out answers with these in turn, then with success; and what went out.
pub(in crate::task_types) fn product(answers: Vec<Answer>) -> (Product, Arc<Mutex<Vec<Post>>>) {
    let (answers, sent) = (Mutex::new(VecDeque::from(answers)), Arc::<Mutex<Vec<Post>>>::default());
    let mut outbound = MockOutbound::new();
    outbound.expect_target().returning(|url| OutboundRules::default().target(url));
    let sending = Arc::clone(&sent);
    outbound.expect_post().returning(move |post| {
        sending.lock().expect("not poisoned").push(post.clone());
        answers.lock().expect("not poisoned").pop_front().unwrap_or_else(accepted)
    });
    outbound.expect_largest().returning(|| 2_000);
    let outbound = Arc::new(outbound);
    let product = Product::with(|store, signals| {
        let routes = Arc::new(Routes::default());
        let publishing =
            publishing(&Publishing { outbound, store: Arc::clone(&store), order: None, signals, routes });
        publishing.into_iter().chain(built_in(&silent(store)))
    });
    (product, sent)
}

fn json(value: Value) -> Json {
    Json::from_value(&value).expect("JSON")
}

fn message(retry: &str) -> Json {
    json(json!({ "url": "https://example.org/hook", "body": { "n": 1 }, "retry": retry }))
}

/// A worker takes what waits and is never heard of again.
async fn take_and_die(product: &Product) {
    let worker = product.store.register(&profile("dying@host")).await.expect("registered");
    let queues = product.store.waiting_queues(&[]).await.expect("readable");
    let claim = Claim::Next {
        queues: queues.into_iter().map(|queue| (queue, 1)).collect(),
        limit: 1,
        patience: Patience::Any,
    };
    assert_eq!(product.store.claim(worker, &claim).await.expect("claimed").len(), 1);
}

fn ids(sent: &Mutex<Vec<Post>>) -> Vec<String> {
    sent.lock().expect("not poisoned").iter().map(|post| post.id.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn publishing_repeats_only_what_was_not_sent_unless_it_is_asked_for() {
    for (answer, retry, attempts, end, code) in [
        (Missed::NothingSent, "unsent", 2, Status::Completed, None),
        (Missed::KeptBack, "always", 1, Status::Failed, Some("publish.kept_back")),
        (Missed::MaybeSent, "unsent", 1, Status::Failed, Some("publish.maybe_sent")),
        (Missed::Refused(503), "unsent", 1, Status::Failed, Some("publish.refused")),
        (Missed::Refused(410), "always", 1, Status::Failed, Some("publish.refused")),
        (Missed::MaybeSent, "always", 2, Status::Completed, None),
        (Missed::Refused(503), "always", 2, Status::Completed, None),
    ] {
        let (product, sent) = product(vec![missed(answer)]);
        let _worker = product.worker(1);
        let _upkeep = tokio::spawn(product.upkeep().run(Default::default()));
        let id = product.submit("publish.single", |task| task.input = message(retry)).await;
        let task = product.end_of(id).await;
        let seen = task.error.as_ref().map(|error| error.code.as_str());
        assert_eq!((task.status, task.attempt, seen), (end, attempts, code), "{answer:?} {retry}");
        let ids = ids(&sent);
        assert_eq!(ids.len(), attempts as usize, "{answer:?} {retry}");
        assert!(ids.iter().all(|id| *id == ids[0]), "each try has the same id: {ids:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_result_says_how_a_message_was_taken() {
    let (product, sent) = product(vec![]);
    let _worker = product.worker(1);
    let input =
        Json::parse(r#"{"url":"https://example.org/a","body":{ "n": 1.0e2 },"headers":{"X-Key":"k"}}"#);
    let id = product.submit("publish.single", |task| task.input = input.expect("JSON")).await;
    let task = product.end_of(id).await;
    let result: Value = task.result.expect("a result").to().expect("JSON");
    let sent = sent.lock().expect("not poisoned").clone();
    assert_eq!(
        result,
        json!({ "webhook_id": sent[0].id.as_str(), "http_status": 200, "signed": true, "response": "ok" })
    );
    assert_eq!(sent[0].body.as_str(), r#"{ "n": 1.0e2 }"#, "byte for byte");
    assert_eq!(sent[0].headers, [("X-Key".to_owned(), "k".to_owned())]);
    assert_eq!(Some(sent[0].timestamp), task.started_at);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_was_broken_off_is_for_a_person_to_decide() {
    for (retry, sends, end) in [("unsent", 0, Status::Failed), ("always", 1, Status::Completed)] {
        let (product, sent) = product(vec![]);
        // A worker takes the task and dies.
        let id = product.submit("publish.single", |task| task.input = message(retry)).await;
        take_and_die(&product).await;
        let _upkeep = tokio::spawn(product.upkeep().run(Default::default()));
        let _worker = product.worker(1);
        let task = product.end_of(id).await;
        assert_eq!((task.status, task.attempt), (end, 2), "{retry}: {:?}", task.error);
        assert_eq!(ids(&sent).len(), sends, "{retry}");
        if end == Status::Failed {
            let error = task.error.expect("an error");
            assert_eq!(error.code, "publish.maybe_sent");
            assert!(error.message.contains("attempt 1") && error.message.contains("CRASHED"), "{error:?}");
            // The person decides.
            product.tasks.retry(&Tenant::default(), Retry { id, input: None }).await.expect("retried");
            assert_eq!(product.end_of(id).await.status, Status::Completed);
            assert_eq!(ids(&sent).len(), 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_has_an_outcome_per_item_also_on_a_single_slot() {
    for slots in [1, 10] {
        let (product, sent) = product(vec![accepted(), missed(Missed::Refused(400))]);
        let _upkeep = tokio::spawn(product.upkeep().run(Default::default()));
        let _worker = product.worker(slots);
        let input =
            json(json!({ "url": "https://example.org/hook", "items": [{ "n": 0 }, { "n": 1 }, { "n": 2 }] }));
        let id = product.submit("publish.batch", |task| task.input = input).await;
        let task = product.end_of(id).await;
        assert_eq!(task.status, Status::Completed, "{:?}", task.error);
        let result: Value = task.result.expect("a result").to().expect("JSON");
        let counts = (&result["total"], &result["delivered"], &result["failed"]);
        assert_eq!(counts, (&json!(3), &json!(2), &json!(1)), "{result}");
        let items = result["items"].as_array().expect("items");
        let failed: Vec<_> = items.iter().filter(|item| item["status"] == "FAILED").collect();
        let [failed] = failed.as_slice() else { panic!("one failed: {result}") };
        assert_eq!(failed["error"]["code"], "publish.refused");
        // The failed item waits for a person, as a task of its own.
        let item = product.read(domain::TaskId(failed["task_id"].as_i64().expect("an id"))).await;
        assert_eq!((item.status, item.task_type.as_str()), (Status::Failed, "publish.single"));
        let notes: Value = item.metadata.expect("metadata").to().expect("JSON");
        assert_eq!(notes, json!({ "publish_batch": id.0, "item": failed["index"] }));
        let sent = sent.lock().expect("not poisoned").clone();
        let mut bodies: Vec<_> = sent.iter().map(|post| post.body.as_str().to_owned()).collect();
        bodies.sort();
        assert_eq!(bodies, [r#"{"n":0}"#, r#"{"n":1}"#, r#"{"n":2}"#]);
    }
}

#[tokio::test(start_paused = true)]
async fn wrong_messages_are_refused_before_anything_is_stored() {
    let (product, _) = product(vec![]);
    let url = "https://example.org/";
    for (task_type, input, part) in [
        ("publish.single", json!({ "url": "http://127.0.0.1/", "body": 1 }), "loopback"),
        ("publish.single", json!({ "url": "http://169.254.169.254/", "body": 1 }), "metadata"),
        ("publish.single", json!({ "url": "ftp://example.org", "body": 1 }), "ftp"),
        ("publish.single", json!({ "url": "https://u:p@example.org", "body": 1 }), "user name"),
        ("publish.single", json!({ "url": url }), "body"),
        ("publish.single", json!({ "url": url, "body": 1, "retry": "sometimes" }), "sometimes"),
        ("publish.single", json!({ "url": url, "body": 1, "headers": { "Host": "x" } }), "Host"),
        ("publish.batch", json!({ "url": url }), "no item"),
        (
            "publish.batch",
            json!({ "url": url, "items": [1], "targets": [{ "url": url, "body": 1 }] }),
            "either",
        ),
        ("publish.batch", json!({ "items": [1] }), "go with url"),
        ("publish.batch", json!({ "url": url, "items": vec![1; 1001] }), "1001"),
        (
            "publish.batch",
            json!({ "targets": [{ "url": url, "body": 1 }, { "url": "http://[::1]", "body": 1 }] }),
            "item 1: url",
        ),
    ] {
        let submission = Submission::new(TaskType::new(task_type).expect("a type"), json(input.clone()));
        let refusal = product.tasks.submit(&Tenant::default(), vec![submission]).await.expect_err("refused");
        let SubmitError::Invalid(fields) = &refusal else { panic!("{refusal}") };
        assert_eq!(fields[0].field, "input");
        assert!(fields[0].message.contains(part), "{input}: {refusal}");
    }
}
