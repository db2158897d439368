//! Schedules over the memory store, on a paused clock.

use std::time::Duration;

use chrono::TimeDelta;
use domain::{Json, Status, TaskType};
use serde::de::IgnoredAny;

use super::*;
use crate::{
    ports::{ListPage, TaskFilter, TaskStore},
    registry::{Output, TaskTypeSpec},
    testing::Product,
};

fn name() -> ScheduleName {
    ScheduleName::new("every-minute").expect("a name")
}

fn product() -> Product {
    let quick = TaskTypeSpec::new("demo.quick", "Completes at once.", |_, _: IgnoredAny| async {
        Output::of("done")
    });
    let slow = TaskTypeSpec::new("demo.slow", "Takes 150 s.", |_, _: IgnoredAny| async {
        tokio::time::sleep(Duration::from_secs(150)).await;
        Output::of("done")
    });
    Product::new([quick, slow])
}

fn request(task_type: &str, overlap: Overlap) -> ScheduleRequest {
    let input = Json::parse("null").expect("JSON");
    ScheduleRequest {
        cadence: Cadence::cron("* * * * *", "UTC").expect("a cadence"),
        catch_up: CatchUp::Skip,
        overlap,
        jitter: Duration::ZERO,
        paused: false,
        submission: Submission::new(TaskType::new(task_type).expect("a type"), input),
    }
}

async fn tasks(product: &Product) -> Vec<domain::Task> {
    let page = ListPage { before: None, limit: 500 };
    let mut tasks =
        product.store.list(&Tenant::default(), &TaskFilter::default(), page).await.expect("listed");
    tasks.reverse();
    tasks
}

#[tokio::test(start_paused = true)]
async fn each_tick_is_fired_once_by_any_number_of_processes() {
    let product = product();
    let schedules = product.schedules();
    schedules.put(&Tenant::default(), name(), request("demo.quick", Overlap::Allow)).await.expect("kept");
    for _ in 0..5 {
        tokio::spawn(product.upkeep().run(Default::default()));
    }
    let _worker = product.worker(4);
    tokio::time::sleep(Duration::from_secs(605)).await;
    let tasks = tasks(&product).await;
    assert_eq!(tasks.len(), 10);
    assert!(tasks.iter().all(|task| task.status == Status::Completed));
    let late: Vec<TimeDelta> = tasks
        .iter()
        .map(|task| {
            let notes: serde_json::Value = task.metadata.as_ref().expect("notes").to().expect("JSON");
            assert_eq!(notes["schedule"], "every-minute");
            let tick: Timestamp = notes["scheduled_for"].as_str().expect("a text").parse().expect("a moment");
            task.created_at - tick
        })
        .collect();
    assert!(late.iter().all(|late| *late <= TimeDelta::milliseconds(600)), "{late:?}");
    let records =
        schedules.firings(&Tenant::default(), &name(), None, 100).await.expect("readable").expect("known");
    assert_eq!(records.len(), 10);
    assert!(records.is_sorted_by_key(|record| std::cmp::Reverse(record.tick())));
}

#[tokio::test(start_paused = true)]
async fn a_tick_cancels_the_task_that_still_runs_where_that_is_asked_for() {
    let product = product();
    let schedules = product.schedules();
    schedules
        .put(&Tenant::default(), name(), request("demo.slow", Overlap::CancelRunning))
        .await
        .expect("kept");
    tokio::spawn(product.upkeep().run(Default::default()));
    let _worker = product.worker(4);
    tokio::time::sleep(Duration::from_secs(190)).await;
    let statuses: Vec<_> = tasks(&product).await.iter().map(|task| task.status).collect();
    assert_eq!(statuses, [Status::Cancelled, Status::Cancelled, Status::Processing]);
}

