//! What a submission promises.

use std::time::Duration;

use chrono::TimeDelta;
use domain::{Backoff, ErrorClass, Limits, NewTask, OwnTerms, RetryPolicy, Start, Status, TaskType, Tenant};

use crate::{Harness, fixtures::*};

/// Ids rise in the order given, inside a batch and from batch to batch; receipts tell the store's time.
pub async fn ids_rise_in_the_order_given(harness: &dyn Harness) {
    let store = &*harness.store();
    let mut all = Vec::new();
    for batch in 1..=5 {
        let tasks: Vec<_> = (0..batch).map(|n| task_in(&format!("q{n}"), 9 - n)).collect();
        let receipts = receipts(store, &tasks).await;
        assert_eq!(receipts.len(), tasks.len());
        let at = now(store).await;
        assert!(receipts.iter().all(|receipt| receipt.created_at == at && receipt.run_at.is_none()));
        let ids: Vec<_> = receipts.iter().map(|receipt| receipt.id).collect();
        let kept = store.read(&Tenant::default(), &ids).await.expect("read");
        let queues: Vec<_> = kept.iter().map(|task| task.queue.clone()).collect();
        assert_eq!(queues, tasks.iter().map(|task| task.queue.clone()).collect::<Vec<_>>());
        all.extend(ids);
    }
    assert!(all[0].0 > 0);
    assert!(all.windows(2).all(|pair| pair[0] < pair[1]), "{all:?}");
}

/// No task, no change.
pub async fn an_empty_batch_is_nothing(harness: &dyn Harness) {
    let store = &*harness.store();
    assert_eq!(store.submit(&[]).await.expect("submit"), []);
    assert_eq!(everything(store, &Tenant::default()).await, []);
    assert_eq!(store.counts(&Tenant::default()).await.expect("counts"), []);
}

/// The id of a deleted task is not given again, even when it was the highest.
pub async fn ids_are_never_reused(harness: &dyn Harness) {
    let store = &*harness.store();
    let first = submit_one(store, task()).await;
    store.delete(&Tenant::default(), &[first]).await.expect("delete");
    assert!(submit_one(store, task()).await > first);
}

