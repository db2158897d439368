//! The checker itself, against lives that are as they should be and lives that are not.

use super::*;

/// A row of the triggers.
fn row(
    kind: Kind,
    task: i64,
    was: Option<(&str, Option<i64>, u32)>,
    now: Option<(&str, Option<i64>, u32)>,
) -> Transition {
    let was = was.map(|(state, worker, attempt)| (state.to_owned(), worker, attempt));
    let now = now.map(|(state, worker, attempt)| (state.to_owned(), worker, attempt));
    Transition {
        at: 0,
        kind,
        task: Some(task),
        was_state: was.as_ref().map(|was| was.0.clone()),
        was_worker: was.as_ref().and_then(|was| was.1),
        was_attempt: was.as_ref().map(|was| was.2),
        state: now.as_ref().map(|now| now.0.clone()),
        worker: now.as_ref().and_then(|now| now.1),
        attempt: now.as_ref().map(|now| now.2),
        held: None,
        lease_left: None,
    }
}

fn submitted(task: i64) -> Transition {
    row(Kind::Live, task, None, Some(("PENDING", None, 0)))
}

fn claimed(task: i64, worker: i64, attempt: u32) -> Transition {
    let (was, now) = (("PENDING", None, attempt - 1), ("PROCESSING", Some(worker), attempt));
    row(Kind::Live, task, Some(was), Some(now))
}

fn ended(task: i64, status: &str, worker: i64, attempt: u32) -> [Transition; 2] {
    [
        row(Kind::Outcome, task, None, Some((status, Some(worker), attempt))),
        row(Kind::Live, task, Some(("PROCESSING", Some(worker), attempt)), None),
    ]
}

fn put_back(task: i64, outcome: &str, worker: i64, attempt: u32) -> [Transition; 2] {
    let (was, now) = (("PROCESSING", Some(worker), attempt), ("PENDING", None, attempt));
    [
        row(Kind::Live, task, Some(was), Some(now)),
        row(Kind::Attempt, task, None, Some((outcome, Some(worker), attempt))),
    ]
}

fn died(worker: i64, held: u64, lease_left: i64) -> Transition {
    Transition {
        task: None,
        held: Some(held),
        lease_left: Some(lease_left),
        ..row(Kind::Worker, 0, None, Some(("DEAD", Some(worker), 0)))
    }
}

