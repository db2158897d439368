//! Queues: standing still, emptied, watched, limited, growing impatient.

use std::{collections::BTreeMap, time::Duration};

use application::ports::{
    Claim, LimitedClaim, LimitedTasks, Purged, Reprioritised, RunRecord, Store, WorkerProfile,
};
use domain::{NewTask, QueueLimits, RunLength, Runs, Service, Status, Suspicion, TaskId, Tenant, WorkerId};
use tokio::task::JoinSet;

use crate::{Harness, fixtures::*};

/// A queue stands still until it is resumed, whether or not it is known.
pub async fn paused_queues_stay_so_until_they_are_resumed(harness: &dyn Harness) {
    let store = &*harness.store();
    let paused = async || store.paused_queues().await.expect("paused");
    assert_eq!(paused().await, []);
    assert!(!store.pause_queue(&queue("b"), false).await.expect("resume"), "it did not stand still");
    for name in ["b", "a"] {
        assert!(store.pause_queue(&queue(name), true).await.expect("pause"));
        assert!(!store.pause_queue(&queue(name), true).await.expect("pause"), "it stood still before");
    }
    assert_eq!(paused().await, [queue("a"), queue("b")]);
    assert!(store.pause_queue(&queue("b"), false).await.expect("resume"));
    assert!(!store.pause_queue(&queue("b"), false).await.expect("resume"));
    assert_eq!(paused().await, [queue("a")]);
}

/// Since when the first of each priority waits: submitted, come due, or put back.
pub async fn the_longest_wait_is_told_by_queue(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let all = [queue("q"), queue("a"), queue("empty")];
    let since = async || store.waiting_since(&all).await.expect("since");
    assert_eq!(since().await, []);
    let first = now(store).await;
    let id = submit_one(store, task_in("q", 9)).await;
    submit_one(store, NewTask { queue: queue("a"), ..task_after(SECOND * 5) }).await;
    harness.advance(SECOND).await;
    submit_one(store, task_in("q", 0)).await;
    assert_eq!(since().await, [(queue("q"), first)], "the one that is scheduled does not wait for a worker");
    harness.advance(SECOND * 9).await;
    let due = now(store).await;
    assert_eq!(store.promote(10).await.expect("promote").len(), 1);
    assert_eq!(since().await, [(queue("a"), due), (queue("q"), first)]);
    let claimed = start(store, worker, id).await;
    assert_eq!(since().await[1].1, first + SECOND);
    harness.advance(SECOND).await;
    settled(store, worker, release(&claimed)).await;
    assert_eq!(since().await[1].1, first + SECOND, "it waits anew");
    assert_eq!(store.waiting_since(&[]).await.expect("since"), []);
}

/// All that waits, for now or for later, ends as CANCELLED and says why; page by page.
pub async fn a_purge_ends_what_waits_in_its_queue_and_nothing_else(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let runs = submit_one(store, task_in("q", 0)).await;
    start(store, worker, runs).await;
    let ended = submit_one(store, task_in("q", 0)).await;
    store.cancel(&Tenant::default(), &[ended]).await.expect("cancel");
    let elsewhere = submit_one(store, task_in("other", 5)).await;
    let theirs = submit_one(store, NewTask { tenant: tenant("acme"), ..task() }).await;
    let mut expected = submit_many(store, 5).await;
    expected.push(submit_one(store, task_after(SECOND)).await);
    harness.advance(SECOND).await;
    let (mut after, mut purged, mut steps) = (TaskId(0), Vec::new(), 0);
    loop {
        let Purged { ended, next } =
            store.purge(&Tenant::default(), &queue("q"), after, 3).await.expect("purge");
        purged.extend(ended);
        steps += 1;
        match next {
            Some(next) => after = next,
            None => break,
        }
    }
    assert_eq!(purged, expected);
    assert!((2..=4).contains(&steps), "nine are unfinished, three are looked at in a step: {steps}");
    let task = read(store, expected[0]).await;
    assert_eq!((task.status, task.completed_at), (Status::Cancelled, Some(now(store).await)));
    assert_eq!(told(&task.error).map(|(code, _)| code), Some("purged"));
    assert_eq!(read(store, runs).await.status, Status::Processing);
    assert_eq!(told(&read(store, ended).await.error), None, "it had ended before");
    assert_eq!(read(store, elsewhere).await.status, Status::Pending);
    assert_eq!(store.read(&tenant("acme"), &[theirs]).await.expect("read")[0].status, Status::Pending);
    assert_counts(store, &Tenant::default()).await;
    let nothing = store.purge(&Tenant::default(), &queue("q"), TaskId(0), 100).await.expect("purge");
    assert_eq!(nothing, Purged::default());
}

