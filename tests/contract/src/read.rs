//! Reading, listing, counting, and who sees what.

use application::ports::{CancelOutcome, DeleteOutcome, ListPage, QueueCounts, TaskFilter};
use domain::{NewTask, Status, TaskId, TaskType, Tenant};

use crate::{Harness, fixtures::*};

/// As asked; ids that nobody has are left out.
pub async fn tasks_come_in_the_order_asked_and_unknown_ids_are_left_out(harness: &dyn Harness) {
    let store = &*harness.store();
    let ids = submit_many(store, 3).await;
    let asked = [ids[2], TaskId(ids[2].0 + 1_000), ids[0], TaskId(-1), TaskId(0), ids[1], TaskId(i64::MAX)];
    let kept = store.read(&Tenant::default(), &asked).await.expect("read");
    assert_eq!(kept.iter().map(|task| task.id).collect::<Vec<_>>(), [ids[2], ids[0], ids[1]]);
    assert_eq!(store.read(&Tenant::default(), &[]).await.expect("read"), []);
}

/// The highest id first, whatever the priority.
pub async fn lists_are_newest_first(harness: &dyn Harness) {
    let store = &*harness.store();
    let mut ids = submit(store, &[task_in("a", 9), task_in("b", 0), task_in("a", 5)]).await;
    ids.reverse();
    let page = ListPage { before: None, limit: 10 };
    let list = store.list(&Tenant::default(), &TaskFilter::default(), page).await.expect("list");
    assert_eq!(list.iter().map(|task| task.id).collect::<Vec<_>>(), ids);
    for task in list {
        assert_eq!(task, read(store, task.id).await, "a list shows what a read shows");
    }
}

/// Any of the statuses, this type, this queue, and all of these together.
pub async fn lists_are_filtered(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let other_type = TaskType::new("demo.noop").expect("a valid type");
    let pending = submit_one(store, task_in("a", 5)).await;
    let noop = submit_one(store, NewTask { task_type: other_type.clone(), ..task_in("a", 5) }).await;
    let scheduled = submit_one(store, NewTask { queue: queue("b"), ..task_after(SECOND) }).await;
    let processing = submit_one(store, task_in("b", 5)).await;
    start(store, worker, processing).await;
    let completed = submit_one(store, NewTask { task_type: other_type.clone(), ..task_in("a", 5) }).await;
    let claimed = start(store, worker, completed).await;
    settled(store, worker, success(&claimed, "1")).await;
    let cancelled = submit_one(store, task_in("b", 5)).await;
    store.cancel(&Tenant::default(), &[cancelled]).await.expect("cancel");

    let list = async |statuses: &[Status], task_type: Option<&TaskType>, in_queue: Option<&str>| {
        let filter = TaskFilter {
            statuses: statuses.to_vec(),
            task_type: task_type.cloned(),
            queue: in_queue.map(queue),
            ..TaskFilter::default()
        };
        let page = ListPage { before: None, limit: 10 };
        let list = store.list(&Tenant::default(), &filter, page).await.expect("list");
        list.into_iter().map(|task| task.id).collect::<Vec<_>>()
    };
    for (status, expected) in [
        (Status::Scheduled, vec![scheduled]),
        (Status::Pending, vec![noop, pending]),
        (Status::Processing, vec![processing]),
        (Status::Completed, vec![completed]),
        (Status::Failed, vec![]),
        (Status::Cancelled, vec![cancelled]),
        (Status::Expired, vec![]),
    ] {
        assert_eq!(list(&[status], None, None).await, expected, "{status:?}");
    }
    assert_eq!(list(&[Status::Completed, Status::Pending], None, None).await, [completed, noop, pending]);
    assert_eq!(list(&Status::ALL, None, None).await.len(), 6);
    assert_eq!(list(&[], Some(&other_type), None).await, [completed, noop]);
    assert_eq!(list(&[], None, Some("b")).await, [cancelled, processing, scheduled]);
    assert_eq!(list(&[Status::Pending], Some(&other_type), Some("a")).await, [noop]);
    assert_eq!(list(&[Status::Pending], Some(&other_type), Some("b")).await, []);
    assert_eq!(list(&[], None, Some("nobody")).await, []);
}

/// `before` goes on where a page ended, with a filter too; limits hold.
pub async fn pages_follow_one_another(harness: &dyn Harness) {
    let store = &*harness.store();
    let tasks: Vec<_> = (0..23).map(|n| task_in(if n % 2 == 0 { "even" } else { "odd" }, 5)).collect();
    let mut expected = submit(store, &tasks).await;
    expected.reverse();
    let evens: Vec<_> = expected.iter().copied().step_by(2).collect();
    for (filter, expected) in [
        (TaskFilter::default(), expected),
        (
            TaskFilter {
                queue: Some(queue("even")),
                statuses: vec![Status::Pending],
                ..TaskFilter::default()
            },
            evens,
        ),
    ] {
        for limit in [1, 5, 23, 1_000] {
            let mut seen = Vec::new();
            loop {
                let page = ListPage { before: seen.last().copied(), limit };
                let tasks = store.list(&Tenant::default(), &filter, page).await.expect("list");
                assert!(tasks.len() <= limit);
                if tasks.is_empty() {
                    break;
                }
                seen.extend(tasks.iter().map(|task| task.id));
            }
            assert_eq!(seen, expected, "limit {limit}");
        }
    }
}

