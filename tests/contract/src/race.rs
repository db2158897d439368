//! The same promises with several callers at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use application::ports::{Applied, CancelOutcome, Claim, Store};
use domain::{Event, Status, TaskId, Tenant};
use tokio::task::JoinSet;

use crate::{Harness, fixtures::*};

/// Longer than any of these takes, shorter than a person waits.
const PATIENCE: Duration = Duration::from_secs(60);

/// Eight workers empty two queues: each task goes to one of them, and none is forgotten.
pub async fn no_task_is_claimed_twice(harness: &dyn Harness) {
    const TASKS: usize = 300;
    let store = harness.store();
    let tasks: Vec<_> = (0..TASKS).map(|n| task_in(["a", "b"][n % 2], (n % 3) as i64)).collect();
    let expected: BTreeSet<_> = submit(&*store, &tasks).await.into_iter().collect();
    let taken = Arc::new(Mutex::new(Vec::new()));
    let mut workers = JoinSet::new();
    for _ in 0..8 {
        let (store, taken) = (store.clone(), taken.clone());
        workers.spawn(async move {
            let id = worker(&*store).await;
            // A claim may come back empty while others have the rest in hand, so look until all are taken.
            while taken.lock().expect("no panic").len() < TASKS {
                let claimed = claim_next(&*store, id, &[("a", 5), ("b", 5)], 7).await;
                taken.lock().expect("no panic").extend(ids(&claimed));
            }
        });
    }
    tokio::time::timeout(PATIENCE, workers.join_all()).await.expect("every task is taken in time");
    let taken = taken.lock().expect("no panic").clone();
    assert_eq!(taken.len(), TASKS, "none twice");
    assert_eq!(taken.into_iter().collect::<BTreeSet<_>>(), expected);
    assert_counts(&*store, &Tenant::default()).await;
}

/// Eight workers ask for the same ids.
pub async fn ids_are_claimed_once(harness: &dyn Harness) {
    let store = harness.store();
    let wanted = submit_many(&*store, 100).await;
    let mut claims = JoinSet::new();
    for n in 0..8 {
        let (store, mut wanted) = (store.clone(), wanted.clone());
        claims.spawn(async move {
            wanted.rotate_left(n * 10);
            let worker = worker(&*store).await;
            store.claim(worker, &Claim::Ids(wanted)).await.expect("claim")
        });
    }
    let claimed = tokio::time::timeout(PATIENCE, claims.join_all()).await.expect("in time").concat();
    assert_eq!(sorted_ids(&claimed), wanted);
    assert!(claimed.iter().all(|task| task.counters.attempt == 1));
}

/// A worker that completes, a client that cancels and a reaper that takes over: one of them wins, and each is told
/// the truth.
pub async fn the_first_end_wins(harness: &dyn Harness) {
    let store = harness.store();
    let worker = worker(&*store).await;
    submit_many(&*store, 60).await;
    let claimed = claim_next(&*store, worker, &[("q", 60)], 60).await;
    let mut racers = JoinSet::new();
    for task in claimed {
        let store = store.clone();
        racers.spawn(async move {
            let (done, lost) =
                (success(&task, "1"), by_event(&task, false, Event::LoseWorker { charged: false }));
            let ours = [task.id];
            let tenant = Tenant::default();
            let (complete, cancel, reap) = tokio::join!(
                spawn(&store, move |store| async move { settle(&*store, worker, done).await }),
                spawn(
                    &store,
                    move |store| async move { store.cancel(&tenant, &ours).await.expect("cancel")[0] }
                ),
                spawn(&store, move |store| async move { settle(&*store, worker, lost).await }),
            );
            (task.id, complete, cancel, reap)
        });
    }
    let outcomes = tokio::time::timeout(PATIENCE, racers.join_all()).await.expect("in time");
    for (id, complete, cancel, reap) in outcomes {
        let task = read(&*store, id).await;
        let story =
            format!("{id}: complete {complete:?}, cancel {cancel:?}, reap {reap:?}, now {:?}", task.status);
        match task.status {
            Status::Completed => {
                assert_eq!((complete, task.result), (Applied::Yes, Some(json("1"))), "{story}");
                assert_ne!(reap, Applied::Yes, "{story}");
                let truths = [CancelOutcome::Requested, CancelOutcome::AlreadyEnded(Status::Completed)];
                assert!(truths.contains(&cancel), "{story}");
            }
            // The reaper came first, and nobody had asked to stop it, or the client came after the reaper.
            Status::Pending => panic!("the cancellation is lost: {story}"),
            Status::Cancelled => {
                assert_eq!(
                    (complete, cancel, reap),
                    (Applied::Stale, CancelOutcome::Cancelled, Applied::Yes),
                    "{story}"
                );
            }
            Status::Scheduled | Status::Processing | Status::Failed | Status::Expired => panic!("{story}"),
        }
    }
    assert_counts(&*store, &Tenant::default()).await;
}

