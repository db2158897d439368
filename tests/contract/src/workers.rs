//! Leases: who is alive, who is not, and what becomes of the work in dead hands.

use std::collections::HashSet;

use application::ports::{Applied, Orphan, Overdue, Waiting, WorkerProfile};
use domain::{Counters, Event, Status, Tenant, WorkerId, WorkerName};

use crate::{Harness, fixtures::*};

/// A new id for each start, also under the same name.
pub async fn each_registration_is_fresh(harness: &dyn Harness) {
    let store = &*harness.store();
    let mut ids = HashSet::new();
    for _ in 0..5 {
        assert!(ids.insert(store.register(&profile("same@host")).await.expect("register")));
    }
    assert!(!store.heartbeat(WorkerId(4711)).await.expect("heartbeat"), "nobody has this id");
}

/// By the lease that it asked for, counted from its last heartbeat by the store's clock.
pub async fn silence_makes_a_worker_overdue(harness: &dyn Harness) {
    let store = &*harness.store();
    let registered = now(store).await;
    let short = store.register(&profile("short@host")).await.expect("register");
    let long = WorkerProfile { lease: 2 * LEASE, ..profile("long@host") };
    let long = store.register(&long).await.expect("register");
    harness.advance(LEASE - std::time::Duration::from_micros(1)).await;
    assert_eq!(store.overdue().await.expect("overdue"), []);
    harness.advance(std::time::Duration::from_micros(2)).await;
    let name = WorkerName::new("short@host").expect("a valid worker name");
    let expected = Overdue { worker: short, name, last_heartbeat: registered };
    for _ in 0..2 {
        // Looking changes nothing.
        assert_eq!(store.overdue().await.expect("overdue"), std::slice::from_ref(&expected));
    }
    harness.advance(LEASE).await;
    let overdue = store.overdue().await.expect("overdue");
    let workers: HashSet<_> = overdue.iter().map(|overdue| overdue.worker).collect();
    assert_eq!(workers, HashSet::from([short, long]));
    // Overdue is not dead: the task in its hand is nobody else's, and a heartbeat brings it back.
    let held = running(store, short).await;
    assert_eq!(store.orphans(10).await.expect("orphans"), []);
    assert!(store.heartbeat(short).await.expect("heartbeat"));
    assert_eq!(store.overdue().await.expect("overdue").len(), 1);
    settled(store, short, success(&held, "1")).await;
}

/// Else a worker that died before the clock was set back by a day would keep its tasks for that day.
pub async fn a_clock_that_was_set_back_hides_no_silence(harness: &dyn Harness) {
    let store = &*harness.store();
    let (silent, lively) = (worker(store).await, worker(store).await);
    harness.turn_back(LEASE).await;
    assert_eq!(store.overdue().await.expect("overdue"), [], "one lease more to wait for is no harm");
    harness.turn_back(24 * 3_600 * SECOND).await;
    assert!(store.heartbeat(lively).await.expect("heartbeat"));
    let overdue = store.overdue().await.expect("overdue");
    assert_eq!(overdue.iter().map(|overdue| overdue.worker).collect::<Vec<_>>(), [silent]);
    let held = running(store, silent).await;
    assert!(store.bury(&overdue[0]).await.expect("bury"));
    assert_eq!(store.orphans(10).await.expect("orphans")[0].id, held.id);
}

/// As long as it beats, a worker lives.
pub async fn a_heartbeat_renews_the_lease(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let held = running(store, worker).await;
    for _ in 0..5 {
        harness.advance(LEASE - SECOND).await;
        assert!(store.heartbeat(worker).await.expect("heartbeat"));
        assert_eq!(store.overdue().await.expect("overdue"), []);
    }
    assert_eq!(store.orphans(10).await.expect("orphans"), []);
    settled(store, worker, success(&held, "1")).await;
}

/// Whoever buries must have seen the last heartbeat.
pub async fn only_the_seen_heartbeat_is_buried(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let held = running(store, worker).await;
    harness.advance(LEASE + SECOND).await;
    let seen = store.overdue().await.expect("overdue").remove(0);
    assert!(store.heartbeat(worker).await.expect("heartbeat"));
    assert!(!store.bury(&seen).await.expect("bury"), "it has sent a heartbeat since");
    assert!(store.heartbeat(worker).await.expect("heartbeat"), "and lives on");
    harness.advance(LEASE + SECOND).await;
    assert!(!store.bury(&seen).await.expect("bury"), "an old sighting does not count later");
    let seen = store.overdue().await.expect("overdue").remove(0);
    assert!(store.bury(&seen).await.expect("bury"));
    assert!(!store.bury(&seen).await.expect("bury"), "it was dead before");
    assert!(!store.heartbeat(worker).await.expect("heartbeat"));
    assert_eq!(store.orphans(10).await.expect("orphans")[0].id, held.id);
    let nobody = Overdue { worker: WorkerId(worker.0 + 1_000), ..seen };
    assert!(!store.bury(&nobody).await.expect("bury"));
}

/// No heartbeat wakes the dead; the name comes back under a new id.
pub async fn the_dead_stay_dead(harness: &dyn Harness) {
    let store = &*harness.store();
    let dead = worker(store).await;
    harness.advance(LEASE + SECOND).await;
    bury(store, dead).await;
    for _ in 0..2 {
        assert!(!store.heartbeat(dead).await.expect("heartbeat"));
    }
    assert_eq!(store.overdue().await.expect("overdue"), []);
    let id = submit_one(store, task()).await;
    assert_eq!(claim(store, dead, &[id]).await, []);
    let anew = worker(store).await;
    assert_ne!(anew, dead);
    start(store, anew, id).await;
}