/// No call that names a tenant shows or touches another's task.
pub async fn tenants_see_only_their_own(harness: &dyn Harness) {
    let store = &*harness.store();
    let (ours, theirs) = (tenant("ours"), tenant("theirs"));
    let worker = worker(store).await;
    let of = |tenant: &Tenant| NewTask { tenant: tenant.clone(), ..task() };
    let ids = submit(store, &[of(&ours), of(&theirs), of(&theirs)]).await;
    let (mine, waiting, run) = (ids[0], ids[1], ids[2]);
    let claimed = start(store, worker, run).await;
    assert_eq!(claimed.tenant, theirs);

    let seen = store.read(&ours, &ids).await.expect("read");
    assert_eq!(seen.iter().map(|task| task.id).collect::<Vec<_>>(), [mine]);
    assert_eq!(everything(store, &ours).await.len(), 1);
    assert_eq!(store.counts(&ours).await.expect("counts").iter().map(|count| count.count).sum::<u64>(), 1);
    assert_eq!(store.counts(&Tenant::default()).await.expect("counts"), []);
    for id in [waiting, run] {
        assert_eq!(store.attempts(&ours, id).await.expect("attempts"), None);
    }
    let before = everything(store, &theirs).await;
    let unknown = [CancelOutcome::Unknown; 2];
    assert_eq!(store.cancel(&ours, &[waiting, run]).await.expect("cancel"), unknown);
    let unknown = [DeleteOutcome::Unknown; 2];
    assert_eq!(store.delete(&ours, &[waiting, run]).await.expect("delete"), unknown);
    assert_eq!(store.cancel_requests(worker).await.expect("requests"), []);
    assert_eq!(everything(store, &theirs).await, before);
    // Workers serve every tenant.
    settled(store, worker, success(&claimed, "1")).await;
    assert_eq!(claim_next(store, worker, &[("q", 10)], 10).await.len(), 2);
    for tenant in [&ours, &theirs] {
        assert_counts(store, tenant).await;
    }
}

/// One line for each queue and status that holds something; queues by their bytes, statuses by a task's life.
pub async fn counts_are_by_queue_and_status_in_order(harness: &dyn Harness) {
    let store = &*harness.store();
    let worker = worker(store).await;
    let names = ["a", "B", "a_b", "a-b", "a.b", "Z"];
    let tasks: Vec<_> = names.iter().map(|name| task_in(name, 5)).collect();
    submit(store, &tasks).await;
    let later = NewTask { queue: queue("a"), ..task_after(SECOND) };
    let ids = submit(store, &[later, task_in("a", 5), task_in("a", 5), task_in("a", 5)]).await;
    let claimed = start(store, worker, ids[1]).await;
    settled(store, worker, success(&claimed, "1")).await;
    store.cancel(&Tenant::default(), &[ids[2]]).await.expect("cancel");
    start(store, worker, ids[3]).await;
    let line = |name: &str, status, count| QueueCounts { queue: queue(name), status, count };
    let expected = [
        line("B", Status::Pending, 1),
        line("Z", Status::Pending, 1),
        line("a", Status::Scheduled, 1),
        line("a", Status::Pending, 1),
        line("a", Status::Processing, 1),
        line("a", Status::Completed, 1),
        line("a", Status::Cancelled, 1),
        line("a-b", Status::Pending, 1),
        line("a.b", Status::Pending, 1),
        line("a_b", Status::Pending, 1),
    ];
    assert_eq!(store.counts(&Tenant::default()).await.expect("counts"), expected);
    assert_counts(store, &Tenant::default()).await;
    // What has become zero is left out.
    store.cancel(&Tenant::default(), &[ids[0]]).await.expect("cancel");
    let counts = store.counts(&Tenant::default()).await.expect("counts");
    assert!(counts.iter().all(|line| line.status != Status::Scheduled && line.count > 0), "{counts:?}");
    assert_counts(store, &Tenant::default()).await;
}

/// A ping goes to the store and back.
pub async fn ping_names_the_store_and_its_clock(harness: &dyn Harness) {
    let store = &*harness.store();
    let first = store.ping().await.expect("ping");
    assert!(!first.kind.is_empty());
    assert_eq!(store.ping().await.expect("ping"), first, "the clock stands still");
    harness.advance(SECOND).await;
    assert_eq!(store.ping().await.expect("ping").now, first.now + SECOND);
}
