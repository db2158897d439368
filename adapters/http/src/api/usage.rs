//! What calls of models came to.

use application::tasks::UsageError;
use domain::{
    Day, FairnessKey, Tenant,
    ai::{Payer, UsageGrouping},
};
use poem_openapi::{OpenApi, param::Query};

use super::{Context, Tag};
use crate::{
    body::JsonAnswer,
    fields::shorten,
    problem::{ApiError, FieldError},
    views::usage::{BudgetListView, BudgetView, UsageReportView},
};

pub(crate) struct UsageApi(pub(crate) Context);

#[OpenApi(tag = "Tag::Usage")]
impl UsageApi {
    /// Tokens and cost
    ///
    /// What calls of models came to on days in UTC, failed attempts included; the last 30 days unless said otherwise, at
    /// most 366. The sums stay when tasks are deleted.
    #[oai(path = "/usage", method = "get", operation_id = "get_usage")]
    async fn usage(
        &self,
        /// The first day, such as `2026-01-01`.
        #[oai(validator(pattern = "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"))]
        from: Query<Option<String>>,
        /// The last day; today unless said otherwise.
        #[oai(validator(pattern = "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"))]
        to: Query<Option<String>>,
        /// `model` (unless said otherwise), `provider` or `day`.
        #[oai(validator(pattern = "^(model|provider|day)$"))]
        group_by: Query<Option<String>>,
    ) -> Result<JsonAnswer<UsageReportView>, ApiError> {
        let mut errors = Vec::new();
        let from = read_day("from", from.0, &mut errors);
        let to = read_day("to", to.0, &mut errors);
        let named = group_by.0.as_deref().unwrap_or(UsageGrouping::Model.as_str());
        let grouping = UsageGrouping::ALL.into_iter().find(|grouping| grouping.as_str() == named);
        if grouping.is_none() {
            let message = format!("{:?} is none of model, provider, day", shorten(named));
            errors.push(FieldError::new("group_by", message));
        }
        let (Some(grouping), true) = (grouping, errors.is_empty()) else {
            return Err(ApiError::invalid(errors));
        };
        match self.0.tasks()?.usage(&Tenant::default(), from, to, grouping).await {
            Ok(report) => Ok(JsonAnswer(UsageReportView::new(report, grouping))),
            Err(UsageError::Invalid(field)) => {
                Err(ApiError::invalid(vec![FieldError::new(field.field, field.message)]))
            }
            Err(UsageError::Store(error)) => Err(error.into()),
        }
    }

    /// What is left of the budgets
    ///
    /// Those of the configuration, in its order. Calls under way count with what they may cost.
    #[oai(path = "/usage/budgets", method = "get", operation_id = "list_budgets")]
    async fn budgets(
        &self,
        /// Where each fairness key has a budget by itself: of which one. Of tasks without a key, unless said otherwise.
        #[oai(validator(min_length = 1, max_length = 128))]
        fairness_key: Query<Option<String>>,
    ) -> Result<JsonAnswer<BudgetListView>, ApiError> {
        let fairness_key =
            fairness_key.0.map(FairnessKey::new).transpose().map_err(|error| {
                ApiError::invalid(vec![FieldError::new("fairness_key", error.to_string())])
            })?;
        let payer = Payer { tenant: Tenant::default(), fairness_key };
        let items = self.0.use_cases()?.budgets.report(&payer).await?;
        Ok(JsonAnswer(BudgetListView { items: items.iter().map(BudgetView::from).collect() }))
    }
}

fn read_day(field: &str, text: Option<String>, errors: &mut Vec<FieldError>) -> Option<Day> {
    let text = text?;
    let day = text.parse::<Day>().ok().filter(|day| (1970..=9999).contains(&chrono::Datelike::year(day)));
    if day.is_none() {
        errors.push(FieldError::new(field, format!("{:?} is not a day such as 2026-01-31", shorten(&text))));
    }
    day
}
