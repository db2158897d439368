//! `webhook.deliver`: tells an endpoint of a user's how a task ended. The runner submits it ([`crate::tasks::Tasks::submit_with_callback`]) to wait
//! for that task's end.

use std::{sync::Arc, time::Duration};

use domain::{
    ErrorClass, Failure, Json, Limits, Task, TaskId,
    outbound::{CallbackEvent, MessageId, RetryMode, WEBHOOK_ATTEMPTS, webhook_wait},
};
use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};

use crate::{
    handler::TaskContext,
    ports::{Outbound, Post, TaskStore},
    registry::{Output, TaskTypeSpec},
    task_types::{Publishing, publish::failure},
};

/// What the type is called.
pub const WEBHOOK_TYPE: &str = "webhook.deliver";
/// The shortest and the longest pause between two looks at a task that has not ended; between them, a tenth of its age.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Who is to be told of a task's end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Callback {
    /// Where the message goes.
    pub url: String,
    /// Which ends it tells of; all where it names none.
    #[serde(default)]
    pub events: Vec<CallbackEvent>,
}

/// What the type takes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct WebhookInput {
    /// The task whose end is told.
    pub(crate) task: i64,
    #[serde(flatten)]
    pub(crate) callback: Callback,
}

pub(super) fn spec(publishing: &Publishing) -> TaskTypeSpec {
    let checking = Arc::clone(&publishing.outbound);
    let publishing = publishing.clone();
    TaskTypeSpec::new(WEBHOOK_TYPE, "Tells an HTTP endpoint how a task ended.", move |context, input| {
        let (outbound, store) = (Arc::clone(&publishing.outbound), Arc::clone(&publishing.store));
        async move { deliver(outbound.as_ref(), store.as_ref(), context, input).await }
    })
    .example(r#"{"task":1,"url":"https://example.org/hook","events":["task.completed"]}"#)
    .limits(Limits {
        max_attempts: WEBHOOK_ATTEMPTS,
        soft_time_limit: None,
        time_limit: Duration::from_secs(10 * 60),
    })
    .checked(move |input: &WebhookInput| {
        checking.target(&input.callback.url).map(drop).map_err(|error| error.to_string())
    })
    .internal()
}

async fn deliver(
    outbound: &dyn Outbound,
    store: &dyn TaskStore,
    context: TaskContext,
    input: WebhookInput,
) -> Result<Output, Failure> {
    let webhook = context.task();
    let wait = |asked| Some(webhook_wait(webhook.id, webhook.failures + 1, asked));
    let subject = store.read(&webhook.tenant, &[TaskId(input.task)]).await.map_err(|error| {
        Failure::transient("webhook.store_unavailable", error.to_string()).retry_after(wait(None))
    })?;
    let Some(subject) = subject.into_iter().next() else {
        return Output::of(&json!({ "skipped": format!("task {} was deleted", input.task) }));
    };
    let Some(event) = CallbackEvent::of(subject.status) else {
        let message = format!("task {} has not ended; it stands as {}", subject.id, subject.status.as_str());
        let age = (webhook.started_at - subject.created_at).to_std().unwrap_or_default();
        let pause = (age / 10).clamp(LOOK_AGAIN.0, LOOK_AGAIN.1);
        return Err(
            Failure::new(ErrorClass::RateLimited, "webhook.waiting", message).retry_after(Some(pause))
        );
    };
    let events = &input.callback.events;
    if !events.is_empty() && !events.contains(&event) {
        return Output::of(&json!({ "skipped": format!("nobody asked for {}", event.as_str()) }));
    }
    let target = outbound
        .target(&input.callback.url)
        .map_err(|error| Failure::permanent("webhook.kept_back", format!("callback_url: {error}")))?;
    let body = match body(&subject, event, false)? {
        large if large.as_str().len() > outbound.largest() => body(&subject, event, true)?,
        fits => fits,
    };
    let post = Post {
        tenant: webhook.tenant.clone(),
        id: MessageId::of_task(webhook.id, webhook.created_at),
        timestamp: webhook.started_at,
        headers: Vec::new(),
        target,
        body,
    };
    match outbound.post(&post).await {
        Ok(delivered) => Output::of(&json!({
            "event": event.as_str(),
            "webhook_id": post.id.as_str(),
            "http_status": delivered.status,
            "signed": delivered.signed,
        })),
        // Receivers drop repeats by the id, as Standard Webhooks has it: so it is sent until it is taken.
        Err(error) => {
            let asked = error.retry_after;
            Err(failure("webhook", &error, RetryMode::Always).retry_after(wait(asked)))
        }
    }
}

/// What is sent: <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md#payload-structure>.
#[derive(Serialize)]
struct Payload<'a> {
    #[serde(rename = "type")]
    event: CallbackEvent,
    timestamp: Option<String>,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    id: i64,
    #[serde(rename = "type")]
    task_type: &'a str,
    status: &'a str,
    result: Option<&'a RawValue>,
    /// Whether there is a result that is too large to be sent along.
    result_omitted: bool,
    details: Option<&'a RawValue>,
    error: Option<&'a Failure>,
    metadata: Option<&'a RawValue>,
    attempt: u32,
    created_at: String,
    started_at: Option<String>,
    completed_at: Option<String>,
    processing_time: Option<f64>,
}

/// The same at every try: the task has ended.
fn body(task: &Task, event: CallbackEvent, without_result: bool) -> Result<Json, Failure> {
    fn raw(json: &Option<Json>) -> Result<Option<&RawValue>, Failure> {
        let unreadable = |error| {
            Failure::permanent("webhook.unreadable", format!("what the task left is not JSON: {error}"))
        };
        json.as_ref().map(|json| serde_json::from_str(json.as_str()).map_err(unreadable)).transpose()
    }
    let moment = |at: domain::Timestamp| at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
    let payload = Payload {
        event,
        timestamp: task.completed_at.map(moment),
        data: Data {
            id: task.id.0,
            task_type: task.task_type.as_str(),
            status: task.status.as_str(),
            result: if without_result { None } else { raw(&task.result)? },
            result_omitted: without_result && task.result.is_some(),
            details: if without_result { None } else { raw(&task.details)? },
            error: task.error.as_ref(),
            metadata: raw(&task.metadata)?,
            attempt: task.attempt,
            created_at: moment(task.created_at),
            started_at: task.started_at.map(moment),
            completed_at: task.completed_at.map(moment),
            processing_time: task.processing_time().map(|took| took.as_secs_f64()),
        },
    };
    Json::from_value(&payload)
        .map_err(|error| Failure::permanent("webhook.unreadable", format!("the message {error}")))
}

#[cfg(test)]
mod tests;
