//! How long a task is kept after its end. What waits for a person (FAILED) is kept until that person decides, or as long
//! as manual handling is configured to keep it; what has not ended is always kept, and what others still need.

use std::time::Duration;

use crate::{End, TaskType, Timestamp, defaults::TypeRules};

/// When it is asked again whether others still need a task that would be due.
const NEEDED: Duration = Duration::from_secs(3600);

/// How long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    /// So long after the end.
    For(Duration),
    /// Until somebody removes it.
    Forever,
}

impl Retention {
    /// What holds unless somebody says otherwise: a week.
    pub const DEFAULT: Self = Self::For(Duration::from_secs(7 * 24 * 3600));
    /// The longest that can be asked for: ten years.
    pub const LONGEST: Duration = Duration::from_secs(315_360_000);

    /// As a time; for ever is the longest.
    fn shortest(self) -> Duration {
        match self {
            Self::For(time) => time,
            Self::Forever => Duration::MAX,
        }
    }
}

impl Default for Retention {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Which tasks are kept for how long: by their own word, else by the first rule for their type, else for `otherwise`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RetentionRules {
    /// By type; rules that say nothing of retention count as leaving it to `otherwise`.
    pub types: TypeRules,
    /// For all other types.
    pub otherwise: Retention,
}

/// What is known of a task that may have been kept for long enough.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Record<'a> {
    /// Its type.
    pub task_type: &'a TaskType,
    /// What its submission asked for.
    pub own: Option<Duration>,
    /// How and when it ended; `None` while it has not.
    pub ended: Option<(End, Timestamp)>,
    /// Whether others may still ask for its result: those that wait for it, or a batch of its that waits for a person.
    pub needed: bool,
}

/// What becomes of such a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes.
    Remove,
    /// It stays, and is looked at again then at the earliest.
    LookAgain(Timestamp),
    /// It stays, and nobody has to look at it again: it is kept for ever, or waits for a person.
    Leave,
}

impl RetentionRules {
    /// How long a task of this type is kept.
    pub fn of(&self, task_type: &TaskType, own: Option<Duration>) -> Retention {
        let by_type = || self.types.of(task_type).and_then(|defaults| defaults.retention);
        own.map(Retention::For).or_else(by_type).unwrap_or(self.otherwise)
    }

    /// Tasks without a word of their own that were submitted less than this long ago cannot be due.
    pub fn shortest(&self) -> Duration {
        let by_type = self.types.0.iter().filter_map(|(_, defaults)| defaults.retention);
        by_type.chain([self.otherwise]).map(Retention::shortest).min().unwrap_or(Duration::MAX)
    }

    /// The same rules with a longest time. What is kept for ever still is.
    pub fn at_most(mut self, most: Duration) -> Self {
        let shorter = |retention: &mut Retention| match retention {
            Retention::For(time) => *time = (*time).min(most),
            Retention::Forever => {}
        };
        self.types.0.iter_mut().filter_map(|(_, defaults)| defaults.retention.as_mut()).for_each(shorter);
        shorter(&mut self.otherwise);
        self
    }

    /// What becomes of this task at `now`.
    pub fn judge(&self, record: Record<'_>, now: Timestamp) -> Verdict {
        let Retention::For(kept) = self.of(record.task_type, record.own) else { return Verdict::Leave };
        match record.ended {
            Some((End::Failed, _)) => Verdict::Leave,
            Some((End::Completed | End::Cancelled | End::Expired, at)) => {
                let due = after(at, kept);
                if due > now {
                    Verdict::LookAgain(due)
                } else if record.needed {
                    Verdict::LookAgain(after(now, NEEDED))
                } else {
                    Verdict::Remove
                }
            }
            // It cannot be due before this, whenever it ends.
            None => Verdict::LookAgain(after(now, kept)),
        }
    }
}

