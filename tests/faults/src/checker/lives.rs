//! The life of each task, step by step, as the triggers wrote it.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use super::{Evidence, Kind, Transition, Verdict};

const PROCESSING: &str = "PROCESSING";

/// Checks I2, I3 and I4 against the transitions; answers how many attempts failed by themselves.
pub(super) fn check(evidence: &Evidence, verdict: &mut Verdict) -> usize {
    let mut lives: BTreeMap<i64, Vec<(usize, &Transition)>> = BTreeMap::new();
    let mut dead: HashMap<i64, usize> = HashMap::new();
    let mut failed = 0;
    for (place, transition) in evidence.transitions.iter().enumerate() {
        if let Some(task) = transition.task {
            lives.entry(task).or_default().push((place, transition));
        }
        match (transition.kind, transition.state.as_deref()) {
            (Kind::Worker, Some("DEAD")) => {
                let worker = transition.worker.unwrap_or_default();
                verdict.deaths += 1;
                verdict.held_at_deaths += transition.held.unwrap_or_default() as usize;
                dead.entry(worker).or_insert(place);
                if let Some(late) = transition.lease_left.and_then(|left| u64::try_from(-left).ok()) {
                    verdict.longest_unfound = verdict.longest_unfound.max(Duration::from_micros(late));
                }
                if let Some(left) = transition.lease_left.filter(|left| *left > 0) {
                    let text =
                        format!("worker {worker} was declared dead {left} µs before its lease ran out");
                    verdict.broken("I3", text);
                }
            }
            (Kind::Attempt, Some("CRASHED")) => verdict.crashed += 1,
            (Kind::Attempt, Some("RELEASED")) => verdict.released += 1,
            (Kind::Attempt, Some(_)) => failed += 1,
            _ => {}
        }
    }
    for (task, steps) in &lives {
        check_one(*task, steps, &dead, verdict);
    }
    failed
}

fn check_one(task: i64, steps: &[(usize, &Transition)], dead: &HashMap<i64, usize>, verdict: &mut Verdict) {
    let (mut outcomes, mut highest) = (0_u32, 0);
    for (at, (place, step)) in steps.iter().enumerate() {
        match step.kind {
            Kind::Live => {
                let now = step.state.as_deref();
                if outcomes > 0 && now.is_some() {
                    verdict.broken("I2", format!("task {task} lives again after its end, as {}", show(step)));
                }
                if now == Some(PROCESSING) {
                    check_claim(task, step, &mut highest, verdict);
                } else if step.was_state.as_deref() == Some(PROCESSING) || now.is_none() {
                    check_end_of_hold(task, steps, at, verdict);
                }
            }
            Kind::Outcome => {
                if step.state.is_none() {
                    verdict.broken(
                        "I2",
                        format!("the outcome of task {task} was changed or removed: {}", show(step)),
                    );
                    continue;
                }
                outcomes += 1;
                if outcomes > 1 {
                    verdict.broken("I2", format!("task {task} ended again, as {}", show(step)));
                }
                if !neighbours(steps, at).any(|other| other.kind == Kind::Live && other.state.is_none()) {
                    let text = format!("task {task} ended as {} while nobody held it so", show(step));
                    verdict.broken("I4", text);
                }
            }
            Kind::Attempt => {
                if step.state.is_none() {
                    verdict.broken(
                        "I4",
                        format!("an attempt of task {task} was changed or removed: {}", show(step)),
                    );
                    continue;
                }
                let given_up = |other: &&Transition| {
                    other.kind == Kind::Live && other.was_state.as_deref() == Some(PROCESSING)
                };
                if neighbours(steps, at).find(given_up).is_none() {
                    let text =
                        format!("an attempt of task {task} ended as {} while nobody held it so", show(step));
                    verdict.broken("I4", text);
                }
                let worker = step.worker.unwrap_or_default();
                let was_dead = dead.get(&worker).is_some_and(|death| death < place);
                if step.state.as_deref() == Some("CRASHED") && !was_dead {
                    let text =
                        format!("task {task} was taken from worker {worker}, which was not declared dead");
                    verdict.broken("I3", text);
                }
            }
            Kind::Worker => {}
        }
    }
}

/// A worker takes the task.
fn check_claim(task: i64, step: &Transition, highest: &mut u32, verdict: &mut Verdict) {
    let attempt = step.attempt.unwrap_or_default();
    if step.was_state.as_deref() == Some(PROCESSING) {
        let text = format!(
            "task {task} went from worker {:?} (attempt {:?}) to worker {:?} (attempt {attempt}) without being given up",
            step.was_worker, step.was_attempt, step.worker
        );
        verdict.broken("I3", text);
    }
    if attempt <= *highest {
        verdict.broken("I3", format!("task {task} was taken as attempt {attempt} after attempt {highest}"));
    }
    *highest = attempt.max(*highest);
}

/// A worker's hold on the task ends, or it goes: what says how must name just that hold.
fn check_end_of_hold(task: i64, steps: &[(usize, &Transition)], at: usize, verdict: &mut Verdict) {
    let (_, step) = steps[at];
    let (kind, promise) = match step.state {
        None => (Kind::Outcome, "I2"),
        Some(_) => (Kind::Attempt, "I4"),
    };
    let record = neighbours(steps, at).find(|other| other.kind == kind && other.state.is_some());
    match record {
        None => verdict.broken(promise, format!("nothing says what became of task {task} as {}", show(step))),
        Some(record) => {
            if (record.worker, record.attempt) != (step.was_worker, step.was_attempt) {
                let text = format!("task {task} was {} when it ended as {}", show(step), show(record));
                verdict.broken("I4", text);
            }
        }
    }
}

/// The steps of the same change: what was written about this task just before and just after.
fn neighbours<'a>(
    steps: &'a [(usize, &'a Transition)],
    at: usize,
) -> impl Iterator<Item = &'a Transition> + 'a {
    let before = at.checked_sub(1).and_then(|before| steps.get(before));
    before.into_iter().chain(steps.get(at + 1)).map(|(_, step)| *step)
}

/// State, worker and attempt; of what is gone, what it was.
fn show(step: &Transition) -> String {
    let (state, worker, attempt) = match step.state {
        Some(_) => (&step.state, step.worker, step.attempt),
        None => (&step.was_state, step.was_worker, step.was_attempt),
    };
    let state = state.as_deref().unwrap_or("nothing");
    let worker = worker.map_or("of nobody".to_owned(), |worker| format!("of worker {worker}"));
    format!("{state} {worker}, attempt {}", attempt.unwrap_or_default())
}