/// Runs a call in a task of its own, so that calls meet inside the store.
async fn spawn<T, F>(store: &Arc<dyn Store>, call: impl FnOnce(Arc<dyn Store>) -> F) -> T
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    tokio::spawn(call(store.clone())).await.expect("no panic")
}

/// Batches that are stored at the same time keep their order and answer their own ids.
pub async fn concurrent_submissions_do_not_mix(harness: &dyn Harness) {
    let store = harness.store();
    let mut clients = JoinSet::new();
    for client in 0..20 {
        let store = store.clone();
        clients.spawn(async move {
            let name = format!("client-{client}");
            let mut mine = Vec::new();
            for size in 1..=5 {
                let batch = submit(&*store, &vec![task_in(&name, 5); size]).await;
                assert!(batch.windows(2).all(|pair| pair[0] < pair[1]), "{batch:?}");
                mine.extend(batch);
            }
            (name, mine)
        });
    }
    let answers = tokio::time::timeout(PATIENCE, clients.join_all()).await.expect("in time");
    let mut all = BTreeSet::new();
    for (name, ids) in answers {
        let kept = store.read(&Tenant::default(), &ids).await.expect("read");
        assert!(kept.len() == ids.len() && kept.iter().all(|task| task.queue == queue(&name)), "{name}");
        all.extend(ids);
    }
    assert_eq!(all.len(), 20 * 15);
    assert_counts(&*store, &Tenant::default()).await;
}

/// Several reapers see the same silent worker: one of them buries it; a heartbeat either saves it or comes too late.
pub async fn one_burial_wins(harness: &dyn Harness) {
    let store = harness.store();
    for _ in 0..10 {
        let worker = worker(&*store).await;
        harness.advance(LEASE + SECOND).await;
        let overdue = store.overdue().await.expect("overdue");
        let seen = overdue.into_iter().find(|overdue| overdue.worker == worker).expect("overdue");
        let mut reapers = JoinSet::new();
        for _ in 0..4 {
            let (store, seen) = (store.clone(), seen.clone());
            reapers.spawn(async move { store.bury(&seen).await.expect("bury") });
        }
        let beat = {
            let store = store.clone();
            tokio::spawn(async move { store.heartbeat(worker).await.expect("heartbeat") })
        };
        let burials = tokio::time::timeout(PATIENCE, reapers.join_all()).await.expect("in time");
        let buried = burials.into_iter().filter(|buried| *buried).count();
        let saved = beat.await.expect("no panic");
        assert_eq!(buried, usize::from(!saved), "either it is saved or it is buried once");
        assert_eq!(store.heartbeat(worker).await.expect("heartbeat"), saved);
        store.retire(worker).await.expect("retire");
    }
}

/// A caller that goes away in the middle leaves a whole change or none, and a store that goes on.
pub async fn dropped_calls_leave_whole_changes(harness: &dyn Harness) {
    let store = harness.store();
    let worker = worker(&*store).await;
    let held = {
        submit_many(&*store, 40).await;
        claim_next(&*store, worker, &[("q", 40)], 40).await
    };
    for (n, claimed) in held.iter().enumerate() {
        // Polls each call a few times and then drops it.
        give_up_after(n % 8, store.submit(&vec![task_in("dropped", 5); 3])).await;
        give_up_after(n % 7, store.settle(worker, &[success(claimed, "1")])).await;
        give_up_after(n % 5, store.claim(worker, &Claim::Ids(vec![TaskId(claimed.id.0 + 40)]))).await;
        give_up_after(n % 3, store.counts(&Tenant::default())).await;
    }
    // What was dropped may still be on its way: look until the store is at rest.
    let whole = async || {
        let counts = store.counts(&Tenant::default()).await.expect("counts");
        let mut by_queue = BTreeMap::<_, u64>::new();
        for line in &counts {
            *by_queue.entry(line.queue.clone()).or_default() += line.count;
        }
        counts == recount(&*store, &Tenant::default()).await
            && by_queue.get(&queue("dropped")).copied().unwrap_or(0) % 3 == 0
    };
    let at_rest = async {
        while !whole().await {
            store.ping().await.expect("ping");
        }
    };
    tokio::time::timeout(PATIENCE, at_rest).await.expect("changes are whole once the store is at rest");
    // Settling again says what became of each.
    for claimed in &held {
        assert_eq!(settle(&*store, worker, success(claimed, "1")).await, Applied::Yes);
    }
    submit_many(&*store, 3).await;
    assert_eq!(claim_next(&*store, worker, &[("q", 3)], 3).await.len(), 3);
    assert_counts(&*store, &Tenant::default()).await;
}

/// Polls a future at most `polls` times and drops it.
async fn give_up_after<T>(polls: usize, future: impl Future<Output = T>) {
    let mut future = std::pin::pin!(future);
    for _ in 0..polls {
        let polled = futures_util::poll!(&mut future);
        if polled.is_ready() {
            return;
        }
        tokio::task::yield_now().await;
    }
}
