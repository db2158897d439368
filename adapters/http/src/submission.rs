//! The body of a submission: read field by field, so that every mistake is named at once.

use std::{collections::BTreeMap, time::Duration};

use application::{
    task_types::{Callback, DEFAULT_MODEL, DEFAULT_TYPE},
    tasks::{After, FlowSubmission, ItemSubmission, Submission},
};
use chrono::{DateTime, Utc};
use domain::{
    FairnessKey, Json, OwnTerms, Priority, QueueName, Retention, RetryPolicy, RetryTerms, Start, Status,
    TaskId, TaskType, Unique, UniqueKey,
    flow::{NodeName, OnFailure},
    retry::InvalidRetry,
};
use poem_openapi::Object;

use crate::{
    body::AnyJson,
    callback,
    fields::{Fields, read_body, shorten},
    problem::ApiError,
    views::{StatusView, batches::OnFailureView, retry::RetryView},
};

/// A task to run: either `prompt` (and `model`) for a text, or `type` and `input` for anything else. A field that is
/// null counts as absent.
#[derive(Debug, Object)]
#[oai(rename = "Submission", example)]
pub(crate) struct SubmissionBody {
    /// What to ask the model: a task of type `ai.text_generation`.
    #[oai(validator(max_length = 1_000_000))]
    prompt: Option<String>,
    /// The model for `prompt`; `gpt-3.5-turbo` unless said otherwise.
    #[oai(validator(max_length = 200))]
    model: Option<String>,
    /// The task type, such as `demo.sleep`. `GET /task-types` lists them.
    #[oai(rename = "type", validator(pattern = "^[A-Za-z0-9_.-]{1,128}$"))]
    task_type: Option<String>,
    /// The input of that type: any JSON. `docs/ai.md` has the fields of `ai.text_generation` and `ai.embedding`.
    input: Option<AnyJson>,
    /// The queue, instead of where the type is routed.
    #[oai(validator(pattern = "^[A-Za-z0-9_.-]{1,64}$"))]
    queue: Option<String>,
    /// 0 (first) to 9 (last); 5 unless said otherwise.
    #[oai(validator(minimum(value = "0"), maximum(value = "9")))]
    priority: Option<i32>,
    /// Not before this moment.
    run_at: Option<DateTime<Utc>>,
    /// Not before this many seconds from now.
    #[oai(validator(minimum(value = "0"), maximum(value = "315360000")))]
    delay_seconds: Option<f64>,
    /// If no worker has started it by then, it ends as EXPIRED.
    expires_at: Option<DateTime<Utc>>,
    /// How many attempts may fail before the task does; 4 unless said otherwise.
    #[oai(validator(minimum(value = "1"), maximum(value = "100")))]
    max_attempts: Option<i32>,
    /// The handler is asked to stop after this many seconds.
    #[oai(validator(minimum(value = "0", exclusive), maximum(value = "604800")))]
    soft_time_limit_seconds: Option<f64>,
    /// An attempt is stopped after this many seconds.
    #[oai(validator(minimum(value = "0", exclusive), maximum(value = "604800")))]
    time_limit_seconds: Option<f64>,
    /// When and whether failures are tried again, instead of what holds for the type.
    retry: Option<RetryView>,
    /// How long the task is kept after its end, in seconds, at most ten years; as its type is unless said otherwise (7 days
    /// if nothing is configured). A failed one is kept for a person to decide.
    #[oai(validator(minimum(value = "0", exclusive), maximum(value = "315360000")))]
    retention_seconds: Option<f64>,
    /// Your own notes: a JSON object, at most 16 kB.
    metadata: Option<AnyJson>,
    /// Tell this URL of the task's end: a signed JSON message, as in Standard Webhooks. `docs/publishing.md` says which URLs
    /// are called.
    #[oai(validator(min_length = 1, max_length = 2000))]
    callback_url: Option<String>,
    /// Which ends it is told of: `task.completed`, `task.failed`, `task.cancelled`, `task.expired`; all unless said otherwise.
    callback_events: Option<Vec<String>>,
    /// What no other task may share: where one with the same key stands in the way, that one is answered, with 200.
    #[oai(validator(min_length = 1, max_length = 255))]
    unique_key: Option<String>,
    /// Only tasks that stand here are in the way; SCHEDULED, PENDING and PROCESSING unless said otherwise.
    unique_states: Option<Vec<StatusView>>,
    /// Only tasks that were submitted within so many seconds are in the way; all unless said otherwise.
    #[oai(validator(minimum(value = "0", exclusive), maximum(value = "31622400")))]
    unique_window_seconds: Option<f64>,
    /// Whose share of a fair queue it takes, such as a customer or a user: tasks with different keys take turns, however many
    /// of one key wait. `docs/queues.md` says which queues are fair.
    #[oai(validator(min_length = 1, max_length = 128))]
    fairness_key: Option<String>,
    /// Waits for these tasks: their numbers, at most 100. It is SCHEDULED until they have ended.
    #[oai(validator(max_items = 100))]
    after: Option<Vec<i64>>,
    /// What becomes of it when one of those does not complete, or the task that it follows; `cancel` unless said otherwise,
    /// and `run` for what follows a batch.
    on_failure: Option<OnFailureView>,
    /// What its follow-ups, or other items of its batch, call it in `$result`.
    #[oai(validator(pattern = "^[A-Za-z0-9_.-]{1,64}$"))]
    name: Option<String>,
    /// Starts these after it: stored together with it, all or none. They may have follow-ups themselves, 100 in all.
    #[oai(validator(max_items = 100))]
    then: Option<Vec<SubmissionBody>>,
    /// Only in a batch: waits for these items of it, by their names.
    #[oai(validator(max_items = 100))]
    after_items: Option<Vec<String>>,
}

