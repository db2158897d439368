//! Tasks that wait for others: chains (`after`, `then`) and batches, each stored whole in one call.

use std::collections::HashSet;

use domain::{
    Idempotency, Json, Limits, NewTask, OwnTerms, Priority, Start, Status, TaskId, TaskType, Tenant,
    flow::{
        BATCH_TYPE, BatchCounts, DEEPEST_FOLLOW_UP, MOST_FOLLOW_UPS, MOST_ITEMS, MOST_NEEDS, Need, Needs,
        NodeName, OnFailure, graph, is_batch, reference,
    },
};

use super::{
    Admission, InvalidField, LARGEST_PAGE, Submission, SubmitError, Tasks,
    submit::{as_submitted, first_answer},
};
use crate::ports::{
    FlowStored, ListPage, Needed, NewNeed, NewNode, Receipt, Retry, RetryOutcome, StoreError, Submitted,
    TaskFilter, links,
};
use crate::task_types::{ARTICLE_TYPE, ArticleInput};

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

/// An item of a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct ItemSubmission {
    /// The task.
    pub submission: Submission,
    /// What other items call it.
    pub name: Option<NodeName>,
    /// What it waits for: items by their names, stored tasks by their numbers.
    pub after: Vec<After>,
    /// What becomes of it when one of those does not complete.
    pub on_failure: OnFailure,
}

/// Who is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum After {
    /// An item of the same batch.
    Item(NodeName),
    /// A stored task.
    Task(TaskId),
}

/// Many tasks that are followed as one.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchSubmission {
    /// For people.
    pub name: Option<String>,
    /// What is to be done: 1 to [`MOST_ITEMS`].
    pub items: Vec<ItemSubmission>,
    /// What starts when all have ended.
    pub then: Vec<FlowSubmission>,
    /// The caller's own notes: a JSON object.
    pub metadata: Option<Json>,
    /// Makes asking again safe.
    pub idempotency: Option<Idempotency>,
}

/// Articles to be written, side by side.
#[derive(Debug, Clone, PartialEq)]
pub struct ArticlesSubmission {
    /// What they are about: 1 to [`MOST_ARTICLES`].
    pub titles: Vec<String>,
    /// Where they belong.
    pub category: Option<String>,
    /// Who writes them.
    pub model: Option<String>,
    /// Makes asking again safe.
    pub idempotency: Option<Idempotency>,
}

/// The most articles that can be asked for at once.
pub const MOST_ARTICLES: usize = 1_000;

