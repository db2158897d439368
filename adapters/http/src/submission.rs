//! The body of a submission: read field by field, so that every mistake is named at once.

use std::{collections::BTreeMap, time::Duration};

use application::{
    task_types::{DEFAULT_MODEL, DEFAULT_TYPE},
    tasks::Submission,
};
use chrono::{DateTime, Utc};
use domain::{Json, Priority, QueueName, Start, TaskType};
use poem_openapi::Object;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::{
    body::AnyJson,
    problem::{ApiError, FieldError},
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
    /// The input of that type: any JSON.
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
    /// Your own notes: a JSON object, at most 16 kB.
    metadata: Option<AnyJson>,
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
            metadata: None,
        }
    }
}

const LONGEST_DELAY: f64 = 315_360_000.0; // ten years
const LARGEST_METADATA: usize = 16 * 1024;
const LONGEST_MODEL: usize = 200;

/// Reads a body.
pub(crate) fn read(text: &str) -> Result<Submission, ApiError> {
    let fields: BTreeMap<String, &RawValue> =
        serde_json::from_str(text).map_err(|error| match error.classify() {
            serde_json::error::Category::Data => {
                ApiError::invalid(vec![FieldError::new("body", "it is not a JSON object")])
            }
            _ => ApiError::bad_request(format!("the body is not valid JSON: {error}")),
        })?;
    let mut fields = Fields { fields, errors: Vec::new() };
    let submission = fields.submission();
    match submission {
        Some(submission) if fields.errors.is_empty() => Ok(submission),
        _ => Err(ApiError::invalid(fields.errors)),
    }
}

struct Fields<'a> {
    fields: BTreeMap<String, &'a RawValue>,
    errors: Vec<FieldError>,
}

impl<'a> Fields<'a> {
    fn submission(&mut self) -> Option<Submission> {
        let (prompt, model) =
            (self.take::<String>("prompt", "a text"), self.take::<String>("model", "a text"));
        let task_type = self.name("type", TaskType::new);
        let input = self.json("input");
        let (task_type, input) = self.work(prompt, model, task_type, input);
        let queue = self.name("queue", QueueName::new);
        let priority = self.whole("priority", 0, 9).and_then(Priority::new);
        let start = self.start();
        let expires_at = self.moment("expires_at");
        let max_attempts = self.whole("max_attempts", 1, 100).and_then(|n| u32::try_from(n).ok());
        let soft_time_limit = self.seconds("soft_time_limit_seconds", 604_800.0);
        let time_limit = self.seconds("time_limit_seconds", 604_800.0);
        let metadata = self.metadata();
        for unknown in std::mem::take(&mut self.fields).into_keys() {
            let unknown: String = unknown.chars().take(80).collect();
            self.refuse(&unknown, "there is no such field");
        }
        Some(Submission {
            task_type: task_type?,
            input: input?,
            queue,
            priority,
            start,
            expires_at,
            max_attempts,
            soft_time_limit,
            time_limit,
            metadata,
        })
    }

    fn refuse(&mut self, field: &str, message: impl Into<String>) {
        self.errors.push(FieldError::new(field, message));
    }