impl poem_openapi::types::Example for SubmissionBody {
    fn example() -> Self {
        Self {
            prompt: Some("Explain quantum computing".to_owned()),
            model: Some(DEFAULT_MODEL.to_owned()),
            task_type: None,
            input: None,
            queue: None,
            priority: Some(5),
            run_at: None,
            delay_seconds: None,
            expires_at: None,
            max_attempts: None,
            soft_time_limit_seconds: None,
            time_limit_seconds: None,
            retry: None,
            retention_seconds: None,
            metadata: None,
            callback_url: None,
            callback_events: None,
            unique_key: None,
            unique_states: None,
            unique_window_seconds: None,
            fairness_key: None,
            after: None,
            on_failure: None,
            name: None,
            then: None,
            after_items: None,
        }
    }
}

/// What is to be changed of a task.
#[derive(Debug, Object)]
#[oai(rename = "TaskChange", example)]
pub(crate) struct ChangeBody {
    /// 0 (first) to 9 (last).
    #[oai(validator(minimum(value = "0"), maximum(value = "9")))]
    priority: i32,
}

impl poem_openapi::types::Example for ChangeBody {
    fn example() -> Self {
        Self { priority: 0 }
    }
}

const LONGEST_DELAY: f64 = 315_360_000.0; // ten years
const LARGEST_METADATA: usize = 16 * 1024;
const LONGEST_MODEL: usize = 200;

/// Reads a body, and who is to be told of the task's end.
pub(crate) fn read(text: &str) -> Result<(FlowSubmission, Option<Callback>), ApiError> {
    read_body(text, |fields| {
        let callback = callback::read(fields);
        Some((read_flow(fields)?, callback))
    })
}

/// Reads what is to be changed of a task: its priority.
pub(crate) fn read_change(text: &str) -> Result<Priority, ApiError> {
    read_body(text, |fields| {
        let missing = !fields.has("priority");
        let priority = fields.whole("priority", 0, 9).and_then(Priority::new);
        if priority.is_none() && fields.is_fine("priority") {
            fields.refuse("priority", if missing { "it is missing" } else { "it is null" });
        }
        priority
    })
}

/// A task with what it waits for and what follows it.
pub(crate) fn read_flow(fields: &mut Fields<'_>) -> Option<FlowSubmission> {
    let name = fields.name("name", NodeName::new);
    let after = read_after(fields);
    let on_failure = read_policy(fields);
    let then = fields.objects("then", &BTreeMap::new(), read_flow).unwrap_or_default();
    let submission = read_submission(fields)?;
    Some(FlowSubmission { submission, name, after, on_failure, then })
}

