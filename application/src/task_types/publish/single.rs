//! `publish.single`: one message.

use std::sync::Arc;

use domain::{
    Failure,
    outbound::{MessageId, Missed, check_headers},
};
use serde_json::json;

use super::{Message, Publishing, exact, failure, history, policy};
use crate::{
    handler::TaskContext,
    ports::{NotDelivered, Outbound, Post, TaskStore},
    registry::{Output, TaskTypeSpec},
};

pub(super) const NAME: &str = "publish.single";

pub(super) fn spec(publishing: &Publishing) -> TaskTypeSpec {
    let checking = Arc::clone(&publishing.outbound);
    let publishing = publishing.clone();
    TaskTypeSpec::new(
        NAME,
        "Sends a signed JSON message to an HTTP endpoint, once.",
        move |context, input| {
            let (outbound, store) = (Arc::clone(&publishing.outbound), Arc::clone(&publishing.store));
            async move { publish(outbound.as_ref(), store.as_ref(), context, input).await }
        },
    )
    .example(r#"{"url":"https://example.org/hook","body":{"title":"It is out"}}"#)
    .retry(policy())
    .checked(move |message: &Message| message.check(checking.as_ref()))
}

async fn publish(
    outbound: &dyn Outbound,
    store: &dyn TaskStore,
    context: TaskContext,
    message: Message,
) -> Result<Output, Failure> {
    if message.retry == domain::outbound::RetryMode::Unsent {
        history::nothing_broken_off(store, &context).await?;
    }
    // The worker's rules, which may be newer than those of the submission.
    let kept_back = |why: String| Failure::permanent("publish.kept_back", why);
    check_headers(&message.headers).map_err(kept_back)?;
    let target = outbound.target(&message.url).map_err(|error| kept_back(format!("url: {error}")))?;
    let task = context.task();
    let post = Post {
        tenant: task.tenant.clone(),
        id: MessageId::of_task(task.id, task.created_at),
        timestamp: task.started_at,
        headers: message.headers.into_iter().collect(),
        body: exact(&message.body)?,
        target,
    };
    let sent = tokio::select! {
        sent = outbound.post(&post) => sent,
        () = context.soft_limit_passed() => Err(NotDelivered {
            missed: Missed::MaybeSent,
            message: format!("the soft time limit passed before {} had answered", post.target.shown()),
            retry_after: None,
        }),
    };
    match sent {
        Ok(accepted) => Output::of(&json!({
            "webhook_id": post.id.as_str(),
            "http_status": accepted.status,
            "signed": accepted.signed,
            "response": accepted.text,
        })),
        Err(error) => Err(failure("publish", &error, message.retry)),
    }
}
