//! A task that is submitted with the program's own transaction on PostgreSQL: both are committed, or neither. Runs beside
//! any API or worker process of the product on the same database:
//!
//! ```text
//! DATABASE_URL=postgres://… cargo run --example own_transaction
//! ```

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use domain::{TaskId, Tenant};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use task_runner::{
    config::{Database, Layers},
    embedded::Embedded,
};

#[tokio::main]
async fn main() -> Result<()> {
    let config = Layers::read(None)?.config()?;
    let Database::Postgres(url) = config.database.clone() else {
        bail!("DATABASE_URL has to name a PostgreSQL database: SQLite has no transactions of others");
    };
    let runner = Embedded::start(config, []).await?;
    let mut shop = PgConnection::connect(&url).await?;
    sqlx::raw_sql("CREATE TABLE IF NOT EXISTS shop_order (id bigserial PRIMARY KEY, item text, task bigint)")
        .execute(&mut shop)
        .await?;

    // The order and the task that handles it, in one transaction. Any language can do so: it is plain SQL.
    let mut transaction = shop.begin().await?;
    let order = "INSERT INTO shop_order (item, task)
        VALUES ($1, submit_task('demo.echo', jsonb_build_object('item', $1), '{\"priority\": 2}')) RETURNING task";
    let kept: i64 = sqlx::query_scalar(order).bind("a book").fetch_one(&mut *transaction).await?;
    transaction.commit().await?;

    let mut transaction = shop.begin().await?;
    let never: i64 = sqlx::query_scalar(order).bind("a mistake").fetch_one(&mut *transaction).await?;
    transaction.rollback().await?;

    // It can be read some milliseconds after its commit.
    let task = runner.tasks().handle(&Tenant::default(), TaskId(kept));
    while task.read().await?.is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let result: Value = task.result(Duration::from_secs(10)).await?;
    ensure!(result == json!({ "item": "a book" }), "the task answered {result}");
    println!("task {kept} was committed with its order, and has run");
    let dropped = runner.tasks().read(&Tenant::default(), TaskId(never)).await?;
    ensure!(dropped.is_none(), "task {never} is there without its order");
    println!("task {never} was rolled back with its order, and never was");
    runner.stop().await
}