/// A flow that is being put together.
#[derive(Default)]
struct Draft {
    nodes: Vec<NewNode>,
    invalid: Vec<InvalidField>,
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
        Ok(self.store_flow(tenant, draft).await?.map(|(admission, _)| admission))
    }

    /// Submits a batch, all or none; answers the task that stands for it, and the numbers of its items, in order, where it
    /// is new.
    pub async fn submit_batch(
        &self,
        tenant: &Tenant,
        batch: BatchSubmission,
    ) -> Result<Option<(Admission, Vec<TaskId>)>, SubmitError> {
        let BatchSubmission { name, items, then, metadata, idempotency } = batch;
        let count = items.len();
        let mut draft = Draft::default();
        if !(1..=MOST_ITEMS).contains(&count) {
            draft.refuse("items", format!("there are {count} items, and a batch has 1 to {MOST_ITEMS}"));
            return Err(SubmitError::Invalid(draft.invalid));
        }
        let head = self.batch_task(tenant, name, count, metadata, idempotency)?;
        draft.nodes.push(NewNode::of(head));
        self.add_items(tenant, items, &mut draft);
        for follow_up in then {
            self.add(tenant, follow_up, Some(Parent::batch()), &mut draft);
        }
        let Some((admission, ids)) = self.store_flow(tenant, draft).await? else { return Ok(None) };
        let items = ids.into_iter().skip(1).take(count).collect();
        Ok(Some((admission, items)))
    }

    /// Has articles written: a batch of them. Answers as [`Tasks::submit_batch`].
    pub async fn submit_articles(
        &self,
        tenant: &Tenant,
        articles: ArticlesSubmission,
    ) -> Result<Option<(Admission, Vec<TaskId>)>, SubmitError> {
        let ArticlesSubmission { titles, category, model, idempotency } = articles;
        let refuse = |message: String| SubmitError::Invalid(vec![InvalidField { field: "titles", message }]);
        if !(1..=MOST_ARTICLES).contains(&titles.len()) {
            return Err(refuse(format!(
                "there are {} titles, and 1 to {MOST_ARTICLES} may be given",
                titles.len()
            )));
        }
        let task_type =
            TaskType::new(ARTICLE_TYPE).map_err(|error| StoreError::Corrupt(error.to_string()))?;
        let mut items = Vec::with_capacity(titles.len());
        for title in titles {
            let input = ArticleInput { title, category: category.clone(), model: model.clone() };
            let input = Json::from_value(&input).map_err(|error| refuse(format!("one {error}")))?;
            let submission = Submission::new(task_type.clone(), input);
            let (name, after, on_failure) = (None, Vec::new(), OnFailure::default());
            items.push(ItemSubmission { submission, name, after, on_failure });
        }
        let name = Some("articles".to_owned());
        let batch = BatchSubmission { name, items, then: Vec::new(), metadata: None, idempotency };
        self.submit_batch(tenant, batch).await
    }

    /// The numbers of a batch's items, in order.
    pub async fn items_of(&self, tenant: &Tenant, batch: TaskId) -> Result<Vec<TaskId>, StoreError> {
        let mut ids = self.items_that_are(tenant, batch, &[]).await?;
        ids.reverse();
        Ok(ids)
    }

    /// How the items of a batch stand; `None` for an unknown one.
    pub async fn batch(
        &self,
        tenant: &Tenant,
        id: TaskId,
    ) -> Result<Option<(domain::Task, BatchCounts)>, StoreError> {
        let Some(task) = self.read(tenant, id).await?.filter(|task| is_batch(&task.task_type)) else {
            return Ok(None);
        };
        let counts = self.store.batch_counts(tenant, &[id]).await?;
        Ok(Some((task, counts.first().map(|(_, counts)| *counts).unwrap_or_default())))
    }

    /// How the items of these batches stand, in the order given.
    pub async fn batch_counts(
        &self,
        tenant: &Tenant,
        batches: &[TaskId],
    ) -> Result<Vec<BatchCounts>, StoreError> {
        if batches.is_empty() {
            return Ok(Vec::new());
        }
        let counted = self.store.batch_counts(tenant, batches).await?;
        let of = |id: &TaskId| counted.iter().find(|(batch, _)| batch == id).map(|(_, counts)| *counts);
        Ok(batches.iter().map(|id| of(id).unwrap_or_default()).collect())
    }

    /// Runs the items of a batch again that did not complete; those that did are left alone. Answers what became of the
    /// batch, and how many items wait again.
    pub async fn retry_batch(
        &self,
        tenant: &Tenant,
        id: TaskId,
    ) -> Result<(RetryOutcome, usize), StoreError> {
        let again = [Status::Failed, Status::Cancelled, Status::Expired];
        let mut ids = self.items_that_are(tenant, id, &again).await?;
        // The batch comes last: it waits for what is back by then.
        ids.push(id);
        let retries: Vec<_> = ids.iter().map(|id| Retry { id: *id, input: None }).collect();
        let mut outcomes = self.store.retry(tenant, &retries).await?;
        self.announce_retries(&outcomes).await;
        let batch = outcomes.pop().unwrap_or(RetryOutcome::Unknown);
        let back = |outcome: &&RetryOutcome| {
            matches!(outcome, RetryOutcome::Waiting(..) | RetryOutcome::WaitingForOthers(_))
        };
        Ok((batch, outcomes.iter().filter(back).count()))
    }

    /// Those items of a batch that stand in one of these states.
    pub(super) async fn items_that_are(
        &self,
        tenant: &Tenant,
        batch: TaskId,
        statuses: &[Status],
    ) -> Result<Vec<TaskId>, StoreError> {
        let filter = TaskFilter { statuses: statuses.to_vec(), batch: Some(batch), ..TaskFilter::default() };
        let mut ids: Vec<TaskId> = Vec::new();
        loop {
            let page = ListPage { before: ids.last().copied(), limit: LARGEST_PAGE };
            let found = self.store.list(tenant, &filter, page).await?;
            let more = found.len() == page.limit;
            ids.extend(found.into_iter().map(|task| task.id));
            if !more {
                return Ok(ids);
            }
        }
    }

    /// A batch is under way as soon as one of its items is.
    pub(super) async fn show_batches(
        &self,
        tenant: &Tenant,
        tasks: &mut [domain::Task],
    ) -> Result<(), StoreError> {
        let waits = |task: &&mut domain::Task| is_batch(&task.task_type) && task.status == Status::Scheduled;
        let ids: Vec<TaskId> = tasks.iter_mut().filter(waits).map(|task| task.id).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let begun: HashSet<TaskId> = self
            .store
            .batch_counts(tenant, &ids)
            .await?
            .into_iter()
            .filter(|(_, counts)| counts.has_begun())
            .map(|(id, _)| id)
            .collect();
        for task in tasks.iter_mut().filter(|task| begun.contains(&task.id)) {
            task.status = Status::Processing;
        }
        Ok(())
    }

    fn batch_task(
        &self,
        tenant: &Tenant,
        name: Option<String>,
        items: usize,
        metadata: Option<Json>,
        idempotency: Option<Idempotency>,
    ) -> Result<NewTask, SubmitError> {
        let corrupt = |error: &dyn std::fmt::Display| StoreError::Corrupt(error.to_string());
        let task_type = TaskType::new(BATCH_TYPE).map_err(|error| corrupt(&error))?;
        let refused = |error: domain::json::InvalidJson| {
            SubmitError::Invalid(vec![InvalidField { field: "name", message: format!("it {error}") }])
        };
        let input = match name {
            Some(name) => serde_json::json!({ "name": name, "items": items }),
            None => serde_json::json!({ "items": items }),
        };
        Ok(NewTask {
            tenant: tenant.clone(),
            queue: self.routes.queue_for(&task_type).clone(),
            task_type,
            priority: Priority::default(),
            input: Json::from_value(&input).map_err(refused)?,
            metadata,
            start: Start::Now,
            expires_at: None,
            limits: Limits::default(),
            own: OwnTerms::default(),
            idempotency,
            unique: None,
        })
    }

    /// Adds a task and what follows it.
    fn add(&self, tenant: &Tenant, flow: FlowSubmission, parent: Option<Parent>, draft: &mut Draft) {
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

    fn add_items(&self, tenant: &Tenant, items: Vec<ItemSubmission>, draft: &mut Draft) {
        let named = |after: &After| match after {
            After::Item(name) => Some(name.clone()),
            After::Task(_) => None,
        };
        let names: Vec<Vec<NodeName>> =
            items.iter().map(|item| item.after.iter().filter_map(named).collect()).collect();
        let nodes: Vec<graph::Node<'_>> = items
            .iter()
            .zip(&names)
            .map(|(item, after)| graph::Node {
                name: item.name.as_ref().map(NodeName::as_str),
                after: after.iter().map(NodeName::as_str).collect(),
            })
            .collect();
        let edges = match graph::places(&nodes) {
            Ok(edges) => edges,
            Err(error) => return draft.refuse("items", error.to_string()),
        };
        let first = draft.nodes.len();
        for (item, edges) in items.into_iter().zip(edges) {
            let ItemSubmission { submission, after, on_failure, .. } = item;
            let mut edges = edges.into_iter();
            let needs = after
                .into_iter()
                .filter_map(|after| {
                    Some(match after {
                        After::Item(name) => {
                            NewNeed { on: Needed::Node(first + edges.next()?), name: Some(name), on_failure }
                        }
                        After::Task(id) => NewNeed { on: Needed::Stored(id), name: None, on_failure },
                    })
                })
                .collect();
            self.add_node(tenant, submission, needs, true, "items", draft);
        }
    }

    /// Adds a node. What is wrong with it is told under `field`, or under its own fields where that is empty.
    fn add_node(
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

    /// Stores what was put together; answers the first node, and the numbers of all where they are new.
    async fn store_flow(
        &self,
        tenant: &Tenant,
        draft: Draft,
    ) -> Result<Option<(Admission, Vec<TaskId>)>, SubmitError> {
        let Draft { nodes, mut invalid, .. } = draft;
        self.find_needs(tenant, &nodes, &mut invalid).await?;
        if !invalid.is_empty() {
            return Err(SubmitError::Invalid(invalid));
        }
        self.backlog.make_room(self.store.as_ref(), tenant, nodes.len()).await?;
        let receipts = match self.store.submit_flow(&nodes).await? {
            FlowStored::New(receipts) => receipts,
            FlowStored::Not(known) => return self.known(tenant, nodes, known).await,
        };
        let ids: Vec<TaskId> = receipts.iter().map(|receipt| receipt.id).collect();
        let starting = nodes.iter().zip(&receipts).enumerate();
        let starting = starting
            .filter(|(place, (node, receipt))| !node.waits(*place, &nodes) && receipt.run_at.is_none());
        let waiting = starting.map(|(_, (node, receipt))| crate::ports::Waiting {
            id: receipt.id,
            queue: node.task.queue.clone(),
            priority: node.task.priority,
            suspicion: domain::Suspicion::None,
        });
        self.announcer.announce(waiting.collect());
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
    let items = nodes.iter().filter(|node| node.is_item).count();
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
struct Parent {
    place: usize,
    depth: usize,
    name: Option<NodeName>,
    on_failure: OnFailure,
}

impl Parent {
    fn batch() -> Self {
        Self { place: 0, depth: 1, name: None, on_failure: OnFailure::Run }
    }

    fn name(&self) -> Option<NodeName> {
        self.name.clone().or_else(|| NodeName::new(PARENT).ok())
    }
}

impl Draft {
    fn refuse(&mut self, field: &'static str, message: String) {
        self.invalid.push(InvalidField { field, message });
    }
}
