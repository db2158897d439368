//! `publish.batch`: many messages. Each becomes a `publish.single` task of its own, so that each is sent, retried,
//! inspected and discarded alone, and a crash in the middle repeats nothing. The batch ends when all of them have, with
//! an outcome per item.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use domain::{
    ErrorClass, Failure, Json, Limits, NewTask, OwnTerms, Start, Status, Task, TaskId, TaskType, Unique,
    UniqueKey, outbound::RetryMode,
};
use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};
use tokio::time::Instant;

use super::{Message, Publishing, single};
use crate::{
    handler::{TaskContext, TaskInfo},
    ordering::announce_waiting,
    ports::{Receipt, StoreError, Submitted},
    registry::{Output, TaskTypeSpec, share},
};

const NAME: &str = "publish.batch";
/// The most items.
const MOST: usize = 1_000;
/// How long the first attempt waits for its items before it frees its slot: with one slot they would wait for each other.
const FIRST_LOOK: Duration = Duration::from_secs(2);
/// The longest pause between two looks at items that have not ended.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Either `targets`, each with all it needs, or one `url` and the `items` that go there.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    #[serde(default)]
    targets: Vec<Message>,
    #[serde(default)]
    url: Option<String>,
    #[serde(default)]
    items: Vec<Box<RawValue>>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    retry: RetryMode,
}

impl Input {
    /// One message per item, in order.
    fn messages(&self) -> Result<Vec<Message>, String> {
        let messages = match &self.url {
            Some(_) if !self.targets.is_empty() => {
                return Err("give either targets, or url and items".to_owned());
            }
            None if !self.items.is_empty() || !self.headers.is_empty() => {
                return Err("items and headers go with url; each target has its own".to_owned());
            }
            None => self.targets.clone(),
            Some(url) => {
                let message = |body: &RawValue| Message {
                    url: url.clone(),
                    body: body.to_owned(),
                    headers: self.headers.clone(),
                    retry: self.retry,
                };
                self.items.iter().map(|body| message(body)).collect()
            }
        };
        match messages.len() {
            0 => Err("it holds no item: give targets, or url and items".to_owned()),
            1..=MOST => Ok(messages),
            more => Err(format!("{more} items are more than {MOST}; submit several batches")),
        }
    }
}

