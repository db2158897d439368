//! What is known of workers, and what they are told to do.

use application::ports::{
    CommandAnswer, CommandId, GivenCommand, Store, Wanted, WorkerProfile, WorkerRecord, WorkerReport,
};
use domain::{Departure, WorkerId};

use crate::{Harness, fixtures::*};

async fn one(store: &dyn Store, id: WorkerId) -> WorkerRecord {
    store.workers(Wanted::One(id)).await.expect("readable").workers.pop().expect("it is known")
}

async fn recent(store: &dyn Store) -> Vec<WorkerId> {
    let fleet = store.workers(Wanted::Recent(60 * SECOND)).await.expect("readable");
    fleet.workers.iter().map(|worker| worker.id).collect()
}

fn report(standing: &str) -> WorkerReport {
    WorkerReport { queues: vec![queue("a")], except: Vec::new(), concurrency: 3, standing: json(standing) }
}

fn answer(id: CommandId, done: bool, message: &str) -> CommandAnswer {
    CommandAnswer { id, done, message: message.to_owned() }
}

fn ids(given: &[GivenCommand]) -> Vec<CommandId> {
    given.iter().map(|command| command.id).collect()
}

/// Its registration, its lease, and what it said of itself.
pub async fn a_worker_is_shown_as_it_introduced_itself(harness: &dyn Harness) {
    let store = &*harness.store();
    let start = now(store).await;
    let profile = WorkerProfile {
        queues: vec![queue("b"), queue("a")],
        concurrency: 7,
        about: Some(json(r#"{"pid": 4711}"#)),
        ..profile("urgent@host")
    };
    let id = store.register(&profile).await.expect("register");
    harness.advance(SECOND).await;
    assert!(store.heartbeat(id).await.expect("heartbeat"));
    let expected = WorkerRecord {
        id,
        name: profile.name.clone(),
        queues: profile.queues.clone(),
        except: Vec::new(),
        concurrency: 7,
        lease: LEASE,
        registered_at: start,
        last_heartbeat: start + SECOND,
        departure: None,
        about: profile.about.clone(),
        report: None,
    };
    assert_eq!(one(store, id).await, expected);
    let fleet = store.workers(Wanted::Recent(SECOND)).await.expect("readable");
    assert_eq!((fleet.now, fleet.workers), (start + SECOND, vec![expected]));
    let nobody = store.workers(Wanted::One(WorkerId(4711))).await.expect("readable");
    assert_eq!(nobody.workers, []);
}

/// The last report counts, and changes what the worker is known to serve.
pub async fn the_last_report_is_shown(harness: &dyn Harness) {
    let store = &*harness.store();
    let id = worker(store).await;
    assert_eq!(store.report(id, Some(report(r#"{"n": 1}"#)), &[]).await.expect("kept"), []);
    harness.advance(SECOND).await;
    let last = WorkerReport { queues: Vec::new(), except: vec![queue("b")], ..report(r#"{"n": 2.0}"#) };
    store.report(id, Some(last), &[]).await.expect("kept");
    harness.advance(SECOND).await;
    store.report(id, None, &[]).await.expect("nothing new");
    let shown = one(store, id).await;
    assert_eq!(shown.report, Some((now(store).await - SECOND, json(r#"{"n": 2.0}"#))));
    assert_eq!((shown.queues, shown.except, shown.concurrency), (vec![], vec![queue("b")], 3));
    assert_eq!(shown.last_heartbeat, shown.registered_at, "a report is no heartbeat");
}

/// Those that are gone are listed for a while, those that live always; the latest first.
pub async fn workers_that_are_gone_are_listed_for_a_while(harness: &dyn Harness) {
    let store = &*harness.store();
    let (left, dead) = (worker(store).await, worker(store).await);
    store.retire(left).await.expect("retire");
    harness.advance(2 * LEASE).await;
    bury(store, dead).await;
    let alive = worker(store).await;
    assert_eq!(recent(store).await, [alive, dead, left]);
    let departure = async |id| one(store, id).await.departure;
    assert_eq!(departure(left).await, Some(Departure::Left));
    assert_eq!(departure(dead).await, Some(Departure::Dead));
    assert_eq!(departure(alive).await, None);
    harness.advance(120 * SECOND).await;
    assert_eq!(recent(store).await, [alive], "silent, and not gone");
    assert_eq!(departure(left).await, Some(Departure::Left), "known by its number all the same");
}

/// Each worker is given its own, oldest first, until it has answered.
pub async fn commands_are_given_until_they_are_answered(harness: &dyn Harness) {
    let store = &*harness.store();
    let (one, other) = (worker(store).await, worker(store).await);
    let pause = store.command(&[one, other], "pause").await.expect("kept");
    let more = store.command(&[one], "concurrency 5").await.expect("kept");
    assert_eq!(pause.len(), 2);
    let first = GivenCommand { id: pause[0], command: "pause".to_owned() };
    let second = GivenCommand { id: more[0], command: "concurrency 5".to_owned() };
    for _ in 0..2 {
        let given = store.report(one, None, &[]).await.expect("given");
        assert_eq!(given, [first.clone(), second.clone()]);
    }
    assert_eq!(store.answers(&pause).await.expect("readable"), []);
    let done = answer(pause[0], true, "takes no tasks");
    let given = store.report(one, Some(report("{}")), std::slice::from_ref(&done)).await.expect("given");
    assert_eq!(given, [second]);
    assert_eq!(store.answers(&pause).await.expect("readable"), std::slice::from_ref(&done));
    let refused = answer(more[0], false, "too \"many\"");
    assert_eq!(store.report(one, None, std::slice::from_ref(&refused)).await.expect("given"), []);
    assert_eq!(store.answers(&more).await.expect("readable"), [refused]);
    assert_eq!(ids(&store.report(other, None, &[]).await.expect("given")), [pause[1]]);
    assert_eq!(store.command(&[], "ping").await.expect("nobody"), []);
}

/// An answer stands, and only the worker that was told can give it.
pub async fn an_answer_is_the_workers_own_and_the_first_one_stands(harness: &dyn Harness) {
    let store = &*harness.store();
    let (one, other) = (worker(store).await, worker(store).await);
    let told = store.command(&[one], "ping").await.expect("kept");
    let (pong, late) = (answer(told[0], true, "pong"), answer(told[0], false, "late"));
    store.report(other, Some(report("{}")), std::slice::from_ref(&late)).await.expect("reported");
    assert_eq!(store.answers(&told).await.expect("readable"), [], "not its to answer");
    store.report(one, None, std::slice::from_ref(&pong)).await.expect("reported");
    store.report(one, None, &[late, answer(CommandId(4711), true, "?")]).await.expect("reported");
    assert_eq!(store.answers(&told).await.expect("readable"), [pong]);
}

/// Whoever is gone is given nothing, and nothing of it is kept.
pub async fn who_is_gone_is_told_nothing(harness: &dyn Harness) {
    let store = &*harness.store();
    let (left, dead) = (worker(store).await, worker(store).await);
    let told = store.command(&[left, dead], "ping").await.expect("kept");
    harness.advance(2 * LEASE).await;
    bury(store, dead).await;
    store.retire(left).await.expect("retire");
    for (worker, told) in [left, dead].into_iter().zip(&told) {
        assert_eq!(store.report(worker, None, &[]).await.expect("answered"), []);
        let pong = answer(*told, true, "pong");
        assert_eq!(store.report(worker, Some(report("{}")), &[pong]).await.expect("answered"), []);
        assert_eq!(one(store, worker).await.report, None);
    }
    assert_eq!(store.answers(&told).await.expect("readable"), []);
}

/// Old commands go, and old reports of workers that are gone.
pub async fn old_reports_are_forgotten_in_steps(harness: &dyn Harness) {
    let store = &*harness.store();
    let (gone, alive) = (worker(store).await, worker(store).await);
    for id in [gone, alive] {
        store.report(id, Some(report("{}")), &[]).await.expect("kept");
    }
    let told = store.command(&[alive; 3], "ping").await.expect("kept");
    store.retire(gone).await.expect("retire");
    assert_eq!(store.forget_reports(60 * SECOND, 10).await.expect("forgotten"), 0);
    harness.advance(61 * SECOND).await;
    let recent = store.command(&[alive], "pause").await.expect("kept");
    assert_eq!(store.forget_reports(60 * SECOND, 2).await.expect("forgotten"), 3, "two commands, one report");
    assert_eq!(ids(&store.report(alive, None, &[]).await.expect("given")), [told[2], recent[0]]);
    assert_eq!(store.forget_reports(60 * SECOND, 2).await.expect("forgotten"), 1);
    assert_eq!(one(store, gone).await.report, None);
    assert!(one(store, alive).await.report.is_some(), "it lives");
}
