//! Task types: what runs, under which name, with which defaults. One file adds one (see [`crate::task_types`]).

use std::{collections::BTreeMap, future::Future, num::NonZeroU32, pin::Pin, sync::Arc};

use domain::{
    Defaults, Failure, FairnessKey, Json, Limits, QueueSettings, RetryPolicy, Share, TaskType, TypeRules,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::handler::TaskContext;

/// What a handler hands back.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// The task's result: any JSON.
    pub result: Json,
    /// About the result, such as usage and finish reason: a JSON object.
    pub details: Option<Json>,
}

impl Output {
    /// A result without details.
    pub fn of<T: Serialize + ?Sized>(result: &T) -> Result<Self, Failure> {
        Ok(Self { result: to_json(result)?, details: None })
    }

    /// Adds details.
    pub fn with_details<T: Serialize + ?Sized>(mut self, details: &T) -> Result<Self, Failure> {
        self.details = Some(to_json(details)?);
        Ok(self)
    }
}

fn to_json<T: Serialize + ?Sized>(value: &T) -> Result<Json, Failure> {
    Json::from_value(value)
        .map_err(|error| Failure::permanent("invalid_result", format!("the result {error}")))
}

/// A handler at work.
pub(crate) type Handling = Pin<Box<dyn Future<Output = Result<Output, Failure>> + Send>>;
type Run = dyn Fn(TaskContext, Json) -> Handling + Send + Sync;
type Check = dyn Fn(&Json) -> Result<(), String> + Send + Sync;
type Cost = dyn Fn(&Json) -> Option<NonZeroU32> + Send + Sync;

/// A task type: a name, a handler, and the defaults for tasks that do not say otherwise.
#[derive(Clone)]
pub struct TaskTypeSpec {
    name: TaskType,
    summary: &'static str,
    example: &'static str,
    limits: Limits,
    retry: RetryPolicy,
    internal: bool,
    check: Arc<Check>,
    cost: Arc<Cost>,
    run: Arc<Run>,
}