#[tokio::test(start_paused = true)]
async fn a_tick_waits_for_the_task_that_still_runs_where_that_is_asked_for() {
    let product = product();
    let schedules = product.schedules();
    schedules.put(&Tenant::default(), name(), request("demo.slow", Overlap::Queue)).await.expect("kept");
    tokio::spawn(product.upkeep().run(Default::default()));
    let _worker = product.worker(4);
    tokio::time::sleep(Duration::from_secs(600)).await;
    let tasks = tasks(&product).await;
    assert!((3..=4).contains(&tasks.len()), "one after the other: {}", tasks.len());
    for pair in tasks.windows(2) {
        assert!(pair[1].created_at >= pair[0].completed_at.expect("it ended"), "no two at once");
    }
}

#[tokio::test(start_paused = true)]
async fn a_schedule_that_stands_still_forgets_what_passes() {
    let product = product();
    let (schedules, tenant) = (product.schedules(), Tenant::default());
    schedules.put(&tenant, name(), request("demo.quick", Overlap::Allow)).await.expect("kept");
    let paused = schedules.pause(&tenant, &name(), true).await.expect("kept").expect("known");
    assert_eq!((paused.next_tick, Schedules::coming(&paused, 3)), (None, vec![]));
    tokio::spawn(product.upkeep().run(Default::default()));
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert!(tasks(&product).await.is_empty());
    let going = schedules.pause(&tenant, &name(), false).await.expect("kept").expect("known");
    assert_eq!(Schedules::coming(&going, 3).len(), 3);
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(tasks(&product).await.len(), 1);
    let by_hand = schedules.trigger(&tenant, &name()).await.expect("submitted").expect("known");
    assert!(matches!(by_hand, Admission::Created(_)));
    assert!(schedules.remove(&tenant, &name()).await.expect("removed"));
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(tasks(&product).await.len(), 2, "the tasks stay, and no other comes");
}

#[tokio::test(start_paused = true)]
async fn what_a_schedule_submits_is_checked_when_it_is_made() {
    let product = product();
    let refused =
        product.schedules().put(&Tenant::default(), name(), request("demo.qick", Overlap::Allow)).await;
    assert!(matches!(refused, Err(SubmitError::Invalid(_))), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn schedules_of_the_configuration_are_kept_changed_and_removed_and_others_left_alone() {
    let product = product();
    let schedules = product.schedules();
    let tenant = Tenant::default();
    let called = |text: &str| ScheduleName::new(text).expect("a name");
    let quick = |overlap| request("demo.quick", overlap);
    schedules.put(&tenant, called("mine"), quick(Overlap::Allow)).await.expect("kept");
    let wanted = [
        (called("a"), quick(Overlap::Allow)),
        (called("b"), quick(Overlap::Allow)),
        (called("mine"), quick(Overlap::Skip)),
    ];
    let done = schedules.reconcile(&tenant, &wanted, true).await.expect("reconciled");
    assert_eq!((done.changed, done.removed, done.left_alone), (2, 0, vec![called("mine")]));
    let again = schedules.reconcile(&tenant, &wanted, true).await.expect("reconciled");
    assert_eq!((again.changed, again.removed), (0, 0), "nothing has changed");
    schedules.pause(&tenant, &called("a"), true).await.expect("paused");

    let wanted = [(called("a"), quick(Overlap::Queue))];
    let partly = schedules.reconcile(&tenant, &wanted, false).await.expect("reconciled");
    assert_eq!((partly.changed, partly.removed), (1, 0));
    let done = schedules.reconcile(&tenant, &wanted, true).await.expect("reconciled");
    assert_eq!((done.changed, done.removed), (0, 1));
    let left = schedules.list(&tenant, None, 10).await.expect("listed");
    let left: Vec<_> =
        left.iter().map(|it| (it.spec.name.as_str(), it.spec.overlap, it.spec.paused)).collect();
    assert_eq!(left, [("a", Overlap::Queue, true), ("mine", Overlap::Allow, false)], "the pause stays");
}
