//! What calls of models came to, over days.

use domain::{
    Day, TaskId, Tenant,
    ai::{Spending, UsageGroup, UsageGrouping},
    flow::is_batch,
};

use super::{InvalidField, Tasks};
use crate::ports::StoreError;

/// The most groups in one report.
pub const MOST_USAGE_GROUPS: usize = 1_000;
/// The most days in one report.
pub const MOST_USAGE_DAYS: i64 = 366;
/// How many days a report has that names none.
const DEFAULT_DAYS: u64 = 30;

/// A tenant's calls of models on some days.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageReport {
    /// The first day.
    pub from: Day,
    /// The last day.
    pub to: Day,
    /// By group; the largest first, or by day.
    pub groups: Vec<UsageGroup>,
    /// Over all groups, also those beyond the most.
    pub total: Spending,
    /// Whether there are more groups.
    pub more: bool,
}

/// Why there is no report.
#[derive(Debug, Clone, thiserror::Error)]
pub enum UsageError {
    /// The days cannot be asked for.
    #[error("{}: {}", .0.field, .0.message)]
    Invalid(InvalidField),
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Tasks {
    /// What the items of a batch came to; `None` for a number that is no batch of the tenant's.
    pub async fn batch_usage(&self, tenant: &Tenant, batch: TaskId) -> Result<Option<Spending>, StoreError> {
        let found = self.store.read(tenant, &[batch]).await?;
        if !found.iter().any(|task| is_batch(&task.task_type)) {
            return Ok(None);
        }
        self.store.batch_usage(tenant, batch).await.map(Some)
    }

    /// What the tenant's calls came to from one day to another, in UTC and both included; the last 30 days where none is
    /// named.
    pub async fn usage(
        &self,
        tenant: &Tenant,
        from: Option<Day>,
        to: Option<Day>,
        grouping: UsageGrouping,
    ) -> Result<UsageReport, UsageError> {
        let to = match to {
            Some(day) => day,
            None => self.store.ping().await?.now.date_naive(),
        };
        let from = from.unwrap_or_else(|| to - chrono::Days::new(DEFAULT_DAYS - 1));
        let refuse = |message: String| Err(UsageError::Invalid(InvalidField { field: "from", message }));
        if from > to {
            return refuse(format!("{from} is after {to}"));
        }
        if (to - from).num_days() >= MOST_USAGE_DAYS {
            return refuse(format!("from {from} to {to} are more than {MOST_USAGE_DAYS} days"));
        }
        let ask = |grouping, limit| self.store.usage(tenant, (from, to), grouping, limit);
        let mut groups = ask(grouping, MOST_USAGE_GROUPS + 1).await?;
        let more = groups.len() > MOST_USAGE_GROUPS;
        let sum = |groups: &[UsageGroup]| {
            groups.iter().map(|group| group.spending).fold(Spending::default(), Spending::plus)
        };
        // There are never too many days.
        let total = if more { sum(&ask(UsageGrouping::Day, MOST_USAGE_GROUPS).await?) } else { sum(&groups) };
        groups.truncate(MOST_USAGE_GROUPS);
        Ok(UsageReport { from, to, groups, total, more })
    }
}
