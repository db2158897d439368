//! Who has a say in a task's budgets and limits, from the weakest to the strongest: the code of its type, the configuration
//! of its type, the settings of its queue, its submission.

use std::time::Duration;

use crate::{LimitOverrides, Limits, Retention, RetryPolicy, TaskType, routing::Pattern};

/// What one of them says; `None` leaves it as the ones before have it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Defaults {
    /// Attempts that may fail before the task does.
    pub max_attempts: Option<u32>,
    /// The soft time limit.
    pub soft_time_limit: Option<Duration>,
    /// The time limit.
    pub time_limit: Option<Duration>,
    /// When and whether failures are tried again.
    pub retry: Option<RetryPolicy>,
    /// How long tasks are kept that have ended.
    pub retention: Option<Retention>,
}

impl Limits {
    /// These limits where `stronger` says nothing else: [`Limits::changed_by`].
    pub fn with(self, stronger: &Defaults) -> Self {
        self.changed_by(&LimitOverrides {
            max_attempts: stronger.max_attempts,
            soft_time_limit: stronger.soft_time_limit,
            time_limit: stronger.time_limit,
        })
    }

    /// What is wrong with these limits: the field's name in a submission, and why.
    pub fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        if !(1..=Self::MOST_ATTEMPTS).contains(&self.max_attempts) {
            let most = Self::MOST_ATTEMPTS;
            faults.push(("max_attempts", format!("{} is not between 1 and {most}", self.max_attempts)));
        }
        for (field, limit) in
            [("time_limit_seconds", Some(self.time_limit)), ("soft_time_limit_seconds", self.soft_time_limit)]
        {
            if let Some(limit) = limit.filter(|limit| limit.is_zero() || *limit > Self::LONGEST) {
                let longest = Self::LONGEST.as_secs();
                faults.push((field, format!("{} is not above 0 and at most {longest}", limit.as_secs_f64())));
            }
        }
        if let Some(soft) = self.soft_time_limit.filter(|soft| *soft >= self.time_limit) {
            let (soft, hard) = (soft.as_secs_f64(), self.time_limit.as_secs_f64());
            let message = format!("{soft} is not below the time limit of {hard} seconds");
            faults.push(("soft_time_limit_seconds", message));
        }
        faults
    }
}

/// What the configuration says of task types: ordered rules, the first that matches a type holds for it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TypeRules(pub Vec<(Pattern, Defaults)>);

impl TypeRules {
    /// What holds for this type.
    pub fn of(&self, task_type: &TaskType) -> Option<&Defaults> {
        self.0.iter().find(|(pattern, _)| pattern.matches(task_type)).map(|(_, defaults)| defaults)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stronger_one_wins_and_what_it_leaves_open_stays() {
        let minute = Duration::from_secs(60);
        let of_the_type = Defaults { max_attempts: Some(2), time_limit: Some(minute), ..Defaults::default() };
        let of_the_queue = Defaults { soft_time_limit: Some(minute / 2), ..Defaults::default() };
        let of_the_submission = Defaults { max_attempts: Some(9), ..Defaults::default() };
        let limits = Limits::default().with(&of_the_type);
        assert_eq!(limits.soft_time_limit, None, "25 min lie beyond the time limit of a minute");
        let limits = limits.with(&of_the_queue).with(&of_the_submission);
        assert_eq!(limits, Limits { max_attempts: 9, time_limit: minute, soft_time_limit: Some(minute / 2) });
        assert_eq!(limits.with(&Defaults::default()), limits);
        assert_eq!(limits.faults(), []);
    }

    #[test]
    fn the_first_rule_that_matches_a_type_holds() {
        let rule = |pattern: &str, attempts| {
            let defaults = Defaults { max_attempts: Some(attempts), ..Defaults::default() };
            (Pattern::new(pattern).expect("a pattern"), defaults)
        };
        let rules = TypeRules(vec![rule("ai.text*", 1), rule("ai.*", 2)]);
        for (name, attempts) in [("ai.text_generation", Some(1)), ("ai.other", Some(2)), ("demo.noop", None)]
        {
            let found = rules.of(&TaskType::new(name).expect("a type")).and_then(|found| found.max_attempts);
            assert_eq!(found, attempts, "{name}");
        }
    }
}
