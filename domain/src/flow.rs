//! Tasks that wait for others: chains, and batches, which are tasks that wait for all their items.
//!
//! A task that waits for others is SCHEDULED without a moment to wait for. Each end of a task that somebody needs makes a
//! store look at who needs it, and [`judge`] says what becomes of that one. [`graph`] refuses circles, [`reference`](mod@reference) puts
//! results into inputs.

pub mod graph;
pub mod reference;

use serde::{Deserialize, Serialize};

use crate::{Counters, End, Failure, Json, Status, TaskId, TaskType, name::name};

name!(
    /// What a task is called by those that wait for it: 1–64 ASCII letters, digits, `_`, `.` or `-`.
    NodeName, "task name", max 64, |c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'),
    "use 1 to 64 letters, digits, _, . or -"
);

/// The type of the task that stands for a batch.
pub const BATCH_TYPE: &str = "batch";
/// The most tasks that one task may wait for.
pub const MOST_NEEDS: usize = 100;
/// The most follow-ups of one submission, in all.
pub const MOST_FOLLOW_UPS: usize = 100;
/// How deep follow-ups may be nested.
pub const DEEPEST_FOLLOW_UP: usize = 20;
/// The most items of a batch.
pub const MOST_ITEMS: usize = 10_000;

/// What becomes of a waiting task when one that it needs does not complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// It ends as CANCELLED, and its error names the one that failed.
    #[default]
    Cancel,
    /// It starts all the same, once all that it needs have ended.
    Run,
}

impl OnFailure {
    /// Every policy.
    pub const ALL: [Self; 2] = [Self::Cancel, Self::Run];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Run => "run",
        }
    }

    /// Reads a name in any case.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.as_str().eq_ignore_ascii_case(text))
    }
}

/// One task that another one waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Need {
    /// Which.
    #[serde(with = "as_number")]
    pub task: TaskId,
    /// What the waiting one calls it.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "as_text")]
    pub name: Option<NodeName>,
    /// What happens when it does not complete.
    pub on_failure: OnFailure,
}

/// All that a task waits for, or has waited for, and its follow-ups, as they are kept with the task.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Needs {
    /// In the order of the submission.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<Need>,
    /// Those that were submitted with it and wait for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "as_numbers")]
    pub then: Vec<TaskId>,
    /// Whether the references in its input have been replaced by what they refer to.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub resolved: bool,
}

impl Needs {
    /// As it is kept.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// As it was kept.
    pub fn from_text(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }
}

mod as_number {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(id: &crate::TaskId, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64(id.0)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<crate::TaskId, D::Error> {
        i64::deserialize(deserializer).map(crate::TaskId)
    }
}

mod as_numbers {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(ids: &[crate::TaskId], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(ids.iter().map(|id| id.0))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<crate::TaskId>, D::Error> {
        Ok(Vec::<i64>::deserialize(deserializer)?.into_iter().map(crate::TaskId).collect())
    }
}

mod as_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::NodeName;

    pub(super) fn serialize<S: Serializer>(
        name: &Option<NodeName>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match name {
            Some(name) => serializer.serialize_str(name.as_str()),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<NodeName>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| NodeName::new(text).map_err(D::Error::custom)).transpose()
    }
}

/// Where a needed task stands.
#[derive(Debug, Clone, PartialEq)]
pub enum NeedState {
    /// It has not ended, or runs again.
    Open,
    /// It has ended.
    Ended {
        /// How.
        end: End,
        /// Why, unless it completed.
        error: Option<Failure>,
        /// What it came to.
        result: Option<Json>,
    },
    /// It was deleted.
    Gone,
}

/// What becomes of a task that waits for others.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It goes on waiting.
    Wait,
    /// It waits for a worker from now on, with this input instead of its own, if any.
    Start(Option<Json>),
    /// It ends as CANCELLED: one that it needs has not completed.
    GiveUp(Failure),
    /// It ends as FAILED: its input cannot be put together.
    Fail(Failure),
}