/// What the dead held is found, settled in their name, and goes on.
pub async fn orphans_are_found_and_settled(harness: &dyn Harness) {
    let store = &*harness.store();
    let dead = worker(store).await;
    let ids = submit(store, &[task_in("a", 3), task_in("b", 4), task_in("b", 5)]).await;
    let tried = start(store, dead, ids[1]).await;
    settled(store, dead, retry(&tried, std::time::Duration::ZERO)).await;
    let first = start(store, dead, ids[0]).await;
    let second = start(store, dead, ids[1]).await;
    store.cancel(&Tenant::default(), &[ids[1]]).await.expect("cancel");
    harness.advance(LEASE + SECOND).await;
    assert_eq!(store.orphans(10).await.expect("orphans"), [], "not before the worker is declared dead");
    let alive = worker(store).await;
    let spared = running(store, alive).await;
    bury(store, dead).await;
    let mut orphans = store.orphans(10).await.expect("orphans");
    orphans.sort_by_key(|orphan| orphan.id);
    let orphan = |claimed: &application::ports::ClaimedTask, cancel_requested| Orphan {
        id: claimed.id,
        worker: dead,
        worker_retired: false,
        counters: claimed.counters,
        heaviest: domain::Suspicion::None,
        cancel_requested,
        waiting: Waiting {
            id: claimed.id,
            queue: claimed.queue.clone(),
            priority: claimed.priority,
            rank: claimed.rank,
            suspicion: domain::Suspicion::None,
        },
    };
    assert_eq!(orphans, [orphan(&first, false), orphan(&second, true)]);
    assert_eq!(second.counters, Counters { attempt: 2, failures: 1, ..Counters::default() });
    // Looking leaves them where they are, and nobody else can take them yet.
    assert_eq!(store.orphans(10).await.expect("orphans").len(), 2);
    assert_eq!(claim(store, alive, &[ids[0]]).await, []);

    let lost = [
        by_event(&first, false, Event::LoseWorker { charged: true }),
        by_event(&second, true, Event::LoseWorker { charged: true }),
    ];
    assert_eq!(store.settle(dead, &lost).await.expect("settle"), [Applied::Yes; 2]);
    assert_eq!(store.orphans(10).await.expect("orphans"), []);
    let back = read(store, ids[0]).await;
    assert_eq!((back.status, back.attempt), (Status::Pending, 1));
    assert_eq!(told(&back.error).map(|(code, _)| code), Some("worker_lost"));
    assert_eq!(read(store, ids[1]).await.status, Status::Cancelled);
    assert_eq!(claim(store, alive, &[ids[0]]).await, [], "it is a suspect now");
    let suspects = application::ports::Claim::Suspects {
        queues: vec![queue("a")],
        suspicion: domain::Suspicion::Shared,
        limit: 5,
    };
    let again = store.claim(alive, &suspects).await.expect("claim").remove(0);
    assert_eq!(again.counters, Counters { attempt: 2, crashes: 1, ..Counters::default() });
    assert_eq!(read(store, spared.id).await.status, Status::Processing);
    assert_counts(store, &Tenant::default()).await;
}

/// At most so many at once; the rest follow as the first are settled.
pub async fn orphans_keep_their_limit(harness: &dyn Harness) {
    let store = &*harness.store();
    let dead = worker(store).await;
    submit_many(store, 5).await;
    let held = claim_next(store, dead, &[("q", 5)], 5).await;
    harness.advance(LEASE + SECOND).await;
    bury(store, dead).await;
    let mut seen = HashSet::new();
    for expected in [2, 2, 1, 0] {
        let orphans = store.orphans(2).await.expect("orphans");
        assert_eq!(orphans.len(), expected);
        for orphan in orphans {
            assert!(seen.insert(orphan.id));
            let claimed = held.iter().find(|task| task.id == orphan.id).expect("it was held");
            settled(store, dead, by_event(claimed, false, Event::LoseWorker { charged: true })).await;
        }
    }
}

/// A worker that ended in good order: its tasks are free to be released, and charged to nobody.
pub async fn retired_workers_leave_releases_behind(harness: &dyn Harness) {
    let store = &*harness.store();
    let retired = worker(store).await;
    let held = running(store, retired).await;
    store.retire(retired).await.expect("retire");
    store.retire(retired).await.expect("retire once more");
    assert!(!store.heartbeat(retired).await.expect("heartbeat"), "it has ended its registration");
    let orphans = store.orphans(10).await.expect("orphans");
    assert_eq!(orphans.len(), 1);
    assert_eq!((orphans[0].id, orphans[0].worker, orphans[0].worker_retired), (held.id, retired, true));
    harness.advance(LEASE + SECOND).await;
    assert_eq!(store.overdue().await.expect("overdue"), [], "nobody waits for it");
    settled(store, retired, release(&held)).await;
    let back = read(store, held.id).await;
    assert_eq!((back.status, back.error), (Status::Pending, None));
    assert_eq!(store.orphans(10).await.expect("orphans"), []);
}

/// Who has been declared dead cannot make a drain of it afterwards.
pub async fn retiring_after_death_changes_nothing(harness: &dyn Harness) {
    let store = &*harness.store();
    let dead = worker(store).await;
    running(store, dead).await;
    harness.advance(LEASE + SECOND).await;
    bury(store, dead).await;
    store.retire(dead).await.expect("retire");
    assert!(!store.orphans(10).await.expect("orphans")[0].worker_retired);
}
