//! Calls of models: kept with their attempt, and summed over days.

use std::{sync::Arc, time::Duration};

use application::ports::{Applied, DeleteOutcome, Retry, Settlement, Store};
use chrono::Days;
use domain::{
    Day, Event, Failure, TaskId, Tenant,
    ai::{ModelCall, Operation, Price, ProviderName, Spending, Usage, UsageGrouping},
};

use crate::{
    Harness,
    fixtures::*,
    flows::{batch, flow},
};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn call(provider: &str, model: &str, input_tokens: u64, output_tokens: u64) -> ModelCall {
    let provider = ProviderName::new(provider).expect("a name");
    let mut call = ModelCall::new(Operation::Chat, provider, model);
    call.response_model = Some(format!("{model}-é \"1\""));
    call.finish_reason = Some("stop".to_owned());
    call.charge(Usage { input_tokens, output_tokens, estimated: false }, Price::per_million(1.0, 2.0));
    call
}

fn with_calls(settlement: Settlement, calls: &[ModelCall]) -> Settlement {
    Settlement { calls: calls.to_vec(), ..settlement }
}

async fn today(store: &dyn Store) -> Day {
    now(store).await.date_naive()
}

async fn groups(
    store: &dyn Store,
    tenant: &Tenant,
    days: (Day, Day),
    by: UsageGrouping,
) -> Vec<(String, Spending)> {
    let groups = store.usage(tenant, days, by, 100).await.expect("usage");
    groups.into_iter().map(|group| (group.key, group.spending)).collect()
}

async fn total(store: &dyn Store, tenant: &Tenant) -> Spending {
    let (first, last) = (today(store).await - Days::new(300), today(store).await + Days::new(300));
    let groups = groups(store, tenant, (first, last), UsageGrouping::Model).await;
    groups.into_iter().map(|(_, spending)| spending).fold(Spending::default(), Spending::plus)
}

async fn calls_of(store: &dyn Store, id: TaskId) -> Vec<Vec<ModelCall>> {
    let attempts = store.attempts(&Tenant::default(), id).await.expect("attempts").expect("known");
    attempts.into_iter().map(|attempt| attempt.calls).collect()
}

/// An attempt's calls come back as they were told, whether it ended the task or not; others have none.
pub async fn calls_are_kept_with_their_attempt(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let claimed = running(store, worker).await;
    let mut failed = call("main", "m", 9, 0);
    (failed.error, failed.finish_reason, failed.cost_micros) = (Some("truncated".to_owned()), None, None);
    let first = [failed, call("second", "n", 5, 7)];
    settled(store, worker, with_calls(release(&claimed), &first)).await;
    let again = start(store, worker, claimed.id).await;
    let last = [call("main", "m", 1, 2)];
    settled(store, worker, with_calls(success(&again, "1"), &last)).await;
    assert_eq!(calls_of(store, claimed.id).await, [first.to_vec(), last.to_vec()]);
    let plain = running(store, worker).await;
    settled(store, worker, success(&plain, "1")).await;
    assert_eq!(calls_of(store, plain.id).await, [Vec::<ModelCall>::new()]);
}

/// Sums are exact, by model, provider and day; the dearest first, days in their order.
pub async fn usage_is_summed_by_group_and_day(harness: &dyn Harness) {
    let store = &*harness.store();
    let tenant = Tenant::default();
    let worker = worker(store).await;
    let first = today(store).await;
    submit_many(store, 3).await;
    let tasks = claim_next(store, worker, &[("q", 3)], 3).await;
    let batch = [
        with_calls(success(&tasks[0], "1"), &[call("a", "small", 10, 1), call("b", "big", 100, 10)]),
        with_calls(retry(&tasks[1], SECOND), &[call("a", "big", 1_000, 100)]),
        success(&tasks[2], "1"),
    ];
    assert_eq!(store.settle(worker, &batch).await.expect("settle"), [Applied::Yes; 3]);
    harness.advance(DAY).await;
    let next = today(store).await;
    let mut unpriced = call("b", "small", 3, 3);
    (unpriced.cost_micros, unpriced.usage.estimated) = (None, true);
    let fresh = super::fixtures::worker(store).await;
    let late = running(store, fresh).await;
    settled(store, fresh, with_calls(success(&late, "1"), &[unpriced])).await;

    let sum = |calls, input_tokens, output_tokens, cost_micros| Spending {
        calls,
        input_tokens,
        output_tokens,
        cost_micros,
        ..Spending::default()
    };
    let odd = Spending { estimated_calls: 1, unpriced_calls: 1, ..sum(1, 3, 3, 0) };
    let both = (first, next);
    let by_model = groups(store, &tenant, both, UsageGrouping::Model).await;
    let small = sum(1, 10, 1, 12).plus(odd);
    assert_eq!(by_model, [("big".to_owned(), sum(2, 1_100, 110, 1_320)), ("small".to_owned(), small)]);
    let by_provider = groups(store, &tenant, both, UsageGrouping::Provider).await;
    let b = sum(1, 100, 10, 120).plus(odd);
    assert_eq!(by_provider, [("a".to_owned(), sum(2, 1_010, 101, 1_212)), ("b".to_owned(), b)]);
    let by_day = groups(store, &tenant, both, UsageGrouping::Day).await;
    assert_eq!(by_day, [(first.to_string(), sum(3, 1_110, 111, 1_332)), (next.to_string(), odd)]);
    assert_eq!(groups(store, &tenant, (next, next), UsageGrouping::Day).await.len(), 1);
    assert_eq!(store.usage(&tenant, both, UsageGrouping::Model, 1).await.expect("usage").len(), 1);
    assert!(groups(store, &self::tenant("other"), both, UsageGrouping::Day).await.is_empty());
}

