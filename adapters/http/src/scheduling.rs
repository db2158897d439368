//! The body of a schedule.

use std::time::Duration;

use application::schedules::ScheduleRequest;
use domain::schedule::{Cadence, CatchUp, NewSchedule, Overlap};
use poem_openapi::Object;

use crate::{
    body::AnyJson,
    fields::{Fields, read_body, shorten},
    problem::ApiError,
    submission::read_work,
    views::{
        retry::RetryView,
        schedules::{CatchUpView, OverlapView},
    },
};

/// A schedule: either `cron` (and `time_zone`) or `every_seconds`, and the `task` that it submits. A field that is null
/// counts as absent.
#[derive(Debug, Object)]
#[oai(rename = "ScheduleRequest", example)]
pub(crate) struct ScheduleBody {
    /// A cron expression: five fields, or six with seconds in front.
    #[oai(validator(max_length = 256))]
    cron: Option<String>,
    /// The time zone on whose clock it is read: an IANA name, `UTC` unless said otherwise.
    #[oai(validator(max_length = 80))]
    time_zone: Option<String>,
    /// Instead of `cron`: seconds between two ticks.
    #[oai(validator(minimum(value = "1"), maximum(value = "31622400")))]
    every_seconds: Option<f64>,
    /// From when on they are counted; now unless said otherwise.
    starting_at: Option<chrono::DateTime<chrono::Utc>>,
    /// What becomes of ticks that are over a minute late because nothing ran; `skip` unless said otherwise.
    catch_up: Option<CatchUpView>,
    /// What becomes of a tick while the last task has not ended; `allow` unless said otherwise.
    overlap: Option<OverlapView>,
    /// Each task starts up to so many seconds after its tick, always as late for the same tick; 0 unless said otherwise.
    #[oai(validator(minimum(value = "0"), maximum(value = "86400")))]
    jitter_seconds: Option<f64>,
    /// Whether it stands still.
    paused: Option<bool>,
    /// What it submits at each tick.
    task: ScheduledWorkBody,
}

/// What a schedule submits: either `prompt` (and `model`) for a text, or `type` and `input` for anything else.
#[derive(Debug, Object)]
#[oai(rename = "ScheduledWork")]
pub(crate) struct ScheduledWorkBody {
    /// What to ask the model.
    #[oai(validator(max_length = 1_000_000))]
    prompt: Option<String>,
    /// The model for `prompt`.
    #[oai(validator(max_length = 200))]
    model: Option<String>,
    /// The task type.
    #[oai(rename = "type", validator(pattern = "^[A-Za-z0-9_.-]{1,128}$"))]
    task_type: Option<String>,
    /// The input of that type: any JSON.
    input: Option<AnyJson>,
    /// The queue, instead of where the type is routed.
    #[oai(validator(pattern = "^[A-Za-z0-9_.-]{1,64}$"))]
    queue: Option<String>,
    /// 0 (first) to 9 (last).
    #[oai(validator(minimum(value = "0"), maximum(value = "9")))]
    priority: Option<i32>,
    /// How many attempts may fail before the task does.
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
    /// How long its tasks are kept after their end, in seconds.
    #[oai(validator(minimum(value = "0", exclusive), maximum(value = "315360000")))]
    retention_seconds: Option<f64>,
    /// Your own notes: a JSON object, at most 16 kB.
    metadata: Option<AnyJson>,
}

impl poem_openapi::types::Example for ScheduleBody {
    fn example() -> Self {
        let task = ScheduledWorkBody {
            prompt: Some("Write a short good morning".to_owned()),
            model: None,
            task_type: None,
            input: None,
            queue: None,
            priority: None,
            max_attempts: None,
            soft_time_limit_seconds: None,
            time_limit_seconds: None,
            retry: None,
            retention_seconds: None,
            metadata: None,
        };
        Self {
            cron: Some("0 7 * * MON-FRI".to_owned()),
            time_zone: Some("Europe/Berlin".to_owned()),
            every_seconds: None,
            starting_at: None,
            catch_up: Some(CatchUpView::Skip),
            overlap: Some(OverlapView::Allow),
            jitter_seconds: None,
            paused: Some(false),
            task,
        }
    }
}

