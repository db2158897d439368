//! Submitting in SQL, inside the caller's own transaction.

use contract_tests::servers::PostgresServer;
use e2e_tests::{Api, Base, PATIENCE};
use reqwest::Method;
use serde_json::json;
use sqlx::{Connection, PgConnection};
use tokio::time::{Duration, Instant, sleep};

#[tokio::test]
async fn a_task_submitted_in_sql_runs_when_its_transaction_has_committed() {
    let database = PostgresServer::shared().create_database().await;
    let product = Base::PostgresAndRedis.setup().set("DATABASE_URL", &database).start().await;
    let mut caller = PgConnection::connect(&database).await.expect("a connection");
    sqlx::raw_sql("CREATE TABLE orders (id bigint PRIMARY KEY, task bigint)")
        .execute(&mut caller)
        .await
        .unwrap();

    let mut transaction = caller.begin().await.unwrap();
    let order = "INSERT INTO orders VALUES ($1, submit_task('demo.echo', jsonb_build_object('order', $1)))
        RETURNING task";
    let task: i64 = sqlx::query_scalar(order).bind(7_i64).fetch_one(&mut *transaction).await.unwrap();
    transaction.commit().await.unwrap();
    let mut transaction = caller.begin().await.unwrap();
    let never: i64 = sqlx::query_scalar(order).bind(8_i64).fetch_one(&mut *transaction).await.unwrap();
    transaction.rollback().await.unwrap();
    let bad: i64 = sqlx::query_scalar("SELECT submit_task('demo.noop', '{}', '{\"prority\": 1}')")
        .fetch_one(&mut caller)
        .await
        .unwrap();

    let api = product.api();
    becomes_known(&api, task).await;
    assert_eq!(api.completed(task).await["result"], json!({ "order": 7 }));
    becomes_known(&api, bad).await;
    let bad = api.ended(bad).await;
    assert_eq!((&bad["status"], &bad["error"]["code"]), (&json!("FAILED"), &json!("invalid_submission")));
    assert!(bad["error"]["message"].as_str().unwrap().contains("prority"), "{bad}");
    let answer = api.send(Method::GET, &format!("/tasks/{never}"), None).await;
    assert_eq!(answer.status, 404, "its transaction was rolled back");
}

/// Waits until a task has been taken in.
async fn becomes_known(api: &Api, task: i64) {
    let began = Instant::now();
    while api.send(Method::GET, &format!("/tasks/{task}"), None).await.status == 404 {
        assert!(began.elapsed() < PATIENCE, "task {task} was not taken in");
        sleep(Duration::from_millis(20)).await;
    }
}
