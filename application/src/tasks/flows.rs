//! Tasks that wait for others, and are stored whole in one call: chains (`after`, `then`), and what batches are made of.

use std::{collections::HashSet, sync::Arc};

use domain::{
    Start, Status, TaskId, Tenant,
    flow::{
        DEEPEST_FOLLOW_UP, MOST_FOLLOW_UPS, MOST_NEEDS, Need, Needs, NodeName, OnFailure, is_batch, reference,
    },
};

use super::{
    Admission, InvalidField, LARGEST_PAGE, Submission, SubmitError, Tasks,
    batches::Places,
    submit::{as_submitted, first_answer},
};
use crate::ports::{BatchItems, FlowStored, Needed, NewNeed, NewNode, Receipt, StoreError, Submitted, links};

/// What follow-ups call the task that they follow, where it has no name.
const PARENT: &str = "parent";

/// A task with what it waits for and what follows it.
#[derive(Debug, Clone, PartialEq)]
pub struct FlowSubmission {
    /// The task.
    pub submission: Submission,
    /// What its follow-ups call it.
    pub name: Option<NodeName>,
    /// Stored tasks that it waits for.
    pub after: Vec<TaskId>,
    /// What becomes of it when one of those, or the one that it follows, does not complete: `cancel` unless said
    /// otherwise, and `run` after a batch.
    pub on_failure: Option<OnFailure>,
    /// What starts after it.
    pub then: Vec<FlowSubmission>,
}

impl From<Submission> for FlowSubmission {
    fn from(submission: Submission) -> Self {
        Self { submission, name: None, after: Vec::new(), on_failure: None, then: Vec::new() }
    }
}

/// A flow that is being put together.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) nodes: Vec<NewNode>,
    pub(super) invalid: Vec<InvalidField>,
    /// How many follow-ups there are.
    follow_ups: usize,
}

impl Tasks {
    /// Submits a task with what it waits for and what follows it, all or none. One that stands alone goes the way of
    /// all others.
    pub async fn submit_flow(
        &self,
        tenant: &Tenant,
        flow: FlowSubmission,
    ) -> Result<Option<Admission>, SubmitError> {
        if flow.after.is_empty() && flow.then.is_empty() {
            return Ok(self.submit(tenant, vec![flow.submission]).await?.pop());
        }
        let mut draft = Draft::default();
        self.add(tenant, flow, None, &mut draft);
        Ok(self.store_flow(tenant, draft, None).await?.map(|(admission, _)| admission))
    }

    /// Adds a task and what follows it.
    pub(super) fn add(
        &self,
        tenant: &Tenant,
        flow: FlowSubmission,
        parent: Option<Parent>,
        draft: &mut Draft,
    ) {
        let FlowSubmission { submission, name, after, on_failure, then } = flow;
        let depth = parent.as_ref().map_or(0, |parent| parent.depth);
        if parent.is_some() {
            draft.follow_ups += 1;
            if draft.follow_ups > MOST_FOLLOW_UPS || depth > DEEPEST_FOLLOW_UP {
                if draft.invalid.iter().all(|invalid| invalid.field != "then") {
                    let message = format!(
                        "there are more than {MOST_FOLLOW_UPS} follow-ups, or they are nested more than {DEEPEST_FOLLOW_UP} deep"
                    );
                    draft.refuse("then", message);
                }
                return;
            }
        }
        let policy = on_failure.or(parent.as_ref().map(|parent| parent.on_failure)).unwrap_or_default();
        let mut needs: Vec<NewNeed> = Vec::new();
        if let Some(parent) = &parent {
            needs.push(NewNeed { on: Needed::Node(parent.place), name: parent.name(), on_failure: policy });
        }
        let stored = after.into_iter().map(|id| (Needed::Stored(id), None));
        needs.extend(stored.map(|(on, name)| NewNeed { on, name, on_failure: policy }));
        let place = draft.nodes.len();
        let field = if parent.is_some() { "then" } else { "" };
        self.add_node(tenant, submission, needs, false, field, draft);
        for follow_up in then {
            let parent =
                Parent { place, depth: depth + 1, name: name.clone(), on_failure: OnFailure::Cancel };
            self.add(tenant, follow_up, Some(parent), draft);
        }
    }