/// An item of a batch.
pub(crate) fn read_item(fields: &mut Fields<'_>) -> Option<ItemSubmission> {
    let name = fields.name("name", NodeName::new);
    let after = read_after(fields).into_iter().map(After::Task);
    let names = fields.take::<Vec<String>>("after_items", "a list of names").unwrap_or_default();
    let named = names.into_iter().filter_map(|name| {
        NodeName::new(name).map_err(|error| fields.refuse("after_items", error.to_string())).ok()
    });
    let after: Vec<After> = named.collect::<Vec<_>>().into_iter().map(After::Item).chain(after).collect();
    let on_failure = read_policy(fields).unwrap_or_default();
    let submission = read_submission(fields)?;
    Some(ItemSubmission { submission, name, after, on_failure })
}

/// A task with when it may start.
pub(crate) fn read_submission(fields: &mut Fields<'_>) -> Option<Submission> {
    let start = read_start(fields);
    let expires_at = fields.moment("expires_at");
    let unique = read_unique(fields);
    let fairness_key = fields.name("fairness_key", FairnessKey::new);
    Some(Submission { start, expires_at, unique, fairness_key, ..read_work(fields)? })
}

fn read_after(fields: &mut Fields<'_>) -> Vec<TaskId> {
    let ids = fields.take::<Vec<i64>>("after", "a list of task numbers").unwrap_or_default();
    if let Some(bad) = ids.iter().find(|id| **id < 1) {
        fields.refuse("after", format!("there is no task {bad}"));
    }
    ids.into_iter().map(TaskId).collect()
}

fn read_policy(fields: &mut Fields<'_>) -> Option<OnFailure> {
    let word = fields.take::<String>("on_failure", "a text")?;
    let policy = OnFailure::parse(&word);
    if policy.is_none() {
        let known = OnFailure::ALL.map(OnFailure::as_str).join(", ");
        fields.refuse("on_failure", format!("{:?} is none of {known}", shorten(&word)));
    }
    policy
}

/// What a task is, without when and how often: what a schedule submits.
pub(crate) fn read_work(fields: &mut Fields<'_>) -> Option<Submission> {
    let (prompt, model) =
        (fields.take::<String>("prompt", "a text"), fields.take::<String>("model", "a text"));
    let task_type = fields.name("type", TaskType::new);
    let input = fields.json("input");
    let (task_type, input) = type_and_input(fields, prompt, model, task_type, input);
    let queue = fields.name("queue", QueueName::new);
    let priority = fields.whole("priority", 0, 9).and_then(Priority::new);
    let max_attempts = fields.whole("max_attempts", 1, 100).and_then(|n| u32::try_from(n).ok());
    let soft_time_limit = fields.seconds("soft_time_limit_seconds", 604_800.0);
    let time_limit = fields.seconds("time_limit_seconds", 604_800.0);
    let retry = fields.object("retry", "retry.", read_retry);
    let keep_for = fields.seconds("retention_seconds", Retention::LONGEST.as_secs_f64());
    let metadata = read_metadata(fields);
    Some(Submission {
        own: OwnTerms { retry, keep_for },
        queue,
        priority,
        max_attempts,
        soft_time_limit,
        time_limit,
        metadata,
        ..Submission::new(task_type?, input?)
    })
}

fn read_retry(fields: &mut Fields<'_>) -> Option<RetryPolicy> {
    let terms = RetryTerms {
        backoff: fields.take("backoff", "a text"),
        delay_seconds: fields.take("delay_seconds", "a number of seconds"),
        max_delay_seconds: fields.take("max_delay_seconds", "a number of seconds"),
        jitter: fields.take("jitter", "true or false"),
        on: fields.take("on", "a list of error classes"),
    };
    let refuse =
        |wrong: Vec<InvalidRetry>| wrong.into_iter().for_each(|it| fields.refuse(it.field, it.message));
    terms.policy().map_err(refuse).ok()
}

