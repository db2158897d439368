//! Batches: many tasks that are followed as one, stored whole in one call.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use domain::{
    Idempotency, Json, Limits, NewTask, OwnTerms, Priority, QueueName, Start, Status, TaskId, TaskType,
    Tenant,
    flow::{BATCH_TYPE, BatchCounts, MOST_ITEMS, NodeName, OnFailure, graph, is_batch},
};

use super::{
    Admission, InvalidField, LARGEST_PAGE, Submission, SubmitError, Tasks,
    flows::{Draft, FlowSubmission, Parent},
};
use crate::{
    ports::{BatchItems, ListPage, Needed, NewNeed, NewNode, Retry, RetryOutcome, StoreError, TaskFilter},
    task_types::{ARTICLE_TYPE, ArticleInput},
};

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
    /// What is to be done: 1 to [`MOST_ITEMS`]; none where they are read piece by piece.
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

impl Tasks {
    /// Submits a batch, all or none; answers the task that stands for it, and the numbers of its items, in order, where it
    /// is new.
    pub async fn submit_batch(
        &self,
        tenant: &Tenant,
        batch: BatchSubmission,
    ) -> Result<Option<(Admission, Vec<TaskId>)>, SubmitError> {
        let BatchSubmission { name, items, then, metadata, idempotency } = batch;
        let count = items.len();
        let mut draft = self.begin_batch(tenant, name, count, metadata, idempotency)?;
        self.add_items(tenant, items, &mut draft);
        for follow_up in then {
            self.add(tenant, follow_up, Some(Parent::batch()), &mut draft);
        }
        let Some((admission, ids)) = self.store_flow(tenant, draft, None).await? else { return Ok(None) };
        let items = ids.into_iter().skip(1).take(count).collect();
        Ok(Some((admission, items)))
    }

    /// The same of a batch whose items are read piece by piece, so that it need not fit into memory;
    /// [`Tasks::check_item`] has said of each that it may be one.
    pub async fn submit_large_batch(
        &self,
        tenant: &Tenant,
        batch: BatchSubmission,
        items: Arc<dyn BatchItems>,
    ) -> Result<Option<(Admission, Vec<TaskId>)>, SubmitError> {
        let BatchSubmission { name, then, metadata, idempotency, .. } = batch;
        let mut draft = self.begin_batch(tenant, name, items.count(), metadata, idempotency)?;
        for follow_up in then {
            self.add(tenant, follow_up, Some(Parent::batch()), &mut draft);
        }
        let before = draft.nodes.len();
        let Some((admission, ids)) = self.store_flow(tenant, draft, Some(items)).await? else {
            return Ok(None);
        };
        Ok(Some((admission, ids.into_iter().skip(before).collect())))
    }

    /// What an item of a large batch is stored as. It waits for nobody and stands in nobody's way.
    pub fn check_item(&self, tenant: &Tenant, submission: Submission) -> Result<NewTask, SubmitError> {
        if submission.unique.is_some() {
            let message = "an item of a batch cannot be unique".to_owned();
            return Err(SubmitError::Invalid(vec![InvalidField { field: "unique_key", message }]));
        }
        self.check(tenant, submission)
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

    /// The batch itself, before what it is made of.
    fn begin_batch(
        &self,
        tenant: &Tenant,
        name: Option<String>,
        count: usize,
        metadata: Option<Json>,
        idempotency: Option<Idempotency>,
    ) -> Result<Draft, SubmitError> {
        let mut draft = Draft::default();
        if !(1..=MOST_ITEMS).contains(&count) {
            draft.refuse("items", format!("there are {count} items, and a batch has 1 to {MOST_ITEMS}"));
            return Err(SubmitError::Invalid(draft.invalid));
        }
        let head = self.batch_task(tenant, name, count, metadata, idempotency)?;
        draft.nodes.push(NewNode::of(head));
        Ok(draft)
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
            // It never waits for a worker.
            share: None,
        })
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
}

/// Items, of which is noted where they go while a store reads them: what waits is announced once it is stored.
pub(super) struct Places {
    items: Arc<dyn BatchItems>,
    noted: Mutex<Vec<(QueueName, Priority)>>,
}

impl Places {
    pub(super) fn of(items: Arc<dyn BatchItems>) -> Self {
        Self { items, noted: Mutex::default() }
    }

    /// Where each went that was read the last time.
    pub(super) fn take(&self) -> Vec<(QueueName, Priority)> {
        std::mem::take(&mut self.noted())
    }

    fn noted(&self) -> std::sync::MutexGuard<'_, Vec<(QueueName, Priority)>> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BatchItems for Places {
    fn count(&self) -> usize {
        self.items.count()
    }

    fn pieces(&self) -> Box<dyn Iterator<Item = Result<Vec<NewTask>, StoreError>> + Send + '_> {
        // A store that begins anew reads them anew.
        self.noted().clear();
        Box::new(self.items.pieces().inspect(|piece| {
            let tasks = piece.iter().flatten();
            self.noted().extend(tasks.map(|task| (task.queue.clone(), task.priority)));
        }))
    }
}