/// What waits changes its place, and keeps its new priority for good; what runs or has ended does not.
pub async fn a_waiting_task_changes_its_priority_and_its_place(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let ids = submit(store, &vec![task_in("q", 5); 3]).await;
    let later = submit_one(store, NewTask { queue: queue("q"), ..task_after(SECOND) }).await;
    let runs = running(store, worker).await.id;
    let ended = running(store, worker).await;
    settled(store, worker, success(&ended, "1")).await;
    let theirs = submit_one(store, NewTask { tenant: tenant("acme"), ..task() }).await;
    let asked = [ids[2], later, runs, ended.id, theirs, TaskId(theirs.0 + 100)];
    let outcomes = store.reprioritise(&Tenant::default(), &asked, priority(1)).await.expect("reprioritise");
    let [Reprioritised::Moved(place), rest @ ..] = outcomes.as_slice() else { panic!("{outcomes:?}") };
    assert_eq!((place.id, &place.queue, place.priority), (ids[2], &queue("q"), priority(1)));
    assert_eq!(
        rest,
        [
            Reprioritised::Later,
            Reprioritised::NotWaiting(Status::Processing),
            Reprioritised::NotWaiting(Status::Completed),
            Reprioritised::Unknown,
            Reprioritised::Unknown,
        ]
    );
    for (id, expected) in [(ids[2], 1), (later, 1), (ids[0], 5), (runs, 5), (ended.id, 5)] {
        assert_eq!(read(store, id).await.priority, priority(expected), "task {id}");
    }
    let first = claim_next(store, worker, &[("q", 1)], 1).await;
    assert_eq!((first[0].id, first[0].priority), (ids[2], priority(1)));
    // Also when it comes back, and when it comes due.
    settled(store, worker, release(&first[0])).await;
    harness.advance(SECOND).await;
    let due = store.promote(10).await.expect("promote");
    assert_eq!((due[0].id, due[0].priority), (later, priority(1)));
    store.reprioritise(&Tenant::default(), &[ids[0]], priority(9)).await.expect("reprioritise");
    let claimed = claim_next(store, worker, &[("q", 10)], 10).await;
    assert_eq!(self::ids(&claimed), [ids[2], later, ids[1], theirs, ids[0]]);
    assert_eq!(store.reprioritise(&Tenant::default(), &[], priority(9)).await.expect("none"), []);
}

/// One step more urgent for each so long; in the order, not in what is read back; and the urgent wait no longer for it.
pub async fn what_waits_for_long_grows_more_urgent_and_the_last_is_never_starved(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let minute = SECOND * 60;
    let age = async |limit| {
        let raised = store.age(&queue("q"), minute, limit).await.expect("age");
        raised.iter().map(|place| (place.id, place.priority.get())).collect::<Vec<_>>()
    };
    let last = submit(store, &[task_in("q", 9), task_in("q", 9), task_in("other", 9)]).await;
    harness.advance(minute.saturating_sub(SECOND)).await;
    assert_eq!(age(10).await, []);
    harness.advance(SECOND).await;
    assert_eq!(age(1).await, [(last[0], 8)], "so many of each priority");
    assert_eq!(age(10).await, [(last[1], 8)]);
    assert_eq!(age(10).await, [], "nothing is raised twice");
    harness.advance(minute * 7).await;
    let urgent = submit_one(store, task_in("q", 1)).await;
    let middle = submit_one(store, task_in("q", 2)).await;
    assert_eq!(age(10).await, [(last[0], 1), (last[1], 1)]);
    assert_eq!(read(store, last[0]).await.priority, priority(9), "what was asked for is shown");
    let claimed = claim_next(store, worker, &[("q", 10)], 3).await;
    assert_eq!(ids(&claimed), [last[0], last[1], urgent], "of equals, the oldest first");
    // It keeps what it has gained, and begins to wait anew.
    settled(store, worker, release(&claimed[0])).await;
    harness.advance(SECOND * 30).await;
    assert_eq!(age(10).await, []);
    harness.advance(minute * 9).await;
    assert_eq!(age(10).await, [(last[0], 0), (middle, 0)]);
    let waiting = store.waiting(&queue("q"), 10).await.expect("waiting");
    assert_eq!(
        waiting.iter().map(|place| (place.id, place.priority.get())).collect::<Vec<_>>(),
        [(last[0], 0), (middle, 0)]
    );
}