    fn raw(&mut self, field: &str) -> Option<&'a RawValue> {
        self.fields.remove(field).filter(|value| value.get() != "null")
    }

    fn take<T: DeserializeOwned>(&mut self, field: &str, what: &str) -> Option<T> {
        let value = self.raw(field)?;
        let read = serde_json::from_str(value.get()).ok();
        if read.is_none() {
            self.refuse(field, format!("{} is not {what}", shorten(value.get())));
        }
        read
    }

    fn name<T, E: std::fmt::Display>(
        &mut self,
        field: &str,
        new: impl Fn(String) -> Result<T, E>,
    ) -> Option<T> {
        let text = self.take::<String>(field, "a text")?;
        new(text).map_err(|error| self.refuse(field, error.to_string())).ok()
    }

    fn json(&mut self, field: &str) -> Option<Json> {
        let value = self.raw(field)?;
        Json::parse(value.get()).map_err(|error| self.refuse(field, error.to_string())).ok()
    }

    fn whole(&mut self, field: &str, least: i64, most: i64) -> Option<i64> {
        let number = self.take::<serde_json::Number>(field, "a whole number")?;
        let whole = number
            .as_i64()
            .or_else(|| number.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 1e15).map(|f| f as i64));
        let good = whole.filter(|whole| (least..=most).contains(whole));
        if good.is_none() {
            self.refuse(
                field,
                format!("{} is not a whole number from {least} to {most}", shorten(&number.to_string())),
            );
        }
        good
    }

    fn seconds(&mut self, field: &str, most: f64) -> Option<Duration> {
        let seconds = self.take::<f64>(field, "a number of seconds")?;
        let good = Duration::try_from_secs_f64(seconds).ok().filter(|d| !d.is_zero() && seconds <= most);
        if good.is_none() {
            self.refuse(field, format!("{seconds} is not a number of seconds above 0 and at most {most}"));
        }
        good
    }

    fn moment(&mut self, field: &str) -> Option<domain::Timestamp> {
        let text = self.take::<String>(field, "a time such as 2030-01-31T12:00:00Z")?;
        let moment = DateTime::parse_from_rfc3339(&text).ok().map(|moment| moment.with_timezone(&Utc));
        // What both stores and every client can represent.
        let good = moment.filter(|moment| (1970..=9999).contains(&chrono::Datelike::year(moment)));
        if good.is_none() {
            self.refuse(field, format!("{} is not a time such as 2030-01-31T12:00:00Z", shorten(&text)));
        }
        good
    }

    fn start(&mut self) -> Start {
        let run_at = self.moment("run_at");
        let delay = match self.take::<f64>("delay_seconds", "a number of seconds") {
            Some(seconds) if (0.0..=LONGEST_DELAY).contains(&seconds) => {
                Duration::try_from_secs_f64(seconds).ok()
            }
            Some(seconds) => {
                self.refuse("delay_seconds", format!("{seconds} is not between 0 and {LONGEST_DELAY}"));
                None
            }
            None => None,
        };
        match (run_at, delay) {
            (Some(_), Some(_)) => {
                self.refuse("delay_seconds", "it cannot be given together with run_at");
                Start::Now
            }
            (Some(at), None) => Start::At(at),
            (None, Some(delay)) if delay.is_zero() => Start::Now,
            (None, Some(delay)) => Start::After(delay),
            (None, None) => Start::Now,
        }
    }

    fn metadata(&mut self) -> Option<Json> {
        let metadata = self.json("metadata")?;
        if !metadata.as_str().trim_start().starts_with('{') {
            self.refuse("metadata", "it is not a JSON object");
        } else if metadata.as_str().len() > LARGEST_METADATA {
            self.refuse("metadata", format!("it is longer than {LARGEST_METADATA} bytes"));
        }
        Some(metadata)
    }

    /// `prompt` and `model` are a short form of `type` and `input`.
    fn work(
        &mut self,
        prompt: Option<String>,
        model: Option<String>,
        task_type: Option<TaskType>,
        input: Option<Json>,
    ) -> (Option<TaskType>, Option<Json>) {
        let is_text = task_type.as_ref().is_none_or(|name| name.as_str() == DEFAULT_TYPE);
        if model.as_ref().is_some_and(|model| model.is_empty() || model.len() > LONGEST_MODEL) {
            self.refuse("model", format!("it is not 1 to {LONGEST_MODEL} characters long"));
        }
        match (prompt, input) {
            (Some(_), Some(_)) => {
                self.refuse("prompt", "it cannot be given together with input");
                (None, None)
            }
            (Some(_), None) if !is_text => {
                self.refuse(
                    "prompt",
                    format!("only tasks of type {DEFAULT_TYPE} have a prompt; give input instead"),
                );
                (None, None)
            }
            (Some(prompt), None) => {
                if prompt.trim().is_empty() {
                    self.refuse("prompt", "it is empty");
                }
                let model = model.unwrap_or_else(|| DEFAULT_MODEL.to_owned());
                let input = Json::from_value(&serde_json::json!({ "prompt": prompt, "model": model }));
                let input = input.map_err(|error| self.refuse("prompt", format!("it {error}"))).ok();
                (TaskType::new(DEFAULT_TYPE).ok(), input)
            }
            (None, input) => {
                if model.is_some() {
                    self.refuse("model", "it goes with prompt; other inputs belong in input");
                }
                match task_type {
                    Some(task_type) => {
                        let none = || Json::from_stored("null".to_owned());
                        (Some(task_type), Some(input.unwrap_or_else(none)))
                    }
                    None if input.is_some()
                        || !self.fields.contains_key("type")
                            && self.errors.iter().all(|e| e.field != "type") =>
                    {
                        let what = if input.is_some() { "type" } else { "prompt" };
                        if self.errors.iter().all(|error| error.field != what) {
                            self.refuse(what, "it is missing: give a prompt, or a type and its input");
                        }
                        (None, None)
                    }
                    None => (None, None),
                }
            }
        }
    }
}

/// At most 80 characters of what a client sent.
fn shorten(text: &str) -> String {
    if text.chars().count() <= 80 {
        text.to_owned()
    } else {
        text.chars().take(77).chain("...".chars()).collect()
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
        let Ok(submission) = read(r#"{"prompt":"Hi","model":null,"priority":null}"#) else {
            panic!("refused")
        };
        assert_eq!(submission.task_type.as_str(), DEFAULT_TYPE);
        assert_eq!(submission.input.as_str(), r#"{"model":"gpt-3.5-turbo","prompt":"Hi"}"#);
        assert_eq!((submission.priority, submission.start), (None, Start::Now));
    }

    #[test]
    fn an_input_keeps_its_bytes() {
        let Ok(submission) = read(r#"{"type":"demo.echo","input":{ "a": 1.0e2 }}"#) else {
            panic!("refused")
        };
        assert_eq!(submission.input.as_str(), r#"{ "a": 1.0e2 }"#);
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
            ("[]", vec!["body"]),
            ("{", vec!["(not readable)"]),
            ("", vec!["(not readable)"]),
        ] {
            assert_eq!(fields(text), expected, "{text}");
        }
    }
}