/// What becomes of a task with these needs and this input, where `states` says of each need, in order, where it stands.
/// Where one that it cannot do without has not completed, it does not wait for the others.
pub fn judge(needs: &Needs, input: &Json, states: &[NeedState]) -> Verdict {
    for (need, state) in needs.after.iter().zip(states) {
        if need.on_failure == OnFailure::Cancel
            && let Some(failure) = not_completed(need, state)
        {
            return Verdict::GiveUp(failure);
        }
    }
    if states.contains(&NeedState::Open) {
        return Verdict::Wait;
    }
    if needs.resolved || !reference::may_hold(input) {
        return Verdict::Start(None);
    }
    match reference::resolve(input, needs, states) {
        Ok(resolved) => Verdict::Start(Some(resolved)),
        Err(failure) => Verdict::Fail(failure),
    }
}

fn not_completed(need: &Need, state: &NeedState) -> Option<Failure> {
    let told = match state {
        NeedState::Open | NeedState::Ended { end: End::Completed, .. } => return None,
        NeedState::Gone => "was deleted".to_owned(),
        NeedState::Ended { end, error, .. } => {
            let why = error.as_ref().map(|error| format!(": {}: {}", error.code, error.message));
            format!("ended as {}{}", Status::from(*end).as_str(), why.unwrap_or_default())
        }
    };
    let message = format!("{}, which this task waits for, {told}", called(need));
    Some(Failure::permanent("dependency_failed", message))
}

/// A need as people are told of it.
fn called(need: &Need) -> String {
    match &need.name {
        Some(name) => format!("task {} ({name})", need.task),
        None => format!("task {}", need.task),
    }
}

/// Whether a task that is to run again looks at its needs first: one that stands for a batch always, any other until it
/// has run.
pub fn waits_again(task_type: &TaskType, needs: Option<&Needs>, counters: Counters) -> bool {
    is_batch(task_type) || (needs.is_some_and(|needs| !needs.after.is_empty()) && counters.attempt == 0)
}

/// Whether a task stands for a batch.
pub fn is_batch(task_type: &TaskType) -> bool {
    task_type.as_str() == BATCH_TYPE
}

/// How the items of a batch stand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BatchCounts {
    /// Wait for a moment, or for others.
    pub scheduled: u64,
    /// Wait for a worker.
    pub pending: u64,
    /// Run.
    pub processing: u64,
    /// Ended with a result.
    pub completed: u64,
    /// Ended with an error.
    pub failed: u64,
    /// Were stopped.
    pub cancelled: u64,
    /// Were not started in time.
    pub expired: u64,
}

impl BatchCounts {
    /// Counts items of one status.
    pub fn add(&mut self, status: Status, count: u64) {
        let place = match status {
            Status::Scheduled => &mut self.scheduled,
            Status::Pending => &mut self.pending,
            Status::Processing => &mut self.processing,
            Status::Completed => &mut self.completed,
            Status::Failed => &mut self.failed,
            Status::Cancelled => &mut self.cancelled,
            Status::Expired => &mut self.expired,
        };
        *place += count;
    }

    /// Items that have ended.
    pub fn ended(&self) -> u64 {
        self.completed + self.failed + self.cancelled + self.expired
    }

    /// All items that there are.
    pub fn total(&self) -> u64 {
        self.ended() + self.scheduled + self.pending + self.processing
    }

    /// Whether any item has started.
    pub fn has_begun(&self) -> bool {
        self.processing + self.completed + self.failed > 0
    }

    /// What a batch comes to once its items have ended: its result, and an error unless all completed.
    pub fn conclude(&self) -> (Json, Option<Failure>) {
        let Self { completed, failed, cancelled, expired, .. } = *self;
        let total = self.total();
        let summary = format!(
            r#"{{"total":{total},"completed":{completed},"failed":{failed},"cancelled":{cancelled},"expired":{expired}}}"#
        );
        let missing = total - completed;
        let error = (missing > 0).then(|| {
            let message = format!(
                "{missing} of {total} items did not complete ({failed} failed, {cancelled} cancelled, {expired} expired)"
            );
            Failure::permanent("batch_incomplete", message)
        });
        (Json::from_stored(summary), error)
    }
}

#[cfg(test)]
mod tests;