/// A sum by queue and length over the last minutes; older ones are forgotten.
pub async fn runs_are_summed_up_by_minute(harness: &dyn Harness) {
    let store = &*harness.store();
    let record = |name: &str, millis: u64, failed| {
        let took = Duration::from_millis(millis);
        RunRecord { queue: queue(name), length: RunLength::of(took), runs: Runs::one(failed, took) }
    };
    let noted =
        [record("b", 100, false), record("a", 5_000, true), record("b", 100, true), record("b", 70, false)];
    store.note_runs(&noted).await.expect("note");
    store.note_runs(&noted[..1]).await.expect("note");
    store.note_runs(&[]).await.expect("note");
    let recent = store.recent_runs(5).await.expect("recent");
    let now = now(store).await;
    assert_eq!(recent.until, now);
    assert_eq!((now - recent.since).num_minutes(), 4, "four full minutes and this one");
    assert_eq!(recent.since.timestamp() % 60, 0);
    let mut expected = vec![noted[1].clone(), noted[3].clone(), noted[0].clone()];
    expected[2].runs = Runs { ended: 3, failed: 1, took: Duration::from_millis(300) };
    assert_eq!(recent.records, expected);
    harness.advance(SECOND * 60 * 5).await;
    let recent = store.recent_runs(5).await.expect("recent");
    assert_eq!(recent.records, []);
    assert!(store.recent_runs(7).await.expect("recent").records.len() == 3, "they are kept for a while");
    harness.advance(SECOND * 3700).await;
    store.note_runs(&noted[..1]).await.expect("note");
    assert_eq!(store.recent_runs(200).await.expect("recent").records, [noted[0].clone()]);
}

/// What those serve whose lease holds, each kind once.
pub async fn what_living_workers_serve_is_told(harness: &dyn Harness) {
    let store = &*harness.store();
    let of = |only: &[&str], except: &[&str]| Service {
        only: only.iter().map(|name| queue(name)).collect(),
        except: except.iter().map(|name| queue(name)).collect(),
    };
    let register = async |service: &Service| {
        let (queues, except) = (service.only.clone(), service.except.clone());
        store.register(&WorkerProfile { queues, except, ..profile("w") }).await.expect("register")
    };
    let (all, few, but) = (of(&[], &[]), of(&["b", "a"], &[]), of(&[], &["reports"]));
    let silent = register(&all).await;
    let (_, retired, kept) = (register(&few).await, register(&few).await, register(&but).await);
    register(&all).await;
    store.retire(retired).await.expect("retire");
    let mut expected = vec![(all, 2), (but.clone(), 1), (few, 1)];
    expected.sort_unstable();
    assert_eq!(store.served().await.expect("served"), expected);
    harness.advance(LEASE - SECOND).await;
    assert!(store.heartbeat(kept).await.expect("heartbeat"));
    harness.advance(SECOND).await;
    assert_eq!(store.served().await.expect("served"), [(but, 1)]);
    bury(store, silent).await;
}

async fn limited(store: &dyn Store, worker: WorkerId, limits: QueueLimits, limit: usize) -> LimitedTasks {
    let claim = LimitedClaim { queue: queue("q"), limits, suspicion: Suspicion::None, limit };
    store.claim_limited(worker, &claim).await.expect("claim")
}

/// So many at once over all workers, tenants and suspicions, in the order of the queue; a crash gives nothing away.
pub async fn a_limited_queue_runs_no_more_than_it_may(harness: &dyn Harness) {
    let store = &*harness.store();
    let (one, other) = (worker(store).await, worker(store).await);
    let limits = QueueLimits { max_running: Some(3), rate: None };
    let mut tasks = vec![task_in("q", 5); 4];
    tasks.push(NewTask { tenant: tenant("acme"), ..task_in("q", 1) });
    let ids = submit(store, &tasks).await;
    submit_one(store, task_in("elsewhere", 0)).await;
    let first = limited(store, one, limits, 2).await;
    assert_eq!((self::ids(&first.tasks), first.wait), (vec![ids[4], ids[0]], Some(Duration::ZERO)));
    let second = limited(store, other, limits, 10).await;
    assert_eq!((self::ids(&second.tasks), second.wait), (vec![ids[1]], None));
    assert_eq!(limited(store, one, limits, 10).await, LimitedTasks::default());
    assert_eq!(store.claim(one, &Claim::Ids(vec![ids[2]])).await.expect("claim").len(), 1, "another way");
    assert_eq!(
        limited(store, one, limits, 10).await,
        LimitedTasks::default(),
        "it counts what runs, whoever took it"
    );
    // Each end makes room for one.
    settled(store, one, success(&first.tasks[1], "1")).await;
    assert_eq!(limited(store, other, limits, 10).await, LimitedTasks::default());
    settled(store, other, success(&second.tasks[0], "1")).await;
    assert_eq!(self::ids(&limited(store, other, limits, 10).await.tasks), [ids[3]]);
    // A dead worker's tasks run until they are taken over.
    harness.advance(LEASE + SECOND).await;
    assert!(store.heartbeat(other).await.expect("heartbeat"));
    bury(store, one).await;
    submit_one(store, task_in("q", 9)).await;
    assert_eq!(limited(store, other, limits, 10).await.tasks, []);
    let orphans = store.orphans(10).await.expect("orphans");
    assert_eq!(orphans.len(), 2);
    assert_eq!(limited(store, one, limits, 10).await.tasks, [], "the dead claim nothing");
    assert_counts(store, &Tenant::default()).await;
}

