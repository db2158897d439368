//! Live events as server-sent events
//! (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).

use std::time::Duration;

use application::{
    ports::StoreError,
    queues::QueueEvent,
    tasks::{BatchEvent, TaskEvent},
};
use futures_util::{Stream, StreamExt, stream::BoxStream};
use poem::{
    IntoResponse, Response,
    web::sse::{Event, SSE},
};
use poem_openapi::{
    ApiResponse,
    payload::Payload,
    registry::{MetaMediaType, MetaResponse, MetaResponses, MetaSchema, MetaSchemaRef, Registry},
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{
    problem::{ApiError, FieldError},
    views::{ProgressEvent, StatusCountsView, TaskStatusView, queues::QueueView},
};

/// Silent streams send a comment this often, so that proxies keep them and dead readers are noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The answer of the events operation.
pub(crate) struct EventStream(BoxStream<'static, Event>);

/// Turns a task's events into server-sent ones, until the task has ended or the server stops.
pub(crate) fn event_stream(
    events: impl Stream<Item = TaskEvent> + Send + 'static,
    stopping: CancellationToken,
) -> EventStream {
    EventStream(events.map(event).take_until(stopping.cancelled_owned()).boxed())
}

/// Turns a batch's events into server-sent ones, until it has ended or the server stops.
pub(crate) fn batch_stream(
    events: impl Stream<Item = BatchEvent> + Send + 'static,
    stopping: CancellationToken,
) -> EventStream {
    let event = |batch_event| match batch_event {
        BatchEvent::Task(task_event) => event(task_event),
        BatchEvent::Counts(counts) => {
            Event::message(json_text(&StatusCountsView::from(counts))).event_type("counts")
        }
    };
    EventStream(events.map(event).take_until(stopping.cancelled_owned()).boxed())
}

/// Turns a queue's events into server-sent ones, until the server stops.
pub(crate) fn queue_stream(
    events: impl Stream<Item = QueueEvent> + Send + 'static,
    stopping: CancellationToken,
) -> EventStream {
    let event = |event| match event {
        QueueEvent::Queue(report) => {
            Event::message(json_text(&QueueView::from(report.as_ref()))).event_type("queue")
        }
        QueueEvent::Interrupted(error) => interrupted(&error),
    };
    EventStream(events.map(event).take_until(stopping.cancelled_owned()).boxed())
}

fn interrupted(error: &StoreError) -> Event {
    tracing::warn!(%error, "an event stream was interrupted");
    let data = json!({ "detail": "the task store cannot be reached; reconnect to resume" });
    Event::message(data.to_string()).event_type("interrupted")
}

fn event(event: TaskEvent) -> Event {
    match event {
        TaskEvent::State(task) => {
            Event::message(json_text(&TaskStatusView::from(task.as_ref()))).event_type("state")
        }
        TaskEvent::Progress { attempt, progress } => {
            Event::message(json_text(&ProgressEvent::new(attempt, &progress))).event_type("progress")
        }
        TaskEvent::Chunk(chunk) => {
            let data = json!({ "attempt": chunk.attempt, "seq": chunk.seq, "text": chunk.text });
            Event::message(data.to_string())
                .event_type("chunk")
                .id(format!("{}.{}", chunk.attempt, chunk.seq))
        }
        TaskEvent::AttemptReset { attempt } => Event::message(json!({ "attempt": attempt }).to_string())
            .event_type("attempt_reset")
            .id(format!("{attempt}.0")),
        TaskEvent::Interrupted(error) => interrupted(&error),
    }
}

fn json_text<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// Reads `<attempt>.<seq>`.
pub(crate) fn parse_event_id(field: &str, text: &str) -> Result<(u32, u64), ApiError> {
    let id = text.split_once('.').and_then(|(attempt, seq)| Some((attempt.parse().ok()?, seq.parse().ok()?)));
    id.filter(|(_, seq)| *seq <= i64::MAX as u64).ok_or_else(|| {
        let text: String = text.chars().take(40).collect();
        let message = format!("{text:?} is not the id of an event, such as 1.42");
        ApiError::invalid(vec![FieldError::new(field, message)])
    })
}

impl Payload for EventStream {
    const CONTENT_TYPE: &'static str = "text/event-stream";

    fn schema_ref() -> MetaSchemaRef {
        let mut text = MetaSchema::new("string");
        text.description = Some("Server-sent events, each with a name and JSON data.");
        MetaSchemaRef::Inline(Box::new(text))
    }
}

impl IntoResponse for EventStream {
    fn into_response(self) -> Response {
        let mut response = SSE::new(self.0).keep_alive(KEEP_ALIVE).into_response();
        let no_buffering = poem::http::HeaderValue::from_static("no");
        response.headers_mut().insert("x-accel-buffering", no_buffering);
        response
    }
}

impl ApiResponse for EventStream {
    fn meta() -> MetaResponses {
        MetaResponses {
            responses: vec![MetaResponse {
                description: "The events, until there is nothing more to tell.",
                status: Some(200),
                status_range: None,
                content: vec![MetaMediaType { content_type: Self::CONTENT_TYPE, schema: Self::schema_ref() }],
                headers: vec![],
            }],
        }
    }

    fn register(_: &mut Registry) {}
}
