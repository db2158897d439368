//! What calls of models came to: kept with the settlements that tell of any, in their transaction.

use std::collections::HashSet;

use application::ports::{Applied, Settlement, StoreError};
use domain::{
    Day, TaskId, Tenant,
    ai::{ModelCall, Spending, UsageGroup, UsageGrouping},
};
use sqlx::PgConnection;

use crate::{
    PostgresStore,
    clock::Clock,
    connections::Operation,
    error::Fault,
    fair,
    rows::{field, integer, limit},
};

/// Keeps the calls of those settlements that were applied.
pub(crate) async fn keep(
    connection: &mut PgConnection,
    settlements: &[&Settlement],
    applied: &[(TaskId, u32, Applied)],
    clock: &Clock,
) -> Result<(), Fault> {
    let held: HashSet<_> = applied
        .iter()
        .filter(|(.., applied)| *applied == Applied::Yes)
        .map(|(task, at, _)| (*task, *at))
        .collect();
    let told = |settlement: &&&Settlement| {
        !settlement.calls.is_empty() && held.contains(&(settlement.task, settlement.attempt))
    };
    let told: Vec<&Settlement> = settlements.iter().filter(told).copied().collect();
    if told.is_empty() {
        return Ok(());
    }
    let mut calls = Vec::with_capacity(told.len());
    for settlement in &told {
        let text = serde_json::to_string(&settlement.calls);
        calls.push(text.map_err(|error| Fault::Unreadable(format!("calls of models: {error}")))?);
    }
    sqlx::query(
        "INSERT INTO model_call (task, attempt, calls) SELECT * FROM unnest($1::bigint[], $2::integer[], $3::text[])
         ON CONFLICT DO NOTHING",
    )
    .bind(told.iter().map(|settlement| settlement.task.0).collect::<Vec<_>>())
    .bind(told.iter().map(|settlement| integer(settlement.attempt)).collect::<Vec<_>>())
    .bind(calls)
    .execute(&mut *connection)
    .await?;
    add_to_the_day(connection, &told, clock).await?;
    fair::learn(connection, &told, clock.bind()).await
}

/// In the order of the key, whoever adds, so that additions never wait in a circle.
async fn add_to_the_day(
    connection: &mut PgConnection,
    told: &[&Settlement],
    clock: &Clock,
) -> Result<(), Fault> {
    let sums: Vec<(i64, String, String, Spending)> = told
        .iter()
        .flat_map(|settlement| {
            let by_model = Spending::by_model(&settlement.calls).into_iter();
            by_model.map(|((provider, model), sum)| (settlement.task.0, provider.to_string(), model, sum))
        })
        .collect();
    let column = |number: fn(&Spending) -> u64| -> Vec<i64> {
        sums.iter().map(|(.., sum)| i64::try_from(number(sum)).unwrap_or(i64::MAX)).collect()
    };
    sqlx::query(
        "INSERT INTO usage_day AS kept (tenant, day, provider, model, calls, estimated_calls, unpriced_calls, input_tokens,
            output_tokens, cost_micros)
         SELECT t.tenant, (coalesce($1, now()) AT TIME ZONE 'UTC')::date, u.provider, u.model, sum(u.calls),
            sum(u.estimated_calls), sum(u.unpriced_calls), sum(u.input_tokens), sum(u.output_tokens), sum(u.cost_micros)
         FROM unnest($2::bigint[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[],
            $9::bigint[], $10::bigint[])
            AS u (task, provider, model, calls, estimated_calls, unpriced_calls, input_tokens, output_tokens, cost_micros)
         CROSS JOIN LATERAL (SELECT tenant FROM task WHERE task.id = u.task LIMIT 1) t
         GROUP BY t.tenant, u.provider, u.model
         ORDER BY t.tenant COLLATE \"C\", u.provider COLLATE \"C\", u.model COLLATE \"C\"
         ON CONFLICT (tenant, day, provider, model) DO UPDATE SET
            calls = kept.calls + excluded.calls,
            estimated_calls = kept.estimated_calls + excluded.estimated_calls,
            unpriced_calls = kept.unpriced_calls + excluded.unpriced_calls,
            input_tokens = kept.input_tokens + excluded.input_tokens,
            output_tokens = kept.output_tokens + excluded.output_tokens,
            cost_micros = kept.cost_micros + excluded.cost_micros",
    )
    .bind(clock.bind())
    .bind(sums.iter().map(|(task, ..)| *task).collect::<Vec<_>>())
    .bind(sums.iter().map(|(_, provider, ..)| provider.as_str()).collect::<Vec<_>>())
    .bind(sums.iter().map(|(_, _, model, _)| model.as_str()).collect::<Vec<_>>())
    .bind(column(|sum| sum.calls))
    .bind(column(|sum| sum.estimated_calls))
    .bind(column(|sum| sum.unpriced_calls))
    .bind(column(|sum| sum.input_tokens))
    .bind(column(|sum| sum.output_tokens))
    .bind(column(|sum| sum.cost_micros))
    .execute(connection)
    .await?;
    Ok(())
}