/// A burst, and then one after the other, over all workers and by the store's clock.
pub async fn a_limited_queue_starts_no_more_than_its_rate_lets_through(harness: &dyn Harness) {
    let store = &*harness.store();
    let workers = [worker(store).await, worker(store).await];
    let rate = "10/s".parse::<domain::RateLimit>().expect("a rate").with_burst(4).expect("a burst");
    let limits = QueueLimits { max_running: None, rate: Some(rate) };
    submit_many(store, 100).await;
    assert_eq!(limited(store, workers[0], limits, 3).await.tasks.len(), 3);
    let rest = limited(store, workers[1], limits, 3).await;
    assert_eq!((rest.tasks.len(), rest.wait), (1, Some(Duration::from_millis(100))));
    harness.advance(Duration::from_millis(99)).await;
    let none = limited(store, workers[0], limits, 3).await;
    assert_eq!(none, LimitedTasks { tasks: Vec::new(), wait: Some(Duration::from_millis(1)) });
    let mut started = 0;
    for step in 0..40 {
        harness.advance(Duration::from_millis(25)).await;
        started += limited(store, workers[step % 2], limits, 50).await.tasks.len();
    }
    assert_eq!(started, 10, "a second and 24 ms later");
    harness.advance(SECOND * 60).await;
    assert_eq!(limited(store, workers[0], limits, 50).await.tasks.len(), 4, "no more than the burst");
    // Asking in vain costs nothing.
    let empty = QueueLimits { max_running: Some(1_000), ..limits };
    harness.advance(SECOND * 60).await;
    store.purge(&Tenant::default(), &queue("q"), TaskId(0), 1_000).await.expect("purge");
    for _ in 0..3 {
        assert_eq!(limited(store, workers[0], empty, 5).await.wait, Some(Duration::ZERO));
    }
    submit_many(store, 9).await;
    assert_eq!(limited(store, workers[0], empty, 50).await.tasks.len(), 4);
}

/// Suspects pass the same limits, and nothing else.
pub async fn suspects_of_a_limited_queue_count_as_the_others_do(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let limits = QueueLimits { max_running: Some(2), rate: None };
    submit_many(store, 3).await;
    let claimed = limited(store, worker, limits, 2).await.tasks;
    let crashed = by_event(&claimed[0], false, domain::Event::LoseWorker { charged: true });
    settled(store, worker, crashed).await;
    let suspects = |limit| LimitedClaim { queue: queue("q"), limits, suspicion: Suspicion::Shared, limit };
    let taken = store.claim_limited(worker, &suspects(5)).await.expect("claim");
    assert_eq!((ids(&taken.tasks), taken.wait), (vec![claimed[0].id], None));
    assert_eq!(limited(store, worker, limits, 5).await.tasks, []);
}

/// Eight claimers at once, tasks that end and claimers that ask on and on: never more than so many at a time.
pub async fn limits_hold_over_many_claimers_at_once(harness: &dyn Harness) {
    const TASKS: usize = 120;
    const MOST: u32 = 5;
    let store = harness.store();
    submit_many(&*store, TASKS).await;
    let running =
        std::sync::Arc::new(std::sync::Mutex::new((0_usize, 0_usize, BTreeMap::<TaskId, u32>::new())));
    let mut claimers = JoinSet::new();
    for _ in 0..8 {
        let (store, running) = (store.clone(), running.clone());
        claimers.spawn(async move {
            let id = worker(&*store).await;
            let limits = QueueLimits { max_running: Some(MOST), rate: None };
            loop {
                let tasks = limited(&*store, id, limits, 3).await.tasks;
                {
                    let mut book = running.lock().expect("no panic");
                    book.0 += tasks.len();
                    book.1 = book.1.max(book.0);
                    tasks.iter().for_each(|task| *book.2.entry(task.id).or_default() += 1);
                    if book.2.len() == TASKS && tasks.is_empty() {
                        return;
                    }
                }
                tokio::task::yield_now().await;
                // Ended here before the store knows: the book is never too high.
                running.lock().expect("no panic").0 -= tasks.len();
                for task in &tasks {
                    settled(&*store, id, success(task, "1")).await;
                }
            }
        });
    }
    tokio::time::timeout(Duration::from_secs(120), claimers.join_all()).await.expect("all are run in time");
    let (now, most, started) = running.lock().expect("no panic").clone();
    assert_eq!((now, started.len()), (0, TASKS));
    assert!(most <= MOST as usize, "{most} at once");
    assert!(started.values().all(|times| *times == 1));
    assert_counts(&*store, &Tenant::default()).await;
}