impl std::fmt::Debug for TaskTypeSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TaskTypeSpec")
            .field("name", &self.name)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl TaskTypeSpec {
    /// A type whose handler is an async function. It must yield: what blocks belongs in [`TaskTypeSpec::blocking`].
    ///
    /// # Panics
    /// When the name breaks the rules of [`TaskType`]: names are written in the program, not by its users.
    pub fn new<I, H, F>(name: &str, summary: &'static str, handler: H) -> Self
    where
        I: DeserializeOwned + Send + 'static,
        H: Fn(TaskContext, I) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Output, Failure>> + Send + 'static,
    {
        let handler = Arc::new(handler);
        let run = move |context, input: Json| -> Handling {
            let handler = Arc::clone(&handler);
            Box::pin(async move {
                let read = read_input::<I>(&input)?;
                // A long prompt is not kept twice while its answer is written.
                drop(input);
                handler(context, read).await
            })
        };
        Self::build::<I>(name, summary, Arc::new(run))
    }

    /// A type whose handler blocks: it gets a thread of its own, so that neither heartbeats nor other tasks wait for
    /// it. Such a thread cannot be aborted: after a time limit or a cancellation its result is thrown away, and the
    /// handler should look at [`TaskContext::is_cancelled`] now and then.
    ///
    /// # Panics
    /// As [`TaskTypeSpec::new`].
    pub fn blocking<I, H>(name: &str, summary: &'static str, handler: H) -> Self
    where
        I: DeserializeOwned + Send + 'static,
        H: Fn(TaskContext, I) -> Result<Output, Failure> + Send + Sync + 'static,
    {
        let handler = Arc::new(handler);
        let run = move |context, input: Json| -> Handling {
            let handler = Arc::clone(&handler);
            Box::pin(async move {
                let input = read_input::<I>(&input)?;
                match tokio::task::spawn_blocking(move || handler(context, input)).await {
                    Ok(outcome) => outcome,
                    Err(error) => match error.try_into_panic() {
                        Ok(panic) => std::panic::resume_unwind(panic),
                        Err(error) => {
                            Err(Failure::transient("aborted", format!("the handler was aborted: {error}")))
                        }
                    },
                }
            })
        };
        Self::build::<I>(name, summary, Arc::new(run))
    }

    fn build<I: DeserializeOwned>(name: &str, summary: &'static str, run: Arc<Run>) -> Self {
        let name = TaskType::new(name).unwrap_or_else(|error| panic!("{error}"));
        let check = |input: &Json| input.to::<I>().map(drop).map_err(|error| describe(&error));
        let (limits, retry) = (Limits::default(), RetryPolicy::default());
        let (check, cost) = (Arc::new(check), Arc::new(|_: &Json| None));
        Self { name, summary, example: "{}", limits, retry, internal: false, check, cost, run }
    }

    /// An input that works, for documentation.
    pub fn example(mut self, example: &'static str) -> Self {
        self.example = example;
        self
    }

    /// Refuses inputs that can be read and are wrong all the same; the error says what is wrong with one.
    pub fn checked<I: DeserializeOwned>(
        mut self,
        check: impl Fn(&I) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        self.check = Arc::new(move |input| check(&input.to::<I>().map_err(|error| describe(&error))?));
        self
    }

    /// How many tokens a task with this input is expected to use: what it takes of a fair queue ([`domain::fair`]).
    pub fn costing<I: DeserializeOwned>(
        mut self,
        tokens: impl Fn(&I) -> u64 + Send + Sync + 'static,
    ) -> Self {
        self.cost = Arc::new(move |input| {
            let tokens = tokens(&input.to::<I>().ok()?);
            NonZeroU32::new(u32::try_from(tokens).unwrap_or(u32::MAX))
        });
        self
    }

    /// Keeps the type for the runner's own use: nobody can submit it, and no list shows it.
    pub fn internal(mut self) -> Self {
        self.internal = true;
        self
    }

    /// The limits of tasks that name none.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// When and whether failures are tried again.
    pub fn retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = retry;
        self
    }

    /// This type as the configuration would have it.
    fn with(mut self, defaults: &Defaults) -> Self {
        self.limits = self.limits.with(defaults);
        if let Some(retry) = &defaults.retry {
            self.retry = retry.clone();
        }
        self
    }

    /// The name on the wire.
    pub fn name(&self) -> &TaskType {
        &self.name
    }

    /// One line about what it does.
    pub fn summary(&self) -> &'static str {
        self.summary
    }

    /// An input that works.
    pub fn example_input(&self) -> &'static str {
        self.example
    }

    /// Whether only the runner itself submits it.
    pub fn is_internal(&self) -> bool {
        self.internal
    }

    /// The limits of tasks that name none.
    pub fn default_limits(&self) -> Limits {
        self.limits
    }

    /// When and whether failures are tried again.
    pub fn retry_policy(&self) -> &RetryPolicy {
        &self.retry
    }

    /// Whether the handler could read this input; the error says what is wrong with it.
    pub fn check_input(&self, input: &Json) -> Result<(), String> {
        (self.check)(input)
    }

    /// Runs the handler.
    pub(crate) fn run(&self, context: TaskContext, input: Json) -> Handling {
        (self.run)(context, input)
    }
}

fn read_input<I: DeserializeOwned>(input: &Json) -> Result<I, Failure> {
    input.to().map_err(|error| {
        Failure::permanent("invalid_input", format!("the input is not valid: {}", describe(&error)))
    })
}

/// serde's message without its position, which means nothing to whoever sent the document around it.
fn describe(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ").map_or(text.clone(), |(message, _)| message.to_owned())
}

/// Two task types under one name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("two task types are called {name}: {first:?} and {second:?}; rename one of them")]
pub struct DuplicateTaskType {
    /// The name they share.
    pub name: TaskType,
    /// The summary of the one that was registered first.
    pub first: &'static str,
    /// The summary of the other.
    pub second: &'static str,
}