/// Reads a body; `now` is when an interval starts that says nothing else.
pub(crate) fn read(text: &str, now: domain::Timestamp) -> Result<ScheduleRequest, ApiError> {
    read_body(text, |fields| {
        let cadence = read_cadence(fields, now);
        let catch_up = read_word(fields, "catch_up", CatchUp::parse, CatchUp::ALL.iter().map(|c| c.as_str()));
        let overlap = read_word(fields, "overlap", Overlap::parse, Overlap::ALL.iter().map(|o| o.as_str()));
        let jitter = read_jitter(fields);
        let paused = fields.take("paused", "true or false").unwrap_or(false);
        let has_task = fields.has("task");
        let submission = fields.object("task", "task.", read_work);
        if !has_task {
            fields.refuse("task", "it is missing: say what to submit, as in {\"prompt\": \"…\"}");
        } else if submission.is_none() && fields.errors.iter().all(|error| !error.field.starts_with("task")) {
            fields.refuse("task", "it is null");
        }
        Some(ScheduleRequest {
            cadence: cadence?,
            catch_up: catch_up.unwrap_or_default(),
            overlap: overlap.unwrap_or_default(),
            jitter,
            paused,
            submission: submission?,
        })
    })
}

/// Reads when a schedule would be due, from the parameters of a query.
pub(crate) fn read_ticks(
    parameters: &[(&str, Option<String>)],
    now: domain::Timestamp,
) -> Result<Cadence, ApiError> {
    let given = parameters.iter().filter_map(|(name, value)| Some((*name, value.as_ref()?)));
    let fields: serde_json::Map<String, serde_json::Value> = given
        .map(|(name, value)| {
            // In a query everything is text; what is no number is told so by its field.
            let number = value.parse().ok().filter(|_| name == "every_seconds");
            let number = number.and_then(serde_json::Number::from_f64).map(serde_json::Value::Number);
            (name.to_owned(), number.unwrap_or_else(|| value.clone().into()))
        })
        .collect();
    read_body(&serde_json::Value::Object(fields).to_string(), |fields| read_cadence(fields, now))
}

/// A schedule as it stands in a configuration: the fields of a request. Says all that is wrong with it.
pub fn read_configured_schedule(text: &str) -> Result<ScheduleRequest, String> {
    // An interval counts from a moment that every process knows.
    read(text, domain::Timestamp::UNIX_EPOCH).map_err(|error| match error {
        ApiError::Invalid(problem) => {
            let wrong = problem.0.errors.iter().map(|wrong| format!("{}: {}", wrong.field, wrong.message));
            wrong.collect::<Vec<_>>().join("; ")
        }
        _ => "it cannot be read".to_owned(),
    })
}

fn read_jitter(fields: &mut Fields<'_>) -> Duration {
    let Some(seconds) = fields.take::<f64>("jitter_seconds", "a number of seconds") else {
        return Duration::ZERO;
    };
    let jitter = Duration::try_from_secs_f64(seconds).ok().filter(|it| *it <= NewSchedule::LONGEST_JITTER);
    if jitter.is_none() {
        let most = NewSchedule::LONGEST_JITTER.as_secs();
        fields.refuse("jitter_seconds", format!("{seconds} is not between 0 and {most}"));
    }
    // The stores keep whole milliseconds.
    Duration::from_millis(jitter.map_or(0, |jitter| u64::try_from(jitter.as_millis()).unwrap_or(0)))
}

