//! Schedules: kept under their names, and each plan written once.

use std::time::Duration;

use application::ports::{Fired, Firing, FiringRecord, Put};
use domain::{
    NewTask, OwnTerms, RetryPolicy, Status, Tenant, Timestamp,
    schedule::{
        Cadence, CatchUp, NewSchedule, Overlap, Schedule, ScheduleName, SkipReason, Skipped, Template,
    },
};

use crate::{Harness, fixtures::*};

fn name(text: &str) -> ScheduleName {
    ScheduleName::new(text).expect("a valid schedule name")
}

/// Every half minute, with every field set.
fn spec(called: &str, from: Timestamp) -> NewSchedule {
    let NewTask { tenant, task_type, queue, priority, input, limits, .. } = task();
    let own = OwnTerms { retry: Some(RetryPolicy::default()), keep_for: Some(SECOND) };
    NewSchedule {
        tenant,
        name: name(called),
        cadence: Cadence::every(SECOND * 30, from).expect("a cadence"),
        catch_up: CatchUp::Latest,
        overlap: Overlap::Queue,
        template: Template {
            task_type,
            queue,
            priority,
            input,
            metadata: Some(json("{\"a\": 1}")),
            limits,
            own,
        },
        jitter: SECOND * 7,
        paused: false,
        configured: true,
    }
}

async fn now(harness: &dyn Harness) -> Timestamp {
    harness.store().ping().await.expect("reachable").now
}

/// A schedule that is due.
async fn due(harness: &dyn Harness) -> Schedule {
    let now = now(harness).await;
    match harness.store().put_schedule(&spec("due", now), Some(now)).await.expect("kept") {
        Put::Created(schedule) => schedule,
        Put::Replaced(schedule) => panic!("it was there: {schedule:?}"),
    }
}

/// One task at the schedule's tick.
fn firing(schedule: &Schedule) -> Firing {
    let tick = schedule.next_tick.expect("it is due");
    Firing {
        schedule: schedule.id,
        revision: schedule.revision,
        tasks: vec![(tick, task())],
        skipped: Vec::new(),
        next_tick: schedule.spec.cadence.next_after(tick),
    }
}

/// What is put comes back as it was, and what takes its place keeps number and firings.
pub async fn schedules_are_kept_under_their_names(harness: &dyn Harness) {
    let (store, start) = (harness.store(), now(harness).await);
    let nightly = NewSchedule {
        cadence: Cadence::cron("0 2 * * MON-FRI", "Europe/Berlin").expect("a cadence"),
        jitter: Duration::ZERO,
        configured: false,
        ..spec("b", start)
    };
    let Ok(Put::Created(created)) = store.put_schedule(&nightly, Some(start)).await else { panic!("new") };
    assert_eq!((&created.spec, created.next_tick, created.created_at), (&nightly, Some(start), start));
    assert_eq!((created.last_tick, created.last_task), (None, None));
    assert_eq!(store.schedule(&Tenant::default(), &name("b")).await, Ok(Some(created.clone())));
    harness.advance(SECOND).await;
    let often = spec("b", start);
    let Ok(Put::Replaced(replaced)) = store.put_schedule(&often, None).await else { panic!("replaced") };
    assert_eq!((replaced.id, &replaced.spec, replaced.next_tick), (created.id, &often, None));
    assert!(replaced.revision > created.revision && replaced.updated_at > replaced.created_at);

    let acme = NewSchedule { tenant: tenant("acme"), ..spec("a", start) };
    for other in [acme, spec("a", start), spec("c", start)] {
        store.put_schedule(&other, None).await.expect("kept");
    }
    let names = async |after, limit| -> Vec<String> {
        let found = store.schedules(&Tenant::default(), after, limit).await.expect("listed");
        found.iter().map(|schedule| schedule.spec.name.to_string()).collect()
    };
    assert_eq!(names(None, 2).await, ["a", "b"]);
    assert_eq!(names(Some(name("b")), 2).await, ["c"]);
    assert_eq!(store.schedule(&tenant("acme"), &name("b")).await, Ok(None));
}

