//! What calls of models came to: kept with the settlements that tell of any, in their transaction.

use application::ports::StoreError;
use async_trait::async_trait;
use domain::{
    Day, TaskId, Tenant,
    ai::{ModelCall, Spending, UsageGroup, UsageGrouping},
};
use sqlx::SqliteConnection;

use crate::{
    error::store_error,
    fair::learn,
    rows::{moment, pages, unreadable},
    store::Query,
    writer::Write,
};

/// The calls of one attempt.
pub(crate) struct Told {
    pub(crate) task: i64,
    pub(crate) attempt: u32,
    pub(crate) tenant: String,
    pub(crate) calls: Vec<ModelCall>,
}

/// Keeps the calls of attempts that are settled in this transaction, and tells the lanes of fair queues.
pub(crate) async fn keep(write: &mut Write<'_>, told: &[Told]) -> Result<(), StoreError> {
    const CALLS: &str = "
        INSERT INTO model_call (task, attempt, tenant, calls)
        SELECT value ->> 0, value ->> 1, value ->> 2, value -> 3 FROM json_each(?1) WHERE true
        ON CONFLICT (task, attempt) DO NOTHING";
    const DAY: &str = "
        INSERT INTO usage_day (tenant, day, provider, model, calls, estimated_calls, unpriced_calls, input_tokens,
                               output_tokens, cost_micros)
        SELECT value ->> 0, ?2, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6,
               value ->> 7, value ->> 8
        FROM json_each(?1) WHERE true
        ON CONFLICT (tenant, day, provider, model) DO UPDATE SET
            calls = calls + excluded.calls,
            estimated_calls = estimated_calls + excluded.estimated_calls,
            unpriced_calls = unpriced_calls + excluded.unpriced_calls,
            input_tokens = input_tokens + excluded.input_tokens,
            output_tokens = output_tokens + excluded.output_tokens,
            cost_micros = cost_micros + excluded.cost_micros";
    if told.is_empty() {
        return Ok(());
    }
    for page in pages(told.iter().map(|told| (told.task, told.attempt, &told.tenant, &told.calls))) {
        sqlx::query(CALLS).bind(page).execute(&mut *write.conn).await.map_err(store_error)?;
    }
    let day = moment(write.now)?.date_naive().to_string();
    let sums = told.iter().flat_map(|told| {
        Spending::by_model(&told.calls).into_iter().map(|((provider, model), sum)| {
                let Spending {
                    calls,
                    estimated_calls,
                    unpriced_calls,
                    input_tokens,
                    output_tokens,
                    cost_micros,
                } = sum;
                let provider = provider.to_string();
                (
                    &told.tenant,
                    provider,
                    model,
                    calls,
                    estimated_calls,
                    unpriced_calls,
                    input_tokens,
                    output_tokens,
                    cost_micros,
                )
            })
    });
    for page in pages(sums) {
        sqlx::query(DAY).bind(page).bind(&day).execute(&mut *write.conn).await.map_err(store_error)?;
    }
    learn(write, told).await
}

/// Reads what [`keep`] wrote; nothing where it wrote nothing.
pub(crate) fn calls(text: Option<&str>) -> Result<Vec<ModelCall>, StoreError> {
    let Some(text) = text else { return Ok(Vec::new()) };
    serde_json::from_str(text).map_err(|error| StoreError::Corrupt(format!("calls of models: {error}")))
}

/// What a tenant's calls came to on some days.
pub(crate) struct Usage {
    pub(crate) tenant: Tenant,
    pub(crate) days: (Day, Day),
    pub(crate) grouping: UsageGrouping,
    pub(crate) limit: usize,
}

#[derive(sqlx::FromRow)]
struct Row {
    key: String,
    calls: i64,
    estimated_calls: i64,
    unpriced_calls: i64,
    input_tokens: i64,
    output_tokens: i64,
    cost_micros: i64,
}

#[async_trait]
impl Query for Usage {
    type Answer = Vec<UsageGroup>;

    async fn run(self, snapshot: &mut SqliteConnection) -> Result<Self::Answer, StoreError> {
        // Days come in their order, the others by what they came to.
        const SUMS: &str = "
            SELECT key, sum(calls) AS calls, sum(estimated_calls) AS estimated_calls,
                   sum(unpriced_calls) AS unpriced_calls, sum(input_tokens) AS input_tokens,
                   sum(output_tokens) AS output_tokens, sum(cost_micros) AS cost_micros
            FROM (
                SELECT CASE ?5 WHEN 'model' THEN model WHEN 'provider' THEN provider ELSE day END AS key,
                       calls, estimated_calls, unpriced_calls, input_tokens, output_tokens, cost_micros
                FROM usage_day WHERE tenant = ?1 AND day BETWEEN ?2 AND ?3
            )
            GROUP BY key
            ORDER BY iif(?5 = 'day', 0, sum(cost_micros)) DESC,
                     iif(?5 = 'day', 0, sum(input_tokens) + sum(output_tokens)) DESC, key
            LIMIT ?4";
        let rows: Vec<Row> = sqlx::query_as(SUMS)
            .bind(self.tenant.as_str())
            .bind(self.days.0.to_string())
            .bind(self.days.1.to_string())
            .bind(i64::try_from(self.limit).unwrap_or(i64::MAX))
            .bind(self.grouping.as_str())
            .fetch_all(snapshot)
            .await
            .map_err(store_error)?;
        rows.into_iter().map(Row::into_group).collect()
    }
}

impl Row {
    fn into_group(self) -> Result<UsageGroup, StoreError> {
        let number = |value: i64| u64::try_from(value).map_err(|_| unreadable("a sum", &value));
        let spending = Spending {
            calls: number(self.calls)?,
            estimated_calls: number(self.estimated_calls)?,
            unpriced_calls: number(self.unpriced_calls)?,
            input_tokens: number(self.input_tokens)?,
            output_tokens: number(self.output_tokens)?,
            cost_micros: number(self.cost_micros)?,
        };
        Ok(UsageGroup { key: self.key, spending })
    }
}

/// What the items of a batch came to.
pub(crate) struct UsageOfBatch {
    pub(crate) tenant: Tenant,
    pub(crate) batch: TaskId,
}

#[async_trait]
impl Query for UsageOfBatch {
    type Answer = Spending;

    async fn run(self, snapshot: &mut SqliteConnection) -> Result<Self::Answer, StoreError> {
        const SQL: &str = "
            SELECT c.calls FROM task AS t CROSS JOIN model_call AS c ON c.task = t.id
            WHERE t.batch = ?2 AND t.tenant = ?1";
        let texts = sqlx::query_scalar(SQL).bind(self.tenant.as_str()).bind(self.batch.0).fetch_all(snapshot);
        let texts: Vec<String> = texts.await.map_err(store_error)?;
        let mut sum = Spending::default();
        for text in &texts {
            sum = sum.plus(Spending::of(&calls(Some(text))?));
        }
        Ok(sum)
    }
}