fn read_unique(fields: &mut Fields<'_>) -> Option<Unique> {
    let key = fields.name("unique_key", UniqueKey::new);
    let names = fields.take::<Vec<String>>("unique_states", "a list of states");
    let window = fields.seconds("unique_window_seconds", Unique::LONGEST_WINDOW.as_secs_f64());
    let mut among = Vec::new();
    for name in names.iter().flatten() {
        match Status::parse(name) {
            Some(status) if !among.contains(&status) => among.push(status),
            Some(_) => {}
            None => {
                let known = Status::ALL.map(Status::as_str).join(", ");
                fields.refuse("unique_states", format!("{:?} is none of {known}", shorten(name)));
            }
        }
    }
    if names.is_none() {
        among = Unique::UNFINISHED.to_vec();
    }
    if key.is_none() && (names.is_some() || window.is_some()) && fields.is_fine("unique_key") {
        fields.refuse("unique_key", "it is missing: unique_states and unique_window_seconds are about it");
    }
    Some(Unique { key: key?, among, window })
}

fn read_start(fields: &mut Fields<'_>) -> Start {
    let run_at = fields.moment("run_at");
    let delay = match fields.take::<f64>("delay_seconds", "a number of seconds") {
        Some(seconds) if (0.0..=LONGEST_DELAY).contains(&seconds) => {
            Duration::try_from_secs_f64(seconds).ok()
        }
        Some(seconds) => {
            fields.refuse("delay_seconds", format!("{seconds} is not between 0 and {LONGEST_DELAY}"));
            None
        }
        None => None,
    };
    match (run_at, delay) {
        (Some(_), Some(_)) => {
            fields.refuse("delay_seconds", "it cannot be given together with run_at");
            Start::Now
        }
        (Some(at), None) => Start::At(at),
        (None, Some(delay)) if delay.is_zero() => Start::Now,
        (None, Some(delay)) => Start::After(delay),
        (None, None) => Start::Now,
    }
}

pub(crate) fn read_metadata(fields: &mut Fields<'_>) -> Option<Json> {
    let metadata = fields.json("metadata")?;
    if !metadata.as_str().trim_start().starts_with('{') {
        fields.refuse("metadata", "it is not a JSON object");
    } else if metadata.as_str().len() > LARGEST_METADATA {
        fields.refuse("metadata", format!("it is longer than {LARGEST_METADATA} bytes"));
    }
    Some(metadata)
}