    /// Adds a node. What is wrong with it is told under `field`, or under its own fields where that is empty.
    pub(super) fn add_node(
        &self,
        tenant: &Tenant,
        submission: Submission,
        mut needs: Vec<NewNeed>,
        is_item: bool,
        field: &'static str,
        draft: &mut Draft,
    ) {
        let mut seen = Vec::with_capacity(needs.len());
        needs.retain(|need| {
            !seen.contains(&need.on) && {
                seen.push(need.on);
                true
            }
        });
        let mut invalid = Vec::new();
        let mut refuse = |field, message: String| invalid.push(InvalidField { field, message });
        if needs.len() > MOST_NEEDS {
            let count = needs.len();
            refuse(
                "after",
                format!("there are {count} tasks to wait for, and at most {MOST_NEEDS} may be named"),
            );
        }
        if !needs.is_empty() && submission.start != Start::Now {
            let message =
                "a task that waits for others starts when they have ended: it has no time of its own";
            refuse("run_at", message.to_owned());
        }
        if !draft.nodes.is_empty() && submission.unique.is_some() {
            refuse(
                "unique_key",
                "only a task that is submitted by itself, or the first of a chain, can be unique".to_owned(),
            );
        }
        let known = Needs {
            after: needs
                .iter()
                .map(|need| Need {
                    task: match need.on {
                        Needed::Stored(id) => id,
                        Needed::Node(_) => TaskId(0),
                    },
                    name: need.name.clone(),
                    on_failure: need.on_failure,
                })
                .collect(),
            ..Needs::default()
        };
        let refers = !needs.is_empty() && reference::may_hold(&submission.input);
        if refers && let Err(message) = reference::check(&submission.input, &known) {
            refuse("input", message);
        }
        let task = self.admit(tenant, submission, refers, &mut invalid);
        let place = draft.nodes.len();
        draft.nodes.push(NewNode { task, needs, is_item });
        // As many as people read.
        let room = MOST_TOLD.saturating_sub(draft.invalid.len());
        draft.invalid.extend(invalid.into_iter().take(room).map(|wrong| match field {
            "" => wrong,
            "items" => InvalidField {
                field,
                message: format!("item {}: {}: {}", place - 1, wrong.field, wrong.message),
            },
            _ => InvalidField { field, message: format!("{}: {}", wrong.field, wrong.message) },
        }));
    }

    /// Stores what was put together, with items of the batch that is its first node where there are more of them than fit
    /// into memory; answers that node, and the numbers of all where they are new.
    pub(super) async fn store_flow(
        &self,
        tenant: &Tenant,
        draft: Draft,
        items: Option<Arc<dyn BatchItems>>,
    ) -> Result<Option<(Admission, Vec<TaskId>)>, SubmitError> {
        let Draft { nodes, mut invalid, .. } = draft;
        self.find_needs(tenant, &nodes, &mut invalid).await?;
        if !invalid.is_empty() {
            return Err(SubmitError::Invalid(invalid));
        }
        let more = items.as_ref().map_or(0, |items| items.count());
        self.backlog.make_room(self.store.as_ref(), tenant, nodes.len() + more).await?;
        let items = items.map(|items| Arc::new(Places::of(items)));
        let stored = match &items {
            None => self.store.submit_flow(&nodes).await?,
            Some(items) => self.store.submit_batch(&nodes, Arc::clone(items) as _).await?,
        };
        let receipts = match stored {
            FlowStored::New(receipts) => receipts,
            FlowStored::Not(known) => return self.known(tenant, nodes, known).await,
        };
        let waits = |place, node: &NewNode| node.waits(place, &nodes) || (place == 0 && items.is_some());
        let starting = nodes.iter().zip(&receipts).enumerate();
        let starting = starting.filter(|(place, (node, _))| !waits(*place, node));
        let starting =
            starting.map(|(_, (node, receipt))| (*receipt, node.task.queue.clone(), node.task.priority));
        let noted = items.as_ref().map(|items| items.take()).unwrap_or_default();
        let others = receipts.iter().skip(nodes.len()).zip(noted);
        let starting = starting.chain(others.map(|(receipt, (queue, priority))| (*receipt, queue, priority)));
        let waiting = starting.filter(|(receipt, ..)| receipt.run_at.is_none());
        let waiting = waiting.map(|(receipt, queue, priority)| receipt.place(queue, priority));
        self.announcer.announce(waiting.collect());
        let ids: Vec<TaskId> = receipts.iter().map(|receipt| receipt.id).collect();
        Ok(head(nodes, &receipts, &ids).map(|task| (Admission::Created(task), ids)))
    }

