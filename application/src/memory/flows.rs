//! Tasks that wait for others.

use std::collections::BTreeSet;

use domain::{
    Change, Counters, Event, Json, Progress, State as TaskState, Status, TaskId, Tenant, Timestamp, decide,
    flow::{BatchCounts, NeedState, Needs, Verdict, is_batch, judge, waits_again},
    task::ProgressReport,
};

use super::{
    clients::submit,
    state::{Entry, State},
};
use crate::ports::{FlowStored, FollowedUp, NewNode, Receipt, Submitted, links, open_needs};

pub(super) fn submit_flow(state: &mut State, nodes: &[NewNode], now: Timestamp) -> FlowStored {
    let mut receipts: Vec<Receipt> = Vec::with_capacity(nodes.len());
    for node in nodes {
        match submit(state, &node.task, now) {
            Submitted::New(receipt) => receipts.push(receipt),
            other => return FlowStored::Not(other),
        }
    }
    let ids: Vec<TaskId> = receipts.iter().map(|receipt| receipt.id).collect();
    let (links, open) = (links(nodes, &ids), open_needs(nodes, &ids));
    let batch = ids.first().copied();
    for (((node, receipt), links), open) in nodes.iter().zip(&mut receipts).zip(links).zip(open) {
        if let Some(entry) = state.tasks.get_mut(&receipt.id) {
            entry.needs = links;
            entry.batch = batch.filter(|_| node.is_item);
        }
        if !open.is_empty() {
            receipt.run_at = None;
            let items = open.len() as u64;
            wait_for(state, receipt.id, open);
            if let Some(entry) =
                state.tasks.get_mut(&receipt.id).filter(|entry| is_batch(&entry.submitted.task_type))
            {
                let progress = Progress::new(0, items, None);
                entry.progress = Some(ProgressReport { progress, updated_at: now });
            }
        }
    }
    FlowStored::New(receipts)
}

/// Makes a task wait for these, of which some may have ended.
fn wait_for(state: &mut State, id: TaskId, open: Vec<TaskId>) {
    state.change(id, |entry| {
        (entry.state, entry.run_at) = (TaskState::Scheduled, None);
        entry.waits_for = Some(open.len());
    });
    for need in open {
        state.dependents.entry(need).or_default().insert(id);
        if state.tasks.get(&need).is_none_or(|entry| matches!(entry.state, TaskState::Ended(_))) {
            state.ended_needs.push_back(need);
        }
    }
}

/// After tasks were brought back: those that have to look at their needs again do, and whoever still waits for one waits
/// for it again. Answers those that wait for others.
pub(super) fn wait_again(state: &mut State, reopened: &[TaskId], now: Timestamp) -> BTreeSet<TaskId> {
    let mut waiting = BTreeSet::new();
    for id in reopened {
        let Some(entry) = state.tasks.get(id) else { continue };
        let Entry { submitted, needs, counters, .. } = entry;
        if !waits_again(&submitted.task_type, needs.as_ref(), *counters) {
            continue;
        }
        let is_live = |id: &TaskId| {
            state.tasks.get(id).is_some_and(|entry| !matches!(entry.state, TaskState::Ended(_)))
        };
        let open: Vec<TaskId> = if is_batch(&submitted.task_type) {
            let items = state.tasks.iter().filter(|(_, item)| item.batch == Some(*id)).map(|(item, _)| *item);
            items.filter(is_live).collect()
        } else {
            let needs = needs.iter().flat_map(|needs| needs.after.iter().map(|need| need.task));
            needs.filter(is_live).collect()
        };
        let still = open.len() as u64;
        wait_for(state, *id, open);
        come_on(state, *id, still, now);
        state.ended_needs.push_back(*id);
        waiting.insert(*id);
    }
    for id in reopened {
        let needs_it = |entry: &Entry| {
            entry.waits_for.is_some()
                && entry.needs.as_ref().is_some_and(|needs| needs.after.iter().any(|need| need.task == *id))
        };
        let batch = state.tasks.get(id).and_then(|entry| entry.batch);
        let waiting_for_it: Vec<TaskId> = state
            .tasks
            .iter()
            .filter(|(other, entry)| needs_it(entry) || (batch == Some(**other) && entry.waits_for.is_some()))
            .map(|(other, _)| *other)
            .collect();
        for other in waiting_for_it {
            let is_new = state.dependents.entry(*id).or_default().insert(other);
            if let Some(open) = state.tasks.get_mut(&other).and_then(|entry| entry.waits_for.as_mut())
                && is_new
            {
                *open += 1;
            }
        }
    }
    waiting
}