/// `prompt` and `model` are a short form of `type` and `input`.
fn type_and_input(
    fields: &mut Fields<'_>,
    prompt: Option<String>,
    model: Option<String>,
    task_type: Option<TaskType>,
    input: Option<Json>,
) -> (Option<TaskType>, Option<Json>) {
    let is_text = task_type.as_ref().is_none_or(|name| name.as_str() == DEFAULT_TYPE);
    if model.as_ref().is_some_and(|model| model.is_empty() || model.len() > LONGEST_MODEL) {
        fields.refuse("model", format!("it is not 1 to {LONGEST_MODEL} characters long"));
    }
    match (prompt, input) {
        (Some(_), Some(_)) => {
            fields.refuse("prompt", "it cannot be given together with input");
            (None, None)
        }
        (Some(_), None) if !is_text => {
            fields.refuse(
                "prompt",
                format!("only tasks of type {DEFAULT_TYPE} have a prompt; give input instead"),
            );
            (None, None)
        }
        (Some(prompt), None) => {
            if prompt.trim().is_empty() {
                fields.refuse("prompt", "it is empty");
            }
            let model = model.unwrap_or_else(|| DEFAULT_MODEL.to_owned());
            let input = Json::from_value(&serde_json::json!({ "prompt": prompt, "model": model }));
            let input = input.map_err(|error| fields.refuse("prompt", format!("it {error}"))).ok();
            (TaskType::new(DEFAULT_TYPE).ok(), input)
        }
        (None, input) => {
            if model.is_some() {
                fields.refuse("model", "it goes with prompt; other inputs belong in input");
            }
            match task_type {
                Some(task_type) => {
                    let none = || Json::from_stored("null".to_owned());
                    (Some(task_type), Some(input.unwrap_or_else(none)))
                }
                None if input.is_some() || !fields.has("type") && fields.is_fine("type") => {
                    let what = if input.is_some() { "type" } else { "prompt" };
                    if fields.is_fine(what) {
                        fields.refuse(what, "it is missing: give a prompt, or a type and its input");
                    }
                    (None, None)
                }
                None => (None, None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Vec<String> {
        match read(text) {
            Ok(submission) => panic!("{text} was read as {submission:?}"),
            Err(ApiError::Invalid(problem)) => {
                problem.0.errors.into_iter().map(|error| error.field).collect()
            }
            Err(_) => vec!["(not readable)".to_owned()],
        }
    }

    #[test]
    fn a_prompt_is_enough() {
        let Ok((submission, None)) = read(r#"{"prompt":"Hi","model":null,"priority":null}"#) else {
            panic!("refused")
        };
        let submission = submission.submission;
        assert_eq!(submission.task_type.as_str(), DEFAULT_TYPE);
        assert_eq!(submission.input.as_str(), r#"{"model":"gpt-3.5-turbo","prompt":"Hi"}"#);
        assert_eq!((submission.priority, submission.start), (None, Start::Now));
    }

    #[test]
    fn an_input_keeps_its_bytes() {
        let Ok((submission, None)) = read(r#"{"type":"demo.echo","input":{ "a": 1.0e2 }}"#) else {
            panic!("refused")
        };
        assert_eq!(submission.submission.input.as_str(), r#"{ "a": 1.0e2 }"#);
    }

    #[test]
    fn every_mistake_is_named() {
        for (text, expected) in [
            ("{}", vec!["prompt"]),
            (r#"{"input":1}"#, vec!["type"]),
            (r#"{"prompt":1}"#, vec!["prompt"]),
            (r#"{"prompt":" "}"#, vec!["prompt"]),
            (r#"{"prompt":"\u0000"}"#, vec!["prompt"]),
            (r#"{"prompt":"x","input":{}}"#, vec!["prompt"]),
            (r#"{"prompt":"x","type":"demo.echo"}"#, vec!["prompt"]),
            (r#"{"type":"demo.echo","model":"x"}"#, vec!["model"]),
            (r#"{"type":"no spaces"}"#, vec!["type"]),
            (
                r#"{"prompt":"x","priority":10,"qeue":"a","max_attempts":0}"#,
                vec!["priority", "max_attempts", "qeue"],
            ),
            (r#"{"prompt":"x","priority":1.5}"#, vec!["priority"]),
            (r#"{"prompt":"x","priority":true}"#, vec!["priority"]),
            (r#"{"prompt":"x","run_at":"tomorrow"}"#, vec!["run_at"]),
            (r#"{"prompt":"x","run_at":"2030-01-01T00:00:00Z","delay_seconds":1}"#, vec!["delay_seconds"]),
            (r#"{"prompt":"x","delay_seconds":-1}"#, vec!["delay_seconds"]),
            (r#"{"prompt":"x","time_limit_seconds":1e300}"#, vec!["time_limit_seconds"]),
            (r#"{"prompt":"x","metadata":[]}"#, vec!["metadata"]),
            (r#"{"prompt":"x","callback_events":["task.failed"]}"#, vec!["callback_url"]),
            (r#"{"prompt":"x","callback_url":7,"callback_events":["task.failed"]}"#, vec!["callback_url"]),
            (
                r#"{"prompt":"x","callback_url":"https://a.example","callback_events":["failed"]}"#,
                vec!["callback_events"],
            ),
            (
                r#"{"prompt":"x","callback_url":"https://a.example","callback_events":[]}"#,
                vec!["callback_events"],
            ),
            (r#"{"prompt":"x","after":["a"]}"#, vec!["after"]),
            (r#"{"prompt":"x","after":[0]}"#, vec!["after"]),
            (r#"{"prompt":"x","on_failure":"ignore"}"#, vec!["on_failure"]),
            (r#"{"prompt":"x","after_items":["a"]}"#, vec!["after_items"]),
            (r#"{"prompt":"x","then":{}}"#, vec!["then"]),
            (
                r#"{"prompt":"x","then":[{"prompt":"y","then":[{"prompt":"z","priority":10}]},{"promt":"x"}]}"#,
                vec!["then[0].then[0].priority", "then[1].prompt", "then[1].promt"],
            ),
            (
                r#"{"prompt":"x","retry":{"backoff":"linear","on":["never"],"tries":3},"retention_seconds":0}"#,
                vec!["retry.backoff", "retry.on", "retry.tries", "retention_seconds"],
            ),
            (r#"{"prompt":"x","retry":5}"#, vec!["retry"]),
            ("[]", vec!["body"]),
            ("{", vec!["(not readable)"]),
            ("", vec!["(not readable)"]),
        ] {
            assert_eq!(fields(text), expected, "{text}");
        }
    }
}