fn read_cadence(fields: &mut Fields<'_>, now: domain::Timestamp) -> Option<Cadence> {
    let cron = fields.take::<String>("cron", "a text");
    let zone = fields.take::<String>("time_zone", "a text");
    let every = fields.seconds("every_seconds", Cadence::LONGEST.as_secs_f64());
    let from = fields.moment("starting_at");
    let (field, cadence) = match (cron, every) {
        (Some(_), Some(_)) => {
            fields.refuse("every_seconds", "it cannot be given together with cron");
            return None;
        }
        (None, None) => {
            if fields.is_fine("cron") && fields.is_fine("every_seconds") {
                fields.refuse("cron", "it is missing: give cron, as in \"0 2 * * *\", or every_seconds");
            }
            return None;
        }
        (Some(cron), None) => {
            if from.is_some() {
                fields.refuse("starting_at", "it goes with every_seconds");
            }
            let zone = zone.as_deref().unwrap_or("UTC");
            // A cadence on a clock that is always right tells which of the two is wrong.
            let field = if Cadence::cron(&cron, "UTC").is_ok() { "time_zone" } else { "cron" };
            (field, Cadence::cron(&cron, zone))
        }
        (None, Some(every)) => {
            if zone.is_some() {
                fields.refuse("time_zone", "it goes with cron");
            }
            ("every_seconds", Cadence::every(every, from.unwrap_or(now)))
        }
    };
    cadence.map_err(|error| fields.refuse(field, error.to_string())).ok()
}

fn read_word<T>(
    fields: &mut Fields<'_>,
    field: &str,
    parse: impl Fn(&str) -> Option<T>,
    known: impl Iterator<Item = &'static str>,
) -> Option<T> {
    let text = fields.take::<String>(field, "a text")?;
    let word = parse(&text);
    if word.is_none() {
        let known = known.collect::<Vec<_>>().join(", ");
        fields.refuse(field, format!("{:?} is none of {known}", shorten(&text)));
    }
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> domain::Timestamp {
        domain::Timestamp::from_timestamp(1_800_000_000, 0).expect("a moment")
    }

    #[test]
    fn a_cron_expression_and_a_prompt_are_enough() {
        let Ok(request) = read(r#"{"cron":"0 2 * * *","task":{"prompt":"Hi"}}"#, now()) else {
            panic!("refused")
        };
        assert_eq!(request.cadence, Cadence::cron("0 2 * * *", "UTC").expect("a cadence"));
        assert_eq!(
            (request.catch_up, request.overlap, request.paused),
            (CatchUp::Skip, Overlap::Allow, false)
        );
    }

    #[test]
    fn every_mistake_is_named() {
        for (text, expected) in [
            ("{}", vec!["cron", "task"]),
            (r#"{"cron":"0 2 * * *","task":null}"#, vec!["task"]),
            (r#"{"cron":"0 2 * * *","task":{}}"#, vec!["task.prompt"]),
            (r#"{"cron":"whenever","task":{"prompt":"x"}}"#, vec!["cron"]),
            (r#"{"cron":"0 2 * * *","time_zone":"Berlin","task":{"prompt":"x"}}"#, vec!["time_zone"]),
            (r#"{"cron":"0 2 * * *","every_seconds":5,"task":{"prompt":"x"}}"#, vec!["every_seconds"]),
            (r#"{"every_seconds":0.5,"task":{"prompt":"x"}}"#, vec!["every_seconds"]),
            (r#"{"every_seconds":5,"time_zone":"UTC","task":{"prompt":"x"}}"#, vec!["time_zone"]),
            (r#"{"every_seconds":5,"jitter_seconds":90000,"task":{"prompt":"x"}}"#, vec!["jitter_seconds"]),
            (r#"{"every_seconds":5,"overlap":"never","task":{"prompt":"x"}}"#, vec!["overlap"]),
            (r#"{"every_seconds":5,"task":{"prompt":"x","retry":{"on":["x"]}}}"#, vec!["task.retry.on"]),
            (
                r#"{"every_seconds":5,"task":{"prompt":"x","run_at":"2030-01-01T00:00:00Z"}}"#,
                vec!["task.run_at"],
            ),
        ] {
            let Err(ApiError::Invalid(problem)) = read(text, now()) else { panic!("{text} was read") };
            let found: Vec<_> = problem.0.errors.iter().map(|error| error.field.as_str()).collect();
            assert_eq!(found, expected, "{text}");
        }
    }
}
