//! Which queue a task goes to: ordered glob rules over its type.

use std::collections::BTreeMap;

use crate::{InvalidName, QueueName, QueueSettings, TaskType};

/// A glob over the names of task types: `*` stands for any run of characters, `?` for one; all else for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// Refuses what could match no name.
    pub fn new(pattern: impl Into<String>) -> Result<Self, InvalidName> {
        let pattern = pattern.into();
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '*' | '?');
        if pattern.is_empty() || pattern.len() > TaskType::MAX_LENGTH || !pattern.chars().all(allowed) {
            let value = pattern.chars().take(80).collect();
            let rule =
                "1 to 128 letters, digits, '_', '-', '.', with '*' for any run and '?' for one character";
            return Err(InvalidName { kind: "pattern", value, rule });
        }
        Ok(Self(pattern))
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it takes this type.
    pub fn matches(&self, task_type: &TaskType) -> bool {
        glob_matches(self.0.as_bytes(), task_type.as_str().as_bytes())
    }
}

/// One rule: tasks whose type matches the pattern go to the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pattern: Pattern,
    queue: QueueName,
}

impl Route {
    /// Matching as [`Pattern`] does.
    pub fn new(pattern: impl Into<String>, queue: QueueName) -> Result<Self, InvalidName> {
        Ok(Self { pattern: Pattern::new(pattern)?, queue })
    }

    /// The glob.
    pub fn pattern(&self) -> &str {
        self.pattern.as_str()
    }

    /// Where matching tasks go.
    pub fn queue(&self) -> &QueueName {
        &self.queue
    }

    /// Whether the rule takes this type.
    pub fn matches(&self, task_type: &TaskType) -> bool {
        self.pattern.matches(task_type)
    }
}

/// Ordered rules; the first that matches wins, and what none matches goes to the default queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routes {
    rules: Vec<Route>,
    fallback: QueueName,
    settings: BTreeMap<QueueName, QueueSettings>,
    unsaid: QueueSettings,
}

impl Routes {
    /// Rules in order, and the queue for the rest.
    pub fn new(rules: Vec<Route>, fallback: QueueName) -> Self {
        Self { rules, fallback, settings: BTreeMap::new(), unsaid: QueueSettings::default() }
    }

    /// What is said of single queues.
    pub fn with_settings(self, settings: BTreeMap<QueueName, QueueSettings>) -> Self {
        Self { settings, ..self }
    }

    /// What is said of this queue; nothing, for most.
    pub fn settings(&self, queue: &QueueName) -> &QueueSettings {
        self.settings.get(queue).unwrap_or(&self.unsaid)
    }

    /// Queues of which something is said.
    pub fn all_settings(&self) -> &BTreeMap<QueueName, QueueSettings> {
        &self.settings
    }

    /// Where tasks go that no rule takes.
    pub fn fallback(&self) -> &QueueName {
        &self.fallback
    }

    /// The queue for this type.
    pub fn queue_for(&self, task_type: &TaskType) -> &QueueName {
        self.rules.iter().find(|rule| rule.matches(task_type)).map_or(&self.fallback, Route::queue)
    }

    /// The rules in order.
    pub fn rules(&self) -> &[Route] {
        &self.rules
    }

    /// Every queue that a rule, or the lack of one, leads to, and those of which something is said; each once, in the order
    /// of the rules.
    pub fn queues(&self) -> Vec<QueueName> {
        let mut queues: Vec<QueueName> = Vec::new();
        for queue in self.rules.iter().map(Route::queue).chain([&self.fallback]).chain(self.settings.keys()) {
            if !queues.contains(queue) {
                queues.push(queue.clone());
            }
        }
        queues
    }
}

impl Default for Routes {
    /// The routes that the product ships with.
    fn default() -> Self {
        let shipped = [
            ("ai.*", "ai_processing"),
            ("demo.*", "demo_tasks"),
            ("urgent.*", "urgent"),
            ("reports.*", "reports"),
            ("emails.*", "notifications"),
        ];
        let rules = shipped
            .into_iter()
            .filter_map(|(pattern, queue)| Route::new(pattern, QueueName::new(queue).ok()?).ok())
            .collect();
        Self::new(rules, QueueName::default_queue())
    }
}

/// Glob matching with one step of backtracking: linear for one star, never exponential.
pub(crate) fn glob_matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut retry_from: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry_from = Some((p, t));
                p += 1;
            }
            Some(expected) if *expected == b'?' || *expected == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match retry_from {
                Some((star, taken)) => {
                    retry_from = Some((star, taken + 1));
                    p = star + 1;
                    t = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn queue(name: &str) -> QueueName {
        QueueName::new(name).expect("a valid name")
    }

    #[test]
    fn the_shipped_routes() {
        let routes = Routes::default();
        for (task_type, expected) in [
            ("ai.text_generation", "ai_processing"),
            ("demo.noop", "demo_tasks"),
            ("urgent.page", "urgent"),
            ("reports.daily", "reports"),
            ("emails.send", "notifications"),
            ("else", "default"),
            ("aix", "default"),
        ] {
            let task_type = TaskType::new(task_type).expect("a valid type");
            assert_eq!(routes.queue_for(&task_type).as_str(), expected, "{task_type}");
        }
        assert_eq!(routes.queues().len(), 6);
    }

    #[test]
    fn settings_go_with_their_queue() {
        let limits = crate::QueueLimits { max_running: Some(2), rate: None };
        let said = QueueSettings { limits, ..QueueSettings::default() };
        let routes = Routes::default().with_settings(BTreeMap::from([(queue("extra"), said.clone())]));
        assert_eq!(routes.settings(&queue("extra")), &said);
        assert!(routes.settings(&queue("urgent")).limits.are_none());
        assert!(routes.queues().contains(&queue("extra")), "workers of every queue look there too");
    }

    #[test]
    fn the_first_match_wins() {
        let rules = vec![
            Route::new("ai.urgent.*", queue("a")).expect("valid"),
            Route::new("ai.*", queue("b")).expect("valid"),
            Route::new("*", queue("c")).expect("valid"),
        ];
        let routes = Routes::new(rules, queue("d"));
        for (task_type, expected) in [("ai.urgent.x", "a"), ("ai.x", "b"), ("x", "c")] {
            assert_eq!(routes.queue_for(&TaskType::new(task_type).expect("valid")).as_str(), expected);
        }
    }

    /// The definition, slow and obvious.
    fn by_definition(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern.first(), text.first()) {
            (None, None) => true,
            (Some(b'*'), _) => {
                by_definition(&pattern[1..], text) || (!text.is_empty() && by_definition(pattern, &text[1..]))
            }
            (Some(p), Some(t)) if *p == b'?' || p == t => by_definition(&pattern[1..], &text[1..]),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn globs_match_as_defined(pattern in "[ab.*?]{0,8}", text in "[ab.]{0,8}") {
            prop_assert_eq!(
                glob_matches(pattern.as_bytes(), text.as_bytes()),
                by_definition(pattern.as_bytes(), text.as_bytes())
            );
        }
    }
}