/// Reads what [`keep`] wrote; nothing where it wrote nothing.
pub(crate) fn calls(text: Option<&str>) -> Result<Vec<ModelCall>, Fault> {
    let Some(text) = text else { return Ok(Vec::new()) };
    serde_json::from_str(text).map_err(|error| Fault::Unreadable(format!("calls of models: {error}")))
}

struct Usage {
    tenant: Tenant,
    days: (Day, Day),
    grouping: UsageGrouping,
    limit: usize,
}

const SUMS: &str = "sum(calls)::bigint AS calls, sum(estimated_calls)::bigint AS estimated_calls,
    sum(unpriced_calls)::bigint AS unpriced_calls, sum(input_tokens)::bigint AS input_tokens,
    sum(output_tokens)::bigint AS output_tokens, sum(cost_micros)::bigint AS cost_micros
 FROM usage_day WHERE tenant = $1 AND day BETWEEN $2 AND $3 GROUP BY 1";
const DEAREST: &str =
    "ORDER BY sum(cost_micros) DESC, sum(input_tokens) + sum(output_tokens) DESC, 1 LIMIT $4";

impl Operation for Usage {
    type Output = Vec<UsageGroup>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Vec<UsageGroup>, Fault> {
        // Of these three texts and no others: nothing in them is anybody's input.
        let (key, order) = match self.grouping {
            UsageGrouping::Model => ("model", DEAREST),
            UsageGrouping::Provider => ("provider", DEAREST),
            UsageGrouping::Day => ("to_char(day, 'YYYY-MM-DD') COLLATE \"C\"", "ORDER BY 1 LIMIT $4"),
        };
        let mut query = sqlx::QueryBuilder::<sqlx::Postgres>::new("SELECT ");
        query.push(key).push(" AS key, ").push(SUMS).push(" ").push(order);
        let rows = query
            .build()
            .bind(self.tenant.as_str())
            .bind(self.days.0)
            .bind(self.days.1)
            .bind(limit(self.limit))
            .fetch_all(connection)
            .await?;
        rows.iter()
            .map(|row| {
                let number =
                    |name: &str| -> Result<u64, Fault> { Ok(field::<i64>(row, name)?.unsigned_abs()) };
                let spending = Spending {
                    calls: number("calls")?,
                    estimated_calls: number("estimated_calls")?,
                    unpriced_calls: number("unpriced_calls")?,
                    input_tokens: number("input_tokens")?,
                    output_tokens: number("output_tokens")?,
                    cost_micros: number("cost_micros")?,
                };
                Ok(UsageGroup { key: field(row, "key")?, spending })
            })
            .collect()
    }
}

/// Items are read in pages, so that a large batch takes neither long statements nor much memory.
const ITEMS: usize = 1_000;

pub(crate) const OF_BATCH: &str = "
SELECT t.id, ARRAY(SELECT calls FROM model_call WHERE model_call.task = t.id) AS calls
FROM task t WHERE t.batch = $2 AND t.tenant = $1 AND t.id > $3 ORDER BY t.id LIMIT $4";

struct OfBatch {
    tenant: Tenant,
    batch: TaskId,
    after: i64,
}

impl Operation for OfBatch {
    /// The sum over a page, and where the next one begins.
    type Output = (Spending, Option<i64>);

    async fn run(&self, connection: &mut PgConnection) -> Result<Self::Output, Fault> {
        let query = sqlx::query(OF_BATCH).bind(self.tenant.as_str()).bind(self.batch.0);
        let rows = query.bind(self.after).bind(limit(ITEMS)).fetch_all(connection).await?;
        let mut sum = Spending::default();
        for row in &rows {
            for text in field::<Vec<String>>(row, "calls")? {
                sum = sum.plus(Spending::of(&calls(Some(&text))?));
            }
        }
        let last = rows.last().filter(|_| rows.len() == ITEMS).map(|row| field(row, "id")).transpose()?;
        Ok((sum, last))
    }
}

impl PostgresStore {
    pub(crate) async fn usage_of(
        &self,
        tenant: &Tenant,
        days: (Day, Day),
        grouping: UsageGrouping,
        limit: usize,
    ) -> Result<Vec<UsageGroup>, StoreError> {
        self.connections.run(Usage { tenant: tenant.clone(), days, grouping, limit }).await
    }

    pub(crate) async fn usage_of_batch(
        &self,
        tenant: &Tenant,
        batch: TaskId,
    ) -> Result<Spending, StoreError> {
        let (mut sum, mut after) = (Spending::default(), Some(i64::MIN));
        while let Some(from) = after {
            let page = OfBatch { tenant: tenant.clone(), batch, after: from };
            let (more, last) = self.connections.run(page).await?;
            sum = sum.plus(more);
            after = last;
        }
        Ok(sum)
    }
}
