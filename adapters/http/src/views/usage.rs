//! What calls of models used and cost.

use application::{
    providers::{BudgetReport, NamedBudget},
    tasks::UsageReport,
};
use domain::{
    Json,
    ai::{ModelCall, Spending, UsageGroup, UsageGrouping},
};
use poem_openapi::{Enum, Object};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::long;
use crate::body::AnyJson;

/// What was asked of the model.
#[derive(Debug, Clone, Copy, Enum, Serialize)]
#[oai(rename = "ModelOperation", rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub(crate) enum OperationView {
    /// An answer to messages.
    Chat,
    /// Vectors of texts.
    Embeddings,
}

/// One call of a model inside an attempt.
#[derive(Debug, Object, Serialize)]
#[oai(rename = "ModelCall")]
pub(crate) struct ModelCallView {
    // What was asked. No description of its own: client generators want a bare reference to an enum.
    operation: OperationView,
    /// Who was asked: a name of the configuration.
    provider: String,
    /// The model that was asked for there.
    model: String,
    /// The model that answered, as the provider names it.
    response_model: Option<String>,
    /// Why the model stopped.
    finish_reason: Option<String>,
    /// The code of the error that ended the call.
    error: Option<String>,
    /// Tokens that the model read.
    input_tokens: i64,
    /// Tokens that it wrote.
    output_tokens: i64,
    /// Whether the tokens are our estimate, because the provider sent no count.
    estimated: bool,
    /// What it cost, in millionths of the currency of the prices; null where the model has no price.
    cost_micros: Option<i64>,
    /// The same by the names of OpenTelemetry's conventions for generative AI.
    attributes: Option<AnyJson>,
}

impl From<&ModelCall> for ModelCallView {
    fn from(call: &ModelCall) -> Self {
        let operation = match call.operation {
            domain::ai::Operation::Chat => OperationView::Chat,
            domain::ai::Operation::Embeddings => OperationView::Embeddings,
        };
        Self {
            operation,
            provider: call.provider.to_string(),
            model: call.model.clone(),
            response_model: call.response_model.clone(),
            finish_reason: call.finish_reason.clone(),
            error: call.error.clone(),
            input_tokens: long(call.usage.input_tokens),
            output_tokens: long(call.usage.output_tokens),
            estimated: call.usage.estimated,
            cost_micros: call.cost_micros.map(long),
            attributes: Json::from_value(&attributes(call)).ok().as_ref().and_then(AnyJson::stored),
        }
    }
}

/// As <https://opentelemetry.io/docs/specs/semconv/gen-ai/> names them.
fn attributes(call: &ModelCall) -> Value {
    let mut attributes = Map::new();
    for (name, value) in [
        ("gen_ai.operation.name", Some(json!(call.operation.as_str()))),
        ("gen_ai.provider.name", Some(json!(call.provider.as_str()))),
        ("gen_ai.request.model", Some(json!(call.model))),
        ("gen_ai.response.model", call.response_model.as_ref().map(|model| json!(model))),
        ("gen_ai.response.finish_reasons", call.finish_reason.as_ref().map(|reason| json!([reason]))),
        ("gen_ai.usage.input_tokens", Some(json!(call.usage.input_tokens))),
        ("gen_ai.usage.output_tokens", Some(json!(call.usage.output_tokens))),
        ("error.type", call.error.as_ref().map(|error| json!(error))),
    ] {
        if let Some(value) = value {
            attributes.insert(name.to_owned(), value);
        }
    }
    Value::Object(attributes)
}

/// A sum over calls of models.
#[derive(Debug, Clone, PartialEq, Eq, Object, Serialize)]
#[oai(rename = "Usage")]
pub(crate) struct UsageView {
    /// Calls of models.
    calls: i64,
    /// Of these, those whose tokens are our estimate.
    estimated_calls: i64,
    /// Of these, those that have no price, and are not in `cost_micros`.
    unpriced_calls: i64,
    /// Tokens that models read.
    input_tokens: i64,
    /// Tokens that they wrote.
    output_tokens: i64,
    /// What it cost, in millionths of the currency of the prices.
    cost_micros: i64,
}

impl From<Spending> for UsageView {
    fn from(sum: Spending) -> Self {
        Self {
            calls: long(sum.calls),
            estimated_calls: long(sum.estimated_calls),
            unpriced_calls: long(sum.unpriced_calls),
            input_tokens: long(sum.input_tokens),
            output_tokens: long(sum.output_tokens),
            cost_micros: long(sum.cost_micros),
        }
    }
}

/// The calls of one model, provider or day.
#[derive(Debug, Object, Serialize)]
#[oai(rename = "UsageGroup")]
pub(crate) struct UsageGroupView {
    /// The model, the provider, or the day as `2026-01-31`.
    key: String,
    /// What they came to.
    usage: UsageView,
}

impl From<UsageGroup> for UsageGroupView {
    fn from(group: UsageGroup) -> Self {
        Self { key: group.key, usage: group.spending.into() }
    }
}

/// What calls of models came to, over days in UTC.
#[derive(Debug, Object, Serialize)]
#[oai(rename = "UsageReport")]
pub(crate) struct UsageReportView {
    /// The first day.
    from: String,
    /// The last day.
    to: String,
    /// What `items` are: `model`, `provider` or `day`.
    group_by: String,
    /// The dearest first, or by day.
    items: Vec<UsageGroupView>,
    /// Whether there are more than these 1,000.
    more: bool,
    /// Over all of them, also those that are not shown.
    total: UsageView,
}

impl UsageReportView {
    pub(crate) fn new(report: UsageReport, grouping: UsageGrouping) -> Self {
        Self {
            from: report.from.to_string(),
            to: report.to.to_string(),
            group_by: grouping.as_str().to_owned(),
            items: report.groups.into_iter().map(Into::into).collect(),
            more: report.more,
            total: report.total.into(),
        }
    }
}

/// A budget of the configuration, and how it stands.
#[derive(Debug, Object, Serialize)]
#[oai(rename = "Budget")]
pub(crate) struct BudgetView {
    /// Its name.
    name: String,
    /// Whose calls count, by the providers' names; all where it is empty.
    providers: Vec<String>,
    /// Of which models: a glob.
    models: String,
    /// Where it is for each `tenant` or `fairness_key` by itself; null where there is one for all.
    per: Option<String>,
    /// How long it lasts: `day` or `month`, in UTC.
    period: String,
    /// The first day of the period that is now.
    begins: String,
    /// How much may be spent, in millionths of the currency of the prices.
    limit_micros: i64,
    /// How much has been, calls under way included with what they may cost.
    spent_micros: i64,
    /// How much is left.
    left_micros: i64,
    /// From here on, a warning is logged.
    warn_at_micros: i64,
}

impl From<&BudgetReport> for BudgetView {
    fn from(report: &BudgetReport) -> Self {
        let BudgetReport { budget: NamedBudget { name, providers, models, budget, purses }, begins, spent } =
            report;
        Self {
            name: name.clone(),
            providers: providers.iter().map(ToString::to_string).collect(),
            models: models.to_string(),
            per: purses.as_str().map(str::to_owned),
            period: budget.period.as_str().to_owned(),
            begins: begins.to_string(),
            limit_micros: long(budget.limit),
            spent_micros: long(*spent),
            left_micros: long(budget.limit.saturating_sub(*spent)),
            warn_at_micros: long(budget.warn_at),
        }
    }
}

/// All budgets.
#[derive(Debug, Object, Serialize)]
#[oai(rename = "BudgetList")]
pub(crate) struct BudgetListView {
    /// In the order of the configuration.
    pub(crate) items: Vec<BudgetView>,
}