    /// Every stored task that is needed has to be there.
    async fn find_needs(
        &self,
        tenant: &Tenant,
        nodes: &[NewNode],
        invalid: &mut Vec<InvalidField>,
    ) -> Result<(), StoreError> {
        let needed = nodes.iter().flat_map(|node| &node.needs).filter_map(|need| match need.on {
            Needed::Stored(id) => Some(id),
            Needed::Node(_) => None,
        });
        let mut ids: Vec<TaskId> = needed.collect();
        ids.sort_unstable();
        ids.dedup();
        for page in ids.chunks(LARGEST_PAGE) {
            let found = self.store.read(tenant, page).await?;
            let found: HashSet<TaskId> = found.into_iter().map(|task| task.id).collect();
            for unknown in page.iter().filter(|id| !found.contains(id)).take(MOST_TOLD) {
                invalid.push(InvalidField { field: "after", message: format!("there is no task {unknown}") });
            }
        }
        Ok(())
    }

    /// What was stored before, or stands in the way.
    async fn known(
        &self,
        tenant: &Tenant,
        nodes: Vec<NewNode>,
        known: Submitted,
    ) -> Result<Option<(Admission, Vec<TaskId>)>, SubmitError> {
        let Some(first) = nodes.into_iter().next() else { return Ok(None) };
        let admission = match known {
            Submitted::KeyReused(id) => Admission::KeyReused(id),
            Submitted::New(receipt) | Submitted::Replayed(receipt) => {
                let stored = self.store.read(tenant, &[receipt.id]).await?.pop();
                let mut answer = first_answer(first.task, receipt, stored.as_ref());
                if let Some(stored) = stored {
                    (answer.needs, answer.batch) = (stored.needs, stored.batch);
                }
                wait_first(&mut answer);
                Admission::Replayed(answer)
            }
            Submitted::Existing(id) => match self.store.read(tenant, &[id]).await?.pop() {
                Some(task) => Admission::Existing(task),
                None => {
                    let gone =
                        format!("task {id}, which was in the way, has just been deleted; submit again");
                    return Err(StoreError::Unavailable(gone).into());
                }
            },
        };
        Ok(Some((admission, Vec::new())))
    }
}

/// The most mistakes that are told of one flow.
const MOST_TOLD: usize = 20;

/// The first task as it stands when the flow has just been stored.
fn head(nodes: Vec<NewNode>, receipts: &[Receipt], ids: &[TaskId]) -> Option<domain::Task> {
    let needs = links(&nodes, ids).into_iter().next().flatten();
    let read_piece_by_piece = ids.len().saturating_sub(nodes.len());
    let items = nodes.iter().filter(|node| node.is_item).count() + read_piece_by_piece;
    let first = nodes.into_iter().next()?;
    let mut task = as_submitted(first.task, *receipts.first()?);
    task.needs = needs;
    wait_first(&mut task);
    if items > 0 {
        task.waits_for = u32::try_from(items).ok();
    }
    Some(task)
}

/// A task that waits for others as it stands at first.
fn wait_first(task: &mut domain::Task) {
    let waits = task.needs.as_ref().map_or(0, |needs| needs.after.len());
    if waits > 0 || is_batch(&task.task_type) {
        (task.status, task.run_at) = (Status::Scheduled, None);
        task.waits_for = u32::try_from(waits).ok();
    }
}

/// Whom a follow-up follows.
pub(super) struct Parent {
    place: usize,
    depth: usize,
    name: Option<NodeName>,
    on_failure: OnFailure,
}

impl Parent {
    pub(super) fn batch() -> Self {
        Self { place: 0, depth: 1, name: None, on_failure: OnFailure::Run }
    }

    fn name(&self) -> Option<NodeName> {
        self.name.clone().or_else(|| NodeName::new(PARENT).ok())
    }
}

impl Draft {
    pub(super) fn refuse(&mut self, field: &'static str, message: String) {
        self.invalid.push(InvalidField { field, message });
    }
}