pub(super) fn follow_up(state: &mut State, limit: usize, now: Timestamp) -> FollowedUp {
    let ends: Vec<TaskId> = state.ended_needs.drain(..limit.min(state.ended_needs.len())).collect();
    let mut done = FollowedUp { seen: ends.len(), ..FollowedUp::default() };
    let mut concerned = BTreeSet::new();
    for id in ends {
        if state.tasks.get(&id).is_some_and(|entry| entry.waits_for.is_some()) {
            concerned.insert(id);
        }
        if stands(state, id) == NeedState::Open {
            continue; // it runs again, and is waited for again
        }
        for other in state.dependents.remove(&id).unwrap_or_default() {
            if let Some(open) = state.tasks.get_mut(&other).and_then(|entry| entry.waits_for.as_mut()) {
                *open -= 1;
                concerned.insert(other);
            }
        }
    }
    for id in concerned {
        look_at(state, id, now, &mut done);
    }
    done
}

fn look_at(state: &mut State, id: TaskId, now: Timestamp, done: &mut FollowedUp) {
    let Some(entry) = state.tasks.get(&id) else { return };
    let Some(open) = entry.waits_for else { return };
    let counters = entry.counters;
    if is_batch(&entry.submitted.task_type) {
        done.progress.extend(come_on(state, id, open as u64, now).map(|progress| (id, progress)));
        if open == 0 {
            let counts = counts(state, None, id);
            let (result, failure) = counts.conclude();
            end(state, id, counters, Event::Conclude { failure: failure.as_ref() }, Some(result), now, done);
        }
        return;
    }
    let needs = entry.needs.clone().unwrap_or_default();
    let states: Vec<NeedState> = needs.after.iter().map(|need| stands(state, need.task)).collect();
    match judge(&needs, &entry.submitted.input, &states) {
        Verdict::Wait => {}
        Verdict::Start(input) => {
            let Ok(change) = decide(TaskState::Scheduled, counters, Event::Due) else { return };
            if let (Some(entry), Some(input)) = (state.tasks.get_mut(&id), input) {
                entry.submitted.input = input;
                entry.needs = Some(Needs { resolved: true, ..needs });
            }
            state.apply(id, change, None, now);
            done.released.extend(state.tasks.get(&id).map(|entry| entry.waiting(id)));
        }
        Verdict::GiveUp(failure) => {
            end(state, id, counters, Event::GiveUp { failure: &failure }, None, now, done);
        }
        Verdict::Fail(failure) => {
            end(state, id, counters, Event::Conclude { failure: Some(&failure) }, None, now, done);
        }
    }
}

fn end(
    state: &mut State,
    id: TaskId,
    counters: Counters,
    event: Event<'_>,
    result: Option<Json>,
    now: Timestamp,
    done: &mut FollowedUp,
) {
    let Ok(change) = decide(TaskState::Scheduled, counters, event) else { return };
    if let Change::Finish { end, .. } = &change {
        done.ended.push((id, Status::from(*end)));
    }
    state.apply(id, change, None, now);
    if let Some(entry) = state.tasks.get_mut(&id) {
        entry.result = result;
    }
}

/// A batch has come on as far as this; `None` where it is none.
fn come_on(state: &mut State, id: TaskId, open: u64, now: Timestamp) -> Option<Progress> {
    let entry = state.tasks.get_mut(&id).filter(|entry| is_batch(&entry.submitted.task_type))?;
    let total = entry.progress.as_ref().map_or(0, |report| report.progress.total);
    let progress = Progress::new(total.saturating_sub(open), total, None);
    entry.progress = Some(ProgressReport { progress: progress.clone(), updated_at: now });
    Some(progress)
}

/// Whose results others may still ask for: those that wait for them, and batches that wait for a person.
pub(super) fn needed(state: &State) -> BTreeSet<TaskId> {
    let waiting = state.tasks.values().filter(|entry| entry.waits_for.is_some());
    let needs = waiting.flat_map(|entry| &entry.needs).flat_map(|needs| &needs.after).map(|need| need.task);
    let keeps_items = |batch: &TaskId| {
        let batch = state.tasks.get(batch);
        batch.is_some_and(|batch| batch.waits_for.is_some() || batch.status() == Status::Failed)
    };
    let items = state.tasks.iter().filter(|(_, entry)| entry.batch.as_ref().is_some_and(keeps_items));
    needs.chain(items.map(|(id, _)| *id)).collect()
}

/// Where a needed task stands.
fn stands(state: &State, id: TaskId) -> NeedState {
    match state.tasks.get(&id) {
        None => NeedState::Gone,
        Some(Entry { state: TaskState::Ended(end), error, result, .. }) => {
            NeedState::Ended { end: *end, error: error.clone(), result: result.clone() }
        }
        Some(_) => NeedState::Open,
    }
}

pub(super) fn counts(state: &State, tenant: Option<&Tenant>, batch: TaskId) -> BatchCounts {
    let mut counts = BatchCounts::default();
    let is_own = |entry: &&Entry| tenant.is_none_or(|tenant| entry.submitted.tenant == *tenant);
    for entry in state.tasks.values().filter(|entry| entry.batch == Some(batch)).filter(is_own) {
        counts.add(entry.status(), 1);
    }
    counts
}