/// One line that is the same for the same rules: a walk through the records begins anew where they have changed.
impl std::fmt::Display for RetentionRules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (pattern, defaults) in &self.types.0 {
            match defaults.retention {
                Some(Retention::For(time)) => write!(f, "{}={} ", pattern.as_str(), time.as_millis())?,
                Some(Retention::Forever) => write!(f, "{}=never ", pattern.as_str())?,
                None => write!(f, "{} ", pattern.as_str())?,
            }
        }
        match self.otherwise {
            Retention::For(time) => write!(f, "{}", time.as_millis()),
            Retention::Forever => write!(f, "never"),
        }
    }
}

fn after(at: Timestamp, time: Duration) -> Timestamp {
    let time = chrono::TimeDelta::from_std(time).unwrap_or(chrono::TimeDelta::MAX);
    at.checked_add_signed(time).unwrap_or(Timestamp::MAX_UTC)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Defaults, routing::Pattern};

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn rules() -> RetentionRules {
        let rule = |pattern: &str, retention| {
            let defaults = Defaults { retention, ..Defaults::default() };
            (Pattern::new(pattern).expect("a pattern"), defaults)
        };
        let types = vec![
            rule("audit.*", Some(Retention::Forever)),
            rule("ai.draft", Some(Retention::For(DAY))),
            rule("ai.*", None),
            rule("*", Some(Retention::For(30 * DAY))),
        ];
        RetentionRules { types: TypeRules(types), otherwise: Retention::DEFAULT }
    }

    fn at(days: u32) -> Timestamp {
        Timestamp::from_timestamp(1_800_000_000, 0).expect("a moment") + DAY * days
    }

    fn judged(name: &str, own: Option<Duration>, end: Option<End>) -> Verdict {
        let task_type = TaskType::new(name).expect("a type");
        let ended = end.map(|end| (end, at(0)));
        rules().judge(Record { task_type: &task_type, own, ended, needed: false }, at(10))
    }

    #[test]
    fn the_tasks_own_word_goes_before_its_types_and_that_before_the_rest() {
        for (name, own, verdict) in [
            ("ai.draft", None, Verdict::Remove),
            ("ai.text_generation", None, Verdict::Remove),
            ("else", None, Verdict::LookAgain(at(30))),
            ("audit.entry", None, Verdict::Leave),
            ("audit.entry", Some(DAY), Verdict::Remove),
            ("ai.draft", Some(11 * DAY), Verdict::LookAgain(at(11))),
        ] {
            assert_eq!(judged(name, own, Some(End::Completed)), verdict, "{name} {own:?}");
        }
        assert_eq!(rules().shortest(), DAY);
    }

    #[test]
    fn what_waits_for_a_person_and_what_has_not_ended_is_never_removed() {
        assert_eq!(judged("ai.draft", Some(DAY), Some(End::Failed)), Verdict::Leave);
        assert_eq!(judged("ai.draft", None, None), Verdict::LookAgain(at(11)));
        for end in [End::Completed, End::Cancelled, End::Expired] {
            assert_eq!(judged("ai.draft", None, Some(end)), Verdict::Remove);
        }
    }

    #[test]
    fn what_others_need_is_kept_for_them() {
        let task_type = TaskType::new("ai.draft").expect("a type");
        let record =
            Record { task_type: &task_type, own: None, ended: Some((End::Completed, at(0))), needed: true };
        assert_eq!(rules().judge(record, at(10)), Verdict::LookAgain(at(10) + NEEDED));
        assert_eq!(rules().judge(record, at(0)), Verdict::LookAgain(at(1)), "it is not due");
        assert_eq!(rules().judge(Record { needed: false, ..record }, at(10)), Verdict::Remove);
    }

    #[test]
    fn rules_that_differ_read_differently() {
        let other = RetentionRules { otherwise: Retention::Forever, ..rules() };
        assert_ne!(other.to_string(), rules().to_string());
        assert_eq!(RetentionRules::default().to_string(), "604800000");
    }
}