fn fate(task: i64, attempt: u32) -> Fate {
    Fate {
        task,
        key: Some(format!("key-{task}")),
        status: Some("COMPLETED".into()),
        attempt: Some(attempt),
        result: Some(format!(r#"{{"task":{task},"attempt":{attempt}}}"#)),
        ..Fate::default()
    }
}

fn handled(task: i64, attempt: u32, to_the_end: bool) -> Vec<HandlerEvent> {
    let start = HandlerEvent::Start { task, attempt, pid: 1, at: 0 };
    let end = HandlerEvent::End { task, attempt, pid: 1, at: 0 };
    if to_the_end { vec![start, end] } else { vec![start] }
}

fn acknowledged(task: i64) -> Vec<ClientEvent> {
    let op = task as u64;
    let call = Call::Submit { key: format!("key-{task}") };
    let status = "PENDING".to_owned();
    vec![
        ClientEvent::Invoke { op, at: 0, call },
        ClientEvent::Ok { op, at: 0, code: 201, task, status, replayed: false },
    ]
}

/// Task 1 runs to its end; task 2 loses its first worker and runs to its end on another.
fn sound() -> Evidence {
    let mut transitions = vec![submitted(1), submitted(2), claimed(1, 7, 1), claimed(2, 7, 1)];
    transitions.extend(ended(1, "COMPLETED", 7, 1));
    transitions.push(died(7, 1, -5));
    transitions.extend(put_back(2, "CRASHED", 7, 1));
    transitions.push(claimed(2, 8, 2));
    transitions.extend(ended(2, "COMPLETED", 8, 2));
    let handlers = [handled(1, 1, true), handled(2, 1, false), handled(2, 2, true)].concat();
    Evidence {
        clients: [acknowledged(1), acknowledged(2)].concat(),
        handlers,
        transitions,
        fates: vec![fate(1, 1), fate(2, 2)],
        drain: Some(Drain { took: Some(Duration::ZERO), limit: Duration::ZERO, left: 0 }),
    }
}

/// What is found when the sound evidence is spoilt like this.
fn found(spoil: impl FnOnce(&mut Evidence)) -> Vec<&'static str> {
    let mut evidence = sound();
    spoil(&mut evidence);
    let mut promises: Vec<_> =
        check(&evidence).violations.iter().map(|violation| violation.promise).collect();
    promises.dedup();
    promises
}

#[test]
fn sound_evidence_breaks_nothing_and_is_counted() {
    let verdict = check(&sound());
    assert_eq!(verdict.violations, []);
    assert_eq!((verdict.acknowledged, verdict.starts, verdict.repeats, verdict.repeats_bound), (2, 3, 1, 1));
    assert_eq!((verdict.deaths, verdict.held_at_deaths, verdict.crashed, verdict.released), (1, 1, 1, 0));
    assert_eq!(verdict.longest_unfound, Duration::from_micros(5));
    assert_eq!(verdict.ended, BTreeMap::from([("COMPLETED".to_owned(), 2)]));
}

#[test]
fn lost_and_unended_submissions_are_found() {
    assert_eq!(found(|evidence| drop(evidence.fates.pop())), ["I1"]);
    assert_eq!(found(|evidence| evidence.fates[1].status = None), ["I1"]);
    assert_eq!(found(|evidence| evidence.fates[1].key = Some("key-1".into())), ["I1", "I5"]);
}

#[test]
fn a_key_with_two_tasks_is_found() {
    let twice = |evidence: &mut Evidence| {
        evidence.fates.push(Fate { key: Some("key-1".into()), ..fate(3, 1) });
        evidence.handlers.extend(handled(3, 1, true));
    };
    assert_eq!(found(twice), ["I5"]);
    let answered_twice = |evidence: &mut Evidence| {
        let status = "PENDING".to_owned();
        evidence.clients.push(ClientEvent::Ok { op: 1, at: 0, code: 201, task: 2, status, replayed: true });
    };
    assert_eq!(found(answered_twice), ["I5", "I1"]);
}

#[test]
fn two_ends_and_changed_ends_are_found() {
    let again = row(Kind::Outcome, 1, None, Some(("CANCELLED", None, 1)));
    assert_eq!(found(|evidence| evidence.transitions.push(again)), ["I2"]);
    let changed = row(Kind::Outcome, 1, Some(("COMPLETED", Some(7), 1)), None);
    assert_eq!(found(|evidence| evidence.transitions.push(changed)), ["I2"]);
    assert_eq!(found(|evidence| evidence.transitions.push(submitted(1))), ["I2"]);
}

#[test]
fn a_task_that_vanishes_is_found() {
    let vanish = |evidence: &mut Evidence| evidence.transitions.retain(|step| step.kind != Kind::Outcome);
    assert_eq!(found(vanish), ["I2"]);
}

#[test]
fn a_zombies_end_is_found() {
    let zombie = |evidence: &mut Evidence| {
        let steps = &mut evidence.transitions;
        steps.truncate(steps.len() - 2);
        // Worker 7 settles attempt 1 while worker 8 holds attempt 2.
        steps.push(row(Kind::Outcome, 2, None, Some(("COMPLETED", Some(7), 1))));
        steps.push(row(Kind::Live, 2, Some(("PROCESSING", Some(8), 2)), None));
    };
    assert_eq!(found(zombie), ["I4"]);
}

#[test]
fn a_result_of_another_attempt_is_found() {
    assert_eq!(found(|evidence| evidence.fates[1].result = fate(2, 1).result), ["I4"]);
    assert_eq!(found(|evidence| evidence.handlers.truncate(4)), ["I4"]);
}

#[test]
fn overlapping_and_hasty_take_overs_are_found() {
    let overlap = row(Kind::Live, 1, Some(("PROCESSING", Some(7), 1)), Some(("PROCESSING", Some(8), 2)));
    assert_eq!(found(|evidence| evidence.transitions.insert(4, overlap)), ["I3"]);
    assert_eq!(found(|evidence| evidence.transitions[6] = died(7, 1, 1_000)), ["I3"]);
    // Taken before the worker was declared dead.
    let early = |evidence: &mut Evidence| {
        let death = evidence.transitions.remove(6);
        evidence.transitions.insert(8, death);
    };
    assert_eq!(found(early), ["I3"]);
}

#[test]
fn attempts_that_do_not_rise_or_start_twice_are_found() {
    let same = |evidence: &mut Evidence| {
        for step in &mut evidence.transitions {
            step.attempt = step.attempt.map(|attempt| attempt.min(1));
            step.was_attempt = step.was_attempt.map(|attempt| attempt.min(1));
        }
        evidence.fates[1] = fate(2, 1);
        evidence.handlers = [handled(1, 1, true), handled(2, 1, false), handled(2, 1, true)].concat();
    };
    assert_eq!(found(same), ["I3"]);
}

#[test]
fn repeats_that_no_fault_explains_are_found() {
    let repeated = |evidence: &mut Evidence| evidence.handlers.extend(handled(1, 2, false));
    assert_eq!(found(repeated), ["I3"]);
}

#[test]
fn a_reader_that_is_told_nothing_is_found() {
    let watched = |status: &str| {
        let status = status.to_owned();
        move |evidence: &mut Evidence| {
            evidence.clients.push(ClientEvent::Invoke { op: 9, at: 0, call: Call::Watch { task: 1 } });
            evidence.clients.push(ClientEvent::Ok {
                op: 9,
                at: 0,
                code: 200,
                task: 1,
                status,
                replayed: false,
            });
        }
    };
    assert_eq!(found(watched("COMPLETED")), ["I7"; 0]);
    assert_eq!(found(watched("PROCESSING")), ["I7"]);
}

#[test]
fn a_cancellation_whose_answer_does_not_hold_is_found() {
    let cancelled = |code, status: &str| {
        let status = status.to_owned();
        move |evidence: &mut Evidence| {
            evidence.clients.push(ClientEvent::Invoke { op: 9, at: 0, call: Call::Cancel { task: 1 } });
            evidence.clients.push(ClientEvent::Ok { op: 9, at: 0, code, task: 1, status, replayed: false });
        }
    };
    assert_eq!(found(cancelled(409, "COMPLETED")), ["I2"; 0]);
    assert_eq!(found(cancelled(202, "PROCESSING")), ["I2"; 0]);
    assert_eq!(found(cancelled(200, "CANCELLED")), ["I2"]);
}

#[test]
fn a_backlog_that_does_not_drain_is_found() {
    let stuck = Drain { took: None, limit: Duration::from_secs(1), left: 3 };
    assert_eq!(found(|evidence| evidence.drain = Some(stuck)), ["I8"]);
}