/// What was submitted is read back, and nothing has happened to it yet.
pub async fn every_field_comes_back(harness: &dyn Harness) {
    let store = &*harness.store();
    let at = now(store).await;
    let submitted = NewTask {
        tenant: tenant("acme"),
        task_type: TaskType::new("ai.text_generation").expect("a valid type"),
        queue: queue("ai_processing"),
        priority: priority(0),
        input: json(r#"{"prompt":"Explain"}"#),
        metadata: Some(json(r#"{"order":"7"}"#)),
        start: Start::Now,
        expires_at: Some(at + TimeDelta::hours(1)),
        limits: Limits {
            max_attempts: 7,
            soft_time_limit: Some(Duration::from_micros(1_500_001)),
            time_limit: Duration::from_millis(2_750),
        },
        own: OwnTerms {
            retry: Some(RetryPolicy {
                backoff: Backoff::Fixed(Duration::from_micros(60_000_001)),
                jitter: false,
                never: vec![ErrorClass::TimedOut],
            }),
            keep_for: Some(Duration::from_micros(86_400_000_001)),
        },
        idempotency: None,
        unique: None,
        share: None,
    };
    let bare = NewTask {
        limits: Limits { max_attempts: 1, soft_time_limit: None, time_limit: Limits::LONGEST },
        ..task()
    };
    let ids = submit(store, &[submitted.clone(), bare.clone()]).await;
    let kept = store.read(&tenant("acme"), &ids[..1]).await.expect("read").remove(0);
    assert_eq!(kept.id, ids[0]);
    assert_eq!(kept.tenant, submitted.tenant);
    assert_eq!(kept.task_type, submitted.task_type);
    assert_eq!(kept.queue, submitted.queue);
    assert_eq!(kept.priority, submitted.priority);
    assert_eq!(kept.input, submitted.input);
    assert_eq!(kept.metadata, submitted.metadata);
    assert_eq!(kept.expires_at, submitted.expires_at);
    assert_eq!(kept.limits, submitted.limits);
    assert_eq!(kept.own, submitted.own);
    assert_eq!(kept.created_at, at);
    assert_eq!((kept.status, kept.attempt, kept.cancel_requested), (Status::Pending, 0, false));
    assert_eq!((&kept.result, &kept.details, &kept.error, &kept.progress), (&None, &None, &None, &None));
    assert_eq!((kept.updated_at, kept.run_at, kept.started_at, kept.completed_at), (None, None, None, None));
    let plain = read(store, ids[1]).await;
    assert_eq!(plain.own, OwnTerms::default());
    assert_eq!((plain.limits, plain.metadata, plain.expires_at), (bare.limits, None, None));
}

/// Now, a moment that has passed, this very moment, no wait at all: due.
pub async fn a_task_that_is_due_waits_as_pending(harness: &dyn Harness) {
    let store = &*harness.store();
    let at = now(store).await;
    let starts =
        [Start::Now, Start::At(at - TimeDelta::days(1)), Start::At(at), Start::After(Duration::ZERO)];
    let tasks = starts.map(|start| NewTask { start, ..task() });
    for receipt in receipts(store, &tasks).await {
        assert_eq!(receipt.run_at, None);
        let kept = read(store, receipt.id).await;
        assert_eq!((kept.status, kept.run_at, kept.updated_at), (Status::Pending, None, None));
    }
    assert_eq!(store.waiting(&queue("q"), 10).await.expect("waiting").len(), starts.len());
}

/// A task for later says when, by the store's clock, and waits for no worker until then.
pub async fn a_task_for_later_waits_as_scheduled(harness: &dyn Harness) {
    let store = &*harness.store();
    let at = now(store).await;
    let starts = [Start::At(at + TimeDelta::microseconds(1)), Start::After(Duration::from_secs(90))];
    let moments = [at + TimeDelta::microseconds(1), at + TimeDelta::seconds(90)];
    let receipts = receipts(store, &starts.map(|start| NewTask { start, ..task() })).await;
    for (receipt, moment) in receipts.iter().zip(moments) {
        assert_eq!((receipt.run_at, receipt.created_at), (Some(moment), at));
        let kept = read(store, receipt.id).await;
        assert_eq!((kept.status, kept.run_at, kept.updated_at), (Status::Scheduled, Some(moment), None));
    }
    assert_eq!(store.waiting(&queue("q"), 10).await.expect("waiting"), []);
}

/// Spaces, order of keys, number forms, repeated keys: kept as they came.
pub async fn json_is_kept_byte_for_byte(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let text = "{ \"b\":1.0,\t\"a\" : [ 1e2, -0, 1E+2,12345678901234567890123 ] ,\n\"a\":null, \"\\u00e9\":\"é\\/\" }";
    let submitted = NewTask { input: json(text), metadata: Some(json(text)), ..task() };
    let id = submit_one(store, submitted).await;
    let claimed = start(store, worker, id).await;
    assert_eq!(claimed.input.as_str(), text);
    let mut done = success(&claimed, text);
    done.details = Some(json(text));
    settled(store, worker, done).await;
    let kept = read(store, id).await;
    let texts = [Some(kept.input), kept.metadata, kept.result, kept.details];
    assert!(texts.iter().all(|kept| kept.as_ref().is_some_and(|kept| kept.as_str() == text)), "{texts:?}");
    for scalar in ["null", "\"\"", "0", "[]", " true "] {
        let id = submit_one(store, NewTask { input: json(scalar), ..task() }).await;
        assert_eq!(read(store, id).await.input.as_str(), scalar);
    }
}

/// Every plane of Unicode, what looks like SQL, and a megabyte.
pub async fn strange_text_and_big_documents_are_kept(harness: &dyn Harness) {
    let store = &*harness.store();
    let strange = "\"'; DROP TABLE task; -- $1 ?1 :a \\u0001 \\ud83d\\ude00 😀 \u{10FFFF} \u{FFFE} \u{202E}rtl é e\u{301} \u{7F} %s {}\"";
    let big = format!("\"{}\"", "é😀x\\n".repeat(120_000));
    assert!(big.len() > 1_000_000);
    let tasks = [strange, &big].map(|text| NewTask { input: json(text), ..task() });
    let ids = submit(store, &tasks).await;
    for (id, submitted) in ids.iter().zip(&tasks) {
        assert!(read(store, *id).await.input == submitted.input, "the text came back changed");
    }
}

/// Thousands at once.
pub async fn a_big_batch_is_kept_whole(harness: &dyn Harness) {
    let store = &*harness.store();
    let ids = submit_many(store, 3_000).await;
    assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
    let kept = store.read(&Tenant::default(), &ids).await.expect("read");
    assert_eq!(kept.iter().map(|task| task.id).collect::<Vec<_>>(), ids);
    assert_eq!(store.counts(&Tenant::default()).await.expect("counts")[0].count, 3_000);
}

/// Moments are whole microseconds in UTC, before 1970 and far ahead as well.
pub async fn times_are_kept_in_microseconds(harness: &dyn Harness) {
    let store = &*harness.store();
    harness.advance(Duration::from_micros(1_000_001)).await;
    let before = now(store).await;
    harness.advance(Duration::from_micros(1)).await;
    let at = now(store).await;
    assert_eq!(at - before, TimeDelta::microseconds(1));
    assert_eq!(at.timestamp_subsec_nanos() % 1_000, 0);
    let far = "9999-12-31T23:59:59.999999Z".parse().expect("a moment");
    let long_ago = "1969-12-31T23:59:59.999999Z".parse().expect("a moment");
    let later = NewTask { start: Start::At(far), expires_at: Some(far), ..task() };
    let past = NewTask { expires_at: Some(long_ago), ..task() };
    let ids = submit(store, &[later, past]).await;
    let kept = read(store, ids[0]).await;
    assert_eq!((kept.run_at, kept.expires_at, kept.created_at), (Some(far), Some(far), at));
    assert_eq!(read(store, ids[1]).await.expires_at, Some(long_ago));
    // Finer moments than the store keeps are rounded, not refused.
    let fine = at + TimeDelta::nanoseconds(1_234_567_890);
    let id = submit_one(store, NewTask { start: Start::At(fine), ..task() }).await;
    let rounded = read(store, id).await.run_at.expect("scheduled");
    assert!((rounded - fine).abs() < TimeDelta::microseconds(1), "{rounded} for {fine}");
}