/// Limits that cannot hold together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the settings for the task type {name}: {field}: {message}")]
pub struct ContradictoryLimits {
    /// Whose.
    pub name: TaskType,
    /// As it is called in a submission.
    pub field: &'static str,
    /// What is wrong.
    pub message: String,
}

/// What a task takes of its queue, where that is a fair one.
pub(crate) fn share(
    queue: &QueueSettings,
    asked: Option<(&TaskTypeSpec, &Json)>,
    key: Option<FairnessKey>,
) -> Option<Share> {
    let cost = || asked.and_then(|(spec, input)| (spec.cost)(input)).unwrap_or(Share::OTHER_WORK);
    queue.fair.then(|| Share { key, cost: cost() })
}

/// Every task type of a process, by name.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    types: BTreeMap<TaskType, TaskTypeSpec>,
}

impl Registry {
    /// A registry of these; refused when two share a name.
    pub fn new(types: impl IntoIterator<Item = TaskTypeSpec>) -> Result<Self, DuplicateTaskType> {
        let mut registry = Self::default();
        for spec in types {
            registry.add(spec)?;
        }
        Ok(registry)
    }

    /// Adds one more.
    pub fn add(&mut self, spec: TaskTypeSpec) -> Result<(), DuplicateTaskType> {
        if let Some(first) = self.types.get(&spec.name) {
            return Err(DuplicateTaskType { name: spec.name, first: first.summary, second: spec.summary });
        }
        self.types.insert(spec.name.clone(), spec);
        Ok(())
    }

    /// These types with what the configuration says instead of their code. Refused where a type's limits would contradict
    /// each other. What the runner keeps for itself stays as it is.
    pub fn with(mut self, rules: &TypeRules) -> Result<Self, ContradictoryLimits> {
        for spec in self.types.values_mut().filter(|spec| !spec.internal) {
            let Some(defaults) = rules.of(&spec.name) else { continue };
            *spec = spec.clone().with(defaults);
            if let Some((field, message)) = spec.limits.faults().into_iter().next() {
                return Err(ContradictoryLimits { name: spec.name.clone(), field, message });
            }
        }
        Ok(self)
    }

    /// The type of this name.
    pub fn get(&self, name: &TaskType) -> Option<&TaskTypeSpec> {
        self.types.get(name)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &TaskTypeSpec> {
        self.types.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noop(summary: &'static str) -> TaskTypeSpec {
        TaskTypeSpec::new("demo.noop", summary, |_, (): ()| async { Output::of(&()) })
    }

    #[test]
    fn the_configuration_has_the_last_word_about_a_types_defaults() {
        let pattern = domain::Pattern::new("demo.*").expect("a pattern");
        let minute = std::time::Duration::from_secs(60);
        let rules = |defaults| TypeRules(vec![(pattern.clone(), defaults)]);
        let registry = Registry::new([noop("one")]).expect("one type");
        let retry = RetryPolicy { jitter: false, ..RetryPolicy::default() };
        let defaults = Defaults { max_attempts: Some(1), retry: Some(retry.clone()), ..Defaults::default() };
        let configured = registry.clone().with(&rules(defaults)).expect("fine limits");
        let spec = configured.iter().next().expect("the type");
        assert_eq!((spec.default_limits().max_attempts, spec.retry_policy()), (1, &retry));
        let odd = Defaults { soft_time_limit: Some(minute), time_limit: Some(minute), ..Defaults::default() };
        let refusal = registry.with(&rules(odd)).expect_err("a soft limit at the hard one").to_string();
        assert!(refusal.contains("demo.noop") && refusal.contains("soft_time_limit_seconds"), "{refusal}");
    }

    #[test]
    fn two_types_of_one_name_are_refused_naming_both() {
        let refusal = Registry::new([noop("one"), noop("other")]).expect_err("a duplicate").to_string();
        assert!(
            refusal.contains("demo.noop") && refusal.contains("one") && refusal.contains("other"),
            "{refusal}"
        );
    }
}
