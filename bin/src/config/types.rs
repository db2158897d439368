//! `[[types]]`: what holds for tasks of some types, instead of what their code says.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use domain::{Defaults, Limits, Pattern, Retention, RetryTerms, TypeRules};

use super::{Layers, parse_duration, parse_size};

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    pattern: String,
    max_attempts: Option<u32>,
    soft_time_limit: Option<String>,
    time_limit: Option<String>,
    retention: Option<String>,
    retry: Option<RetryTerms>,
}

/// The rules in order.
pub(super) fn read(value: toml::Value) -> Result<TypeRules> {
    let expected = "types: a list of { pattern, … } with max_attempts, time_limit and the like is expected";
    let rules: Vec<Rule> = value.try_into().context(expected)?;
    rules.into_iter().map(rule).collect::<Result<_>>().map(TypeRules)
}

fn rule(rule: Rule) -> Result<(Pattern, Defaults)> {
    let pattern = Pattern::new(&rule.pattern)?;
    let named = |why: String| anyhow!("types, {:?}: {why}", rule.pattern);
    let duration = |name: &str, text: &Option<String>| -> Result<Option<Duration>> {
        let read = |text: &String| parse_duration(text).map_err(|why| named(format!("{name}: {why}")));
        text.as_ref().map(read).transpose()
    };
    let retry = rule.retry.as_ref().map(RetryTerms::policy).transpose().map_err(|wrong| {
        named(wrong.iter().map(|wrong| format!("retry.{wrong}")).collect::<Vec<_>>().join("; "))
    })?;
    let retention = rule.retention.as_deref().map(self::retention).transpose();
    let defaults = Defaults {
        max_attempts: rule.max_attempts,
        soft_time_limit: duration("soft_time_limit", &rule.soft_time_limit)?,
        time_limit: duration("time_limit", &rule.time_limit)?,
        retry,
        retention: retention.map_err(|why| named(format!("retention: {why}")))?,
    };
    // What a rule leaves open depends on the type; what it says must be possible by itself.
    match Limits::default().with(&defaults).faults().into_iter().next() {
        Some((field, why)) if defaults.time_limit.is_some() || field == "max_attempts" => {
            Err(named(format!("{field}: {why}")))
        }
        _ => Ok((pattern, defaults)),
    }
}

/// Reads a time such as `7d`, or `never`.
pub(super) fn retention(text: &str) -> Result<Retention, String> {
    if text == "never" {
        return Ok(Retention::Forever);
    }
    let time = parse_duration(text).map_err(|why| format!("{why}, nor never"))?;
    if time.is_zero() || time > Retention::LONGEST {
        return Err(format!("{text:?} is not above 0 and at most ten years"));
    }
    Ok(Retention::For(time))
}

impl Layers {
    /// A size of a document, from 1 kB to what one statement can carry.
    pub(super) fn size(&self, name: &str) -> Result<usize> {
        let bytes = parse_size(self.text(name)).map_err(|why| self.bad(name, why))?;
        let bytes = usize::try_from(bytes).ok().filter(|bytes| (1_000..=64 << 20).contains(bytes));
        bytes.ok_or_else(|| self.bad(name, "not between 1KB and 64MiB"))
    }
}

#[cfg(test)]
mod tests {
    use domain::{Backoff, TaskType};

    use super::*;

    fn rules(text: &str) -> Result<TypeRules> {
        let mut table: toml::Table = toml::from_str(text).expect("valid TOML");
        read(table.remove("types").expect("the list"))
    }

    #[test]
    fn types_are_given_defaults_by_pattern() {
        let rules = rules(
            "[[types]]\npattern = 'ai.*'\nmax_attempts = 2\ntime_limit = '1h'\nretention = '30d'\n\
             retry = { backoff = 'fixed', delay_seconds = 60 }\n[[types]]\npattern = '*'\nretention = 'never'",
        )
        .expect("valid rules");
        let of = |name| rules.of(&TaskType::new(name).expect("a type")).cloned().expect("a rule");
        let ai = of("ai.text_generation");
        assert_eq!((ai.max_attempts, ai.time_limit), (Some(2), Some(Duration::from_secs(3600))));
        assert_eq!(ai.retention, Some(Retention::For(Duration::from_secs(30 * 24 * 3600))));
        assert_eq!(ai.retry.map(|retry| retry.backoff), Some(Backoff::Fixed(Duration::from_secs(60))));
        assert_eq!(of("else").retention, Some(Retention::Forever));
    }

    #[test]
    fn mistakes_name_the_rule_and_what_is_wrong() {
        for (rule, told) in [
            ("pattern = 'no spaces'", "pattern"),
            ("pattern = 'x'\nmax_attempts = 0", "max_attempts"),
            ("pattern = 'x'\ntime_limit = 'long'", "time_limit"),
            ("pattern = 'x'\ntime_limit = '8d'", "time_limit"),
            ("pattern = 'x'\nretention = '0s'", "retention"),
            ("pattern = 'x'\nretry = { on = ['luck'] }", "retry.on"),
            ("pattern = 'x'\nretries = 3", "types"),
        ] {
            let error = rules(&format!("[[types]]\n{rule}")).expect_err(rule);
            assert!(format!("{error:#}").contains(told), "{rule}: {error:#}");
        }
    }
}
