//! `demo.sleep`: takes its time and reports progress, for trying out cancellation, time limits and take-over.

use std::time::Duration;

use domain::Failure;
use serde::Deserialize;
use serde_json::json;

use crate::registry::{Output, TaskTypeSpec};

const LONGEST: f64 = 24.0 * 3600.0;
/// Progress is reported this often, and at least a hundred times.
const STEP: Duration = Duration::from_secs(1);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    seconds: f64,
}

pub(super) fn spec() -> TaskTypeSpec {
    TaskTypeSpec::new("demo.sleep", "Sleeps for some seconds, reporting progress.", |context, input: Input| async move {
        if !(0.0..=LONGEST).contains(&input.seconds) {
            let message = format!("seconds is {}, which is not between 0 and {LONGEST}", input.seconds);
            return Err(Failure::permanent("invalid_input", message));
        }
        let whole = Duration::from_secs_f64(input.seconds);
        let started = tokio::time::Instant::now();
        let step = STEP.min(whole / 100).max(Duration::from_millis(10));
        loop {
            let gone = started.elapsed().min(whole);
            if gone >= whole {
                break;
            }
            if whole >= STEP {
                context.progress(gone.as_millis() as u64, whole.as_millis() as u64, Some("sleeping"));
            }
            let until = started + whole.min(gone + if whole >= STEP { step } else { whole });
            tokio::select! {
                () = tokio::time::sleep_until(until) => {}
                () = context.soft_limit_passed() => {
                    let message = format!("the soft time limit passed after {:.1} s", started.elapsed().as_secs_f64());
                    return Err(Failure::new(domain::ErrorClass::TimedOut, "soft_time_limit", message));
                }
            }
        }
        Output::of(&json!({ "slept_seconds": input.seconds }))
    })
    .example(r#"{"seconds":0.5}"#)
}