/// A settlement that did not apply, or had applied before, counts nothing.
pub async fn only_what_applies_is_counted(harness: &dyn Harness) {
    let store = &*harness.store();
    let tenant = Tenant::default();
    let (holder, other) = (worker(store).await, worker(store).await);
    let claimed = running(store, holder).await;
    let told = with_calls(success(&claimed, "1"), &[call("a", "m", 10, 0)]);
    assert_eq!(settle(store, other, told.clone()).await, Applied::Stale);
    assert_eq!(total(store, &tenant).await, Spending::default());
    for _ in 0..2 {
        assert_eq!(settle(store, holder, told.clone()).await, Applied::Yes);
    }
    assert_eq!(store.settle(holder, &[told.clone(), told]).await.expect("settle"), [Applied::Yes; 2]);
    assert_eq!(total(store, &tenant).await.input_tokens, 10);
    // Refused for a cancellation, and then sent with it: counted once.
    let claimed = running(store, holder).await;
    store.cancel(&tenant, &[claimed.id]).await.expect("cancel");
    let calls = [call("a", "m", 100, 0)];
    assert_eq!(settle(store, holder, with_calls(release(&claimed), &calls)).await, Applied::CancelRequested);
    assert_eq!(total(store, &tenant).await.input_tokens, 10);
    settled(store, holder, with_calls(by_event(&claimed, true, Event::StopCancelled), &calls)).await;
    assert_eq!(total(store, &tenant).await.input_tokens, 110);
    assert_eq!(calls_of(store, claimed.id).await, [calls.to_vec()]);
}

/// What was spent stays spent when a task is deleted; one that is run again keeps its calls.
pub async fn sums_outlive_their_tasks(harness: &dyn Harness) {
    let store = &*harness.store();
    let tenant = Tenant::default();
    let worker = worker(store).await;
    let claimed = running(store, worker).await;
    let calls = [call("a", "m", 10, 0)];
    let failed = failure(&claimed, Failure::permanent("bad", "bad input"));
    settled(store, worker, with_calls(failed, &calls)).await;
    store.retry(&tenant, &[Retry { id: claimed.id, input: None }]).await.expect("retry");
    let again = start(store, worker, claimed.id).await;
    assert_eq!(calls_of(store, claimed.id).await, [calls.to_vec(), Vec::new()]);
    settled(store, worker, with_calls(success(&again, "1"), &calls)).await;
    assert_eq!(store.delete(&tenant, &[claimed.id]).await.expect("delete"), [DeleteOutcome::Deleted]);
    assert_eq!(total(store, &tenant).await.input_tokens, 20);
}

/// Many workers add to one day at once, and nothing is lost.
pub async fn concurrent_sums_are_exact(harness: &dyn Harness) {
    let store = harness.store();
    let workers = futures_util::future::join_all((0..4).map(|_| {
        let store = Arc::clone(&store);
        async move {
            let id = worker(&*store).await;
            for _ in 0..10 {
                let claimed = running(&*store, id).await;
                let calls = [call("b", "m", 3, 0), call("a", "n", 4, 0)];
                settled(&*store, id, with_calls(success(&claimed, "1"), &calls)).await;
            }
        }
    }));
    workers.await;
    assert_eq!(total(&*store, &Tenant::default()).await.input_tokens, 280);
}

/// A batch comes to what its items do, failed attempts included, and those of no other.
pub async fn a_batch_comes_to_what_its_items_do(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let ids = flow(store, &batch(2)).await;
    let (batch, items) = (ids[0], &ids[1..]);
    let other = running(store, worker).await;
    settled(store, worker, with_calls(success(&other, "1"), &[call("main", "m", 100, 100)])).await;
    assert_eq!(store.batch_usage(&Tenant::default(), batch).await, Ok(Spending::default()));
    let first = start(store, worker, items[0]).await;
    settled(store, worker, with_calls(release(&first), &[call("main", "m", 1, 2)])).await;
    for item in items {
        let claimed = start(store, worker, *item).await;
        settled(store, worker, with_calls(success(&claimed, "1"), &[call("main", "m", 10, 20)])).await;
    }
    let sum = store.batch_usage(&Tenant::default(), batch).await.expect("a sum");
    assert_eq!((sum.calls, sum.input_tokens, sum.output_tokens), (3, 21, 42));
    assert_eq!(store.batch_usage(&tenant("acme"), batch).await, Ok(Spending::default()));
}
