//! Quotas of providers: what one caller takes, another does not get.

use std::sync::Arc;

use application::ports::{Metered, Store};
use domain::ai::{Budget, Caller, InFlight, Meter, PerMinute, Period, Quota, Refusal, Step, Verdict};

use crate::{Harness, fixtures::*};

fn tokens(per_minute: u64) -> Quota {
    Quota { tokens: PerMinute::new(per_minute), burst: 10 * SECOND, ..Quota::NONE }
}

fn step(meter: &str, quota: Quota, step: Step) -> Metered {
    Metered { meter: meter.to_owned(), quota, step }
}

fn reserve(meter: &str, tokens_of_it: u64) -> Metered {
    step(meter, tokens(600), Step::Reserve { tokens: tokens_of_it, again: false })
}

async fn passed(store: &dyn Store, steps: &[Metered]) -> usize {
    let verdicts = store.meter(steps).await.expect("verdicts");
    assert_eq!(verdicts.len(), steps.len());
    verdicts.iter().filter(|verdict| **verdict == Verdict::Pass).count()
}

/// However many ask at once, no more passes than a burst; what is given back and what time brings passes later.
pub async fn no_more_passes_than_the_quota_has(harness: &dyn Harness) {
    let store = harness.store();
    let asking = (0..20).map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { passed(&*store, &[reserve("main/gpt-*", 10), reserve("other", 10)]).await })
    });
    let mut all = 0;
    for asked in asking.collect::<Vec<_>>() {
        all += asked.await.expect("asked");
    }
    assert_eq!(all, 20, "ten of each");
    let store = &*store;
    let verdicts = store.meter(&[reserve("main/gpt-*", 10)]).await.expect("a verdict");
    let [Verdict::Refused(Refusal::ComeBack { limit: ("tokens", 600), .. })] = verdicts[..] else {
        panic!("{verdicts:?}");
    };
    let settle = Step::Settle { reserved: 10, used: Some(0) };
    let back =
        [step("main/gpt-*", tokens(600), settle), reserve("main/gpt-*", 10), reserve("main/gpt-*", 10)];
    assert_eq!(passed(store, &back).await, 2, "the settlement, and one");
    harness.advance(SECOND).await;
    assert_eq!(passed(store, &vec![reserve("main/gpt-*", 10); 3]).await, 1);
}

/// A provider that wants to be left alone is by everybody, and by its own quota only.
pub async fn a_closed_meter_is_closed_for_all(harness: &dyn Harness) {
    let store = &*harness.store();
    let close = Step::Close {
        time: 5 * SECOND,
        code: "rate_limit_exceeded".to_owned(),
        message: "\"Slow\" down — é".to_owned(),
        by_rate: true,
    };
    assert_eq!(passed(store, &[step("main", Quota::NONE, close)]).await, 1);
    harness.advance(4 * SECOND).await;
    match &store.meter(&[reserve("main", 1), reserve("other", 1)]).await.expect("verdicts")[..] {
        [Verdict::Refused(Refusal::Closed { left, code, message, by_rate: true }), Verdict::Pass] => {
            assert_eq!((code.as_str(), message.as_str()), ("rate_limit_exceeded", "\"Slow\" down — é"));
            assert_eq!(*left, SECOND);
        }
        other => panic!("{other:?}"),
    }
    harness.advance(SECOND).await;
    assert_eq!(passed(store, &[reserve("main", 1)]).await, 1);
}

/// Meters that nobody uses go, and begin anew.
pub async fn meters_are_forgotten_when_nobody_uses_them(harness: &dyn Harness) {
    let store = &*harness.store();
    assert_eq!(passed(store, &[reserve("a", 100), reserve("b", 100)]).await, 2);
    harness.advance(60 * SECOND).await;
    assert_eq!(passed(store, &[reserve("b", 100)]).await, 1);
    assert_eq!(store.forget_meters(60 * SECOND, 10).await.expect("forgotten"), 0);
    harness.advance(SECOND).await;
    assert_eq!(store.forget_meters(60 * SECOND, 10).await.expect("forgotten"), 1);
    assert_eq!(passed(store, &[reserve("a", 100), reserve("b", 100)]).await, 1, "b is still used up");
}

/// What is read of meters is what the steps have made of them; there is none of which nobody has heard.
pub async fn meters_can_be_read(harness: &dyn Harness) {
    let store = &*harness.store();
    let budget = Budget { period: Period::Day, limit: 100, warn_at: 80 };
    assert_eq!(passed(store, &[step("budget é", Quota::NONE, Step::Spend { budget, most: 60 })]).await, 1);
    let names = ["nobody".to_owned(), "budget é".to_owned()];
    let read = store.read_meters(&names).await.expect("read");
    let spent = |(name, meter): &(String, Meter), now| (name.clone(), meter.spent(&budget, now).0);
    let now = now(store).await;
    assert_eq!(read.iter().map(|read| spent(read, now)).collect::<Vec<_>>(), [("budget é".to_owned(), 60)]);
}

/// Calls under way are counted over all processes, and with a process go its calls.
pub async fn calls_under_way_are_counted_over_all_processes(harness: &dyn Harness) {
    let store = &*harness.store();
    let terms = InFlight { most: 2, first_token: None };
    let enter = |caller| step("main under way", Quota::NONE, Step::Enter { terms, caller });
    assert_eq!(passed(store, &[enter(Caller(1)), enter(Caller(u64::MAX)), enter(Caller(1))]).await, 2);
    let verdicts = store.meter(&[enter(Caller(1))]).await.expect("a verdict");
    assert!(matches!(verdicts[..], [Verdict::Refused(Refusal::Full { most: 2, .. })]), "{verdicts:?}");
    let leave = step("main under way", Quota::NONE, Step::Leave { caller: Caller(1), lasted: Some(SECOND) });
    assert_eq!(passed(store, &[leave, enter(Caller(2))]).await, 2);
    harness.advance(InFlight::LEASE).await;
    assert_eq!(passed(store, &[enter(Caller(3)), enter(Caller(3))]).await, 2, "the others have gone");
}