pub(super) fn spec(publishing: &Publishing) -> TaskTypeSpec {
    let checking = Arc::clone(&publishing.outbound);
    let publishing = publishing.clone();
    TaskTypeSpec::new(
        NAME,
        "Sends many messages, each as a publish.single task of its own; the result has an outcome per item.",
        move |context, input| {
            let publishing = publishing.clone();
            async move { publish(&publishing, context, input).await }
        },
    )
    .example(r#"{"url":"https://example.org/hook","items":[{"title":"One"},{"title":"Two"}]}"#)
    .checked(move |input: &Input| {
        for (index, message) in input.messages()?.iter().enumerate() {
            message.check(checking.as_ref()).map_err(|error| format!("item {index}: {error}"))?;
        }
        Ok(())
    })
}

async fn publish(publishing: &Publishing, context: TaskContext, input: Input) -> Result<Output, Failure> {
    let messages = input.messages().map_err(|error| Failure::permanent("invalid_input", error))?;
    let store_away = |error: StoreError| Failure::transient("publish.store_unavailable", error.to_string());
    let ids = submit(publishing, context.task(), &messages).await.map_err(store_away)?;
    let mut ended: BTreeMap<TaskId, Task> = BTreeMap::new();
    let (started, mut pause) = (Instant::now(), Duration::from_millis(10));
    loop {
        let open: Vec<TaskId> = ids.iter().filter(|id| !ended.contains_key(*id)).copied().collect();
        let seen = publishing.store.read(&context.task().tenant, &open).await.map_err(store_away)?;
        // What somebody has deleted will not be heard of again.
        let gone = open.len() - seen.len();
        ended.extend(seen.into_iter().filter(|task| task.status.is_terminal()).map(|task| (task.id, task)));
        let over = ended.len() + gone;
        context.progress(over as u64, ids.len() as u64, Some("items ended"));
        if over >= ids.len() {
            return outcome(&ids, &ended);
        }
        if context.task().attempt > 1 || started.elapsed() >= FIRST_LOOK {
            return Err(look_again(ids.len() - over, ids.len(), context.task().attempt));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(250));
    }
}

/// Frees the slot without charging the task: a state of the items, not a failure.
fn look_again(open: usize, of: usize, attempt: u32) -> Failure {
    let pause = Duration::from_secs(1 << attempt.saturating_sub(1).min(5)).min(LONGEST_PAUSE);
    let message = format!("{open} of {of} items have not ended; looking again in {} s", pause.as_secs());
    Failure::new(ErrorClass::RateLimited, "publish.waiting", message).retry_after(Some(pause))
}

/// Submits what was not submitted by an earlier attempt: each item once, whatever happens to this worker.
async fn submit(
    publishing: &Publishing,
    batch: &TaskInfo,
    messages: &[Message],
) -> Result<Vec<TaskId>, StoreError> {
    let corrupt = |what: String| StoreError::Corrupt(what);
    let task_type = TaskType::new(single::NAME).map_err(|error| corrupt(error.to_string()))?;
    let queue = publishing.routes.queue_for(&task_type).clone();
    let share = share(publishing.routes.settings(&queue), None, None);
    let item = |(index, message): (usize, &Message)| -> Result<NewTask, StoreError> {
        let key = UniqueKey::new(format!("publish.batch {} {index}", batch.id));
        let key = key.map_err(|error| corrupt(error.to_string()))?;
        let json = |value| Json::from_value(value).map_err(|error| corrupt(format!("item {index} {error}")));
        Ok(NewTask {
            tenant: batch.tenant.clone(),
            task_type: task_type.clone(),
            queue: queue.clone(),
            priority: batch.priority,
            input: Json::from_value(&Wire::from(message))
                .map_err(|error| corrupt(format!("item {index} {error}")))?,
            metadata: Some(json(&json!({ "publish_batch": batch.id.0, "item": index }))?),
            start: Start::Now,
            expires_at: None,
            limits: Limits::default(),
            own: OwnTerms::default(),
            idempotency: None,
            unique: Some(Unique { key, among: Status::ALL.to_vec(), window: None }),
            share: share.clone(),
        })
    };
    let tasks = messages.iter().enumerate().map(item).collect::<Result<Vec<_>, _>>()?;
    let (mut ids, mut waiting) = (Vec::with_capacity(tasks.len()), Vec::new());
    for outcome in publishing.store.submit(&tasks).await? {
        match outcome {
            Submitted::New(receipt) => {
                waiting.push(receipt.place(queue.clone(), batch.priority));
                ids.push(receipt.id);
            }
            Submitted::Existing(id) | Submitted::Replayed(Receipt { id, .. }) | Submitted::KeyReused(id) => {
                ids.push(id);
            }
        }
    }
    announce_waiting(publishing.order.as_deref(), publishing.signals.as_ref(), &waiting).await;
    Ok(ids)
}

/// A message as the input of its own task.
#[derive(Serialize)]
struct Wire<'a> {
    url: &'a str,
    body: &'a RawValue,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: &'a BTreeMap<String, String>,
    retry: RetryMode,
}

impl<'a> From<&'a Message> for Wire<'a> {
    fn from(message: &'a Message) -> Self {
        let Message { url, body, headers, retry } = message;
        Self { url, body, headers, retry: *retry }
    }
}

fn outcome(ids: &[TaskId], ended: &BTreeMap<TaskId, Task>) -> Result<Output, Failure> {
    let item = |(index, id): (usize, &TaskId)| {
        let task = ended.get(id);
        let status = task.map_or("DELETED", |task| task.status.as_str());
        let mut item = json!({ "index": index, "task_id": id.0, "status": status });
        if let Some(error) = task.and_then(|task| task.error.as_ref()) {
            item["error"] = json!({ "code": error.code, "message": error.message });
        }
        if let Some(result) = task.and_then(|task| task.result.as_ref()?.to::<serde_json::Value>().ok()) {
            item["http_status"] = result["http_status"].clone();
        }
        item
    };
    let items: Vec<_> = ids.iter().enumerate().map(item).collect();
    let delivered = ended.values().filter(|task| task.status == Status::Completed).count();
    Output::of(&json!({
        "total": ids.len(),
        "delivered": delivered,
        "failed": ids.len() - delivered,
        "items": items,
    }))
}