/// Due ones are told, the longest due first, and whether their last task runs.
pub async fn due_schedules_are_told_in_order(harness: &dyn Harness) {
    let (store, start) = (harness.store(), now(harness).await);
    for (called, wait) in [("later", 40), ("second", 20), ("first", 10)] {
        let tick = start + SECOND * wait;
        store.put_schedule(&spec(called, start), Some(tick)).await.expect("kept");
    }
    store.put_schedule(&spec("still", start), None).await.expect("kept");
    harness.advance(SECOND * 20).await;
    let told = store.due_schedules(10).await.expect("told");
    let names: Vec<_> = told.iter().map(|due| due.schedule.spec.name.as_str()).collect();
    assert_eq!(names, ["first", "second"]);
    assert!(told.iter().all(|due| !due.running && due.now == start + SECOND * 20));
    assert_eq!(store.due_schedules(1).await.expect("told").len(), 1);

    let first = &told[0].schedule;
    let plan = Firing { next_tick: Some(start + SECOND * 15), ..firing(first) };
    let Ok(Fired::Yes(receipts)) = store.fire(&plan).await else { panic!("fired") };
    let running = |told: Vec<application::ports::DueSchedule>| {
        told.iter().find(|due| due.schedule.spec.name == name("first")).map(|due| due.running)
    };
    assert_eq!(running(store.due_schedules(10).await.expect("told")), Some(true));
    store.cancel(&Tenant::default(), &[receipts[0].id]).await.expect("cancelled");
    assert_eq!(running(store.due_schedules(10).await.expect("told")), Some(false));
}

/// A plan is written with its tasks, its records and what comes next.
pub async fn a_plan_is_written_whole(harness: &dyn Harness) {
    let store = harness.store();
    let schedule = due(harness).await;
    let tick = schedule.next_tick.expect("due");
    let (first, last) = (tick + SECOND * 30, tick + SECOND * 90);
    let skipped = Skipped { first, last, count: 3, reason: SkipReason::Overlap };
    let plan = Firing { skipped: vec![skipped], next_tick: None, ..firing(&schedule) };
    let Ok(Fired::Yes(receipts)) = store.fire(&plan).await else { panic!("fired") };
    assert_eq!(read(&*store, receipts[0].id).await.status, Status::Pending);
    let after = store.schedule(&Tenant::default(), &name("due")).await.expect("read").expect("there");
    assert_eq!((after.next_tick, after.last_tick, after.last_task), (None, Some(tick), Some(receipts[0].id)));
    assert!(after.revision > schedule.revision);
    let at = now(harness).await;
    let all =
        [FiringRecord::Skipped { run: skipped, at }, FiringRecord::Fired { tick, task: receipts[0].id, at }];
    let records = async |before, limit| store.firings(&Tenant::default(), &name("due"), before, limit).await;
    assert_eq!(records(None, 10).await, Ok(Some(all.to_vec())));
    assert_eq!(records(Some(first), 10).await, Ok(Some(all[1..].to_vec())));
    assert_eq!(records(None, 1).await, Ok(Some(all[..1].to_vec())));
    assert_eq!(store.firings(&tenant("acme"), &name("due"), None, 1).await, Ok(None));
}

/// Whoever comes second changes nothing, and holds up nobody.
pub async fn one_of_many_plans_is_written(harness: &dyn Harness) {
    let store = harness.store();
    let mut schedule = due(harness).await;
    for round in 1..=5 {
        let plan = firing(&schedule);
        let firing: Vec<_> = (0..10)
            .map(|_| {
                let (store, plan) = (store.clone(), plan.clone());
                tokio::spawn(async move { store.fire(&plan).await.expect("answered") })
            })
            .collect();
        let mut written = 0;
        for fired in firing {
            written += usize::from(fired.await.expect("no panic") != Fired::Stale);
        }
        assert_eq!(written, 1, "round {round}");
        schedule = store.schedule(&Tenant::default(), &name("due")).await.expect("read").expect("there");
    }
    let records = store.firings(&Tenant::default(), &name("due"), None, 100).await;
    assert_eq!(records.expect("read").expect("there").len(), 5);
    let waiting = store.waiting(&queue("q"), 100).await.expect("listed");
    assert_eq!(waiting.len(), 5, "a task for each tick");
}

/// A change by its owner makes a plan stale, and a removal does; the tasks stay.
pub async fn a_changed_or_removed_schedule_is_not_fired(harness: &dyn Harness) {
    let store = harness.store();
    let schedule = due(harness).await;
    let Ok(Fired::Yes(receipts)) = store.fire(&firing(&schedule)).await else { panic!("fired") };
    let again = store.schedule(&Tenant::default(), &name("due")).await.expect("read").expect("there");
    let plan = firing(&again);
    store.put_schedule(&again.spec, again.next_tick).await.expect("kept");
    assert_eq!(store.fire(&plan).await, Ok(Fired::Stale));
    assert_eq!(store.remove_schedule(&tenant("acme"), &name("due")).await, Ok(false));
    assert_eq!(store.remove_schedule(&Tenant::default(), &name("due")).await, Ok(true));
    assert_eq!(store.remove_schedule(&Tenant::default(), &name("due")).await, Ok(false));
    assert_eq!(store.fire(&plan).await, Ok(Fired::Stale));
    assert_eq!(store.firings(&Tenant::default(), &name("due"), None, 1).await, Ok(None));
    assert_eq!(read(&*store, receipts[0].id).await.status, Status::Pending);
}
