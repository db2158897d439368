//! How the server runs the statements that decide the speed: for people who wonder, and for the test that holds them.

use application::ports::StoreError;
use sqlx::{AssertSqlSafe, PgConnection};

use crate::{
    PostgresStore,
    claim::{CLAIM_IDS, CLAIM_NEXT},
    connections::Operation,
    error::Fault,
    settle::{COMPLETE, FINISH},
};

const STATEMENTS: [(&str, &str, usize); 4] = [
    ("claim_ids", CLAIM_IDS, 3),
    ("claim_next", CLAIM_NEXT, 6),
    ("complete", COMPLETE, 8),
    ("finish", FINISH, 12),
];

struct Explain;

impl Operation for Explain {
    type Output = Vec<(&'static str, String)>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Self::Output, Fault> {
        let mut plans = Vec::with_capacity(STATEMENTS.len());
        for (name, statement, parameters) in STATEMENTS {
            // Prepared, since the plan of a prepared statement is the one in use: it knows no values.
            let prepare = format!("PREPARE explained AS {statement}");
            sqlx::raw_sql(AssertSqlSafe(prepare)).execute(&mut *connection).await?;
            let nulls = vec!["NULL"; parameters].join(", ");
            let explain = format!("EXPLAIN (COSTS OFF) EXECUTE explained ({nulls})");
            let lines = sqlx::query_scalar::<_, String>(AssertSqlSafe(explain)).persistent(false);
            let lines = lines.fetch_all(&mut *connection).await;
            sqlx::raw_sql("DEALLOCATE explained").execute(&mut *connection).await?;
            plans.push((name, lines?.join("\n")));
        }
        Ok(plans)
    }
}

impl PostgresStore {
    /// The plans of claims and settlements as the server makes them in this store's sessions, by the statement's name.
    pub async fn plans(&self) -> Result<Vec<(&'static str, String)>, StoreError> {
        self.connections.run(Explain).await
    }
}
