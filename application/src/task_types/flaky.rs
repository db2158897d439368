//! `demo.flaky`: fails before it succeeds, for trying out retries.

use domain::{ErrorClass, Failure};
use serde::Deserialize;
use serde_json::json;

use crate::registry::{Output, TaskTypeSpec};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    /// How many attempts fail before one succeeds.
    #[serde(default)]
    failures: Option<u32>,
    /// Instead: how likely each attempt is to fail.
    #[serde(default)]
    probability: Option<f64>,
    /// The class of the error.
    #[serde(default)]
    class: Option<String>,
}

impl Input {
    fn check(&self) -> Result<ErrorClass, String> {
        if self.failures.is_some() && self.probability.is_some() {
            return Err("failures and probability cannot be given together".into());
        }
        if let Some(odd) = self.probability.filter(|probability| !(0.0..=1.0).contains(probability)) {
            return Err(format!("probability: {odd} is not between 0 and 1"));
        }
        let Some(name) = &self.class else { return Ok(ErrorClass::Transient) };
        let class = ErrorClass::ALL.into_iter().find(|class| class.as_str() == name);
        class.ok_or_else(|| {
            let known = ErrorClass::ALL.map(ErrorClass::as_str).join(", ");
            format!("class: {name:?} is none of {known}")
        })
    }

    fn fails(&self, task: i64, attempt: u32) -> bool {
        match self.probability {
            Some(probability) => dice(task, attempt) < probability,
            None => attempt <= self.failures.unwrap_or(2),
        }
    }
}

pub(super) fn spec() -> TaskTypeSpec {
    TaskTypeSpec::new(
        "demo.flaky",
        "Fails some times, or with some probability, before it succeeds.",
        |context, input: Input| async move {
            let class = input.check().map_err(|message| Failure::permanent("invalid_input", message))?;
            let task = context.task();
            if input.fails(task.id.0, task.attempt) {
                let message = format!("attempt {} failed, as it was asked to", task.attempt);
                return Err(Failure::new(class, "flaky", message));
            }
            Output::of(&json!({ "attempts": task.attempt }))
        },
    )
    .checked(|input: &Input| input.check().map(drop))
    .example(r#"{"failures":2}"#)
}

/// A number in `[0, 1)` that is the same for the same attempt, so that a run can be repeated. Source: the finalizer of
/// SplitMix64, <https://prng.di.unimi.it/splitmix64.c>.
fn dice(task: i64, attempt: u32) -> f64 {
    let mut z = task.cast_unsigned().wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(attempt);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_fail_about_as_often_as_they_are_asked_to() {
        let input = Input { failures: None, probability: Some(0.3), class: None };
        let failed = (1..1000).filter(|task| input.fails(*task, 1)).count();
        assert!((250..350).contains(&failed), "{failed} of 1000");
        let never = Input { failures: None, probability: Some(0.0), class: None };
        let always = Input { failures: None, probability: Some(1.0), class: None };
        assert!((1..100).all(|task| !never.fails(task, 1) && always.fails(task, 1)));
    }

    #[test]
    fn odd_inputs_are_named() {
        for (failures, probability, class, told) in [
            (Some(1), Some(0.5), None, "together"),
            (None, Some(1.5), None, "probability"),
            (None, None, Some("odd"), "class"),
        ] {
            let class = class.map(str::to_owned);
            let message = Input { failures, probability, class }.check().expect_err("an odd input");
            assert!(message.contains(told), "{message}");
        }
    }
}
