//! Migrations, and what a store says to a database that is not ready.

use contract_tests::servers::PostgresServer;
use postgres_adapter::{PostgresError, PostgresOptions, PostgresStore};
use sqlx::{Connection, PgConnection};

async fn connect(url: &str) -> Result<PostgresStore, PostgresError> {
    PostgresStore::connect(url, &PostgresOptions::default()).await
}

async fn execute(url: &str, sql: &'static str) {
    let mut connection = PgConnection::connect(url).await.expect("a connection");
    sqlx::raw_sql(sql).execute(&mut connection).await.expect("the statement");
}

#[tokio::test]
async fn many_may_migrate_at_once() {
    let url = PostgresServer::shared().create_empty_database().await;
    let migrations: Vec<_> = (0..8)
        .map(|_| {
            let url = url.clone();
            tokio::spawn(async move { PostgresStore::migrate(&url).await.expect("migrate") })
        })
        .collect();
    let mut steps = Vec::new();
    for migration in migrations {
        steps.push(migration.await.expect("no panic"));
    }
    assert_eq!(steps.iter().filter(|steps| **steps > 0).count(), 1, "one of them did it: {steps:?}");
    connect(&url).await.expect("the schema is complete");
    assert_eq!(PostgresStore::migrate(&url).await.expect("migrate"), 0, "nothing is left to do");
}

#[tokio::test]
async fn a_database_without_a_schema_is_refused_with_the_remedy() {
    let url = PostgresServer::shared().create_empty_database().await;
    let error = connect(&url).await.expect_err("there is no schema");
    assert!(matches!(error, PostgresError::NoSchema { .. }), "{error}");
    assert!(error.to_string().contains("`task-runner migrate`"), "{error}");
}

#[tokio::test]
async fn an_older_schema_is_refused_and_a_newer_one_is_fine() {
    let url = PostgresServer::shared().create_database().await;
    execute(
        &url,
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (99999999999999, 'from the future', true, '', 0)",
    )
    .await;
    connect(&url).await.expect("a newer schema");
    assert_eq!(PostgresStore::migrate(&url).await.expect("an older program leaves it as it is"), 0);

    execute(&url, "DELETE FROM _sqlx_migrations WHERE version = (SELECT min(version) FROM _sqlx_migrations)")
        .await;
    let error = connect(&url).await.expect_err("a migration is missing");
    assert!(matches!(error, PostgresError::OldSchema { missing: 1, .. }), "{error}");
    assert!(error.to_string().contains("`task-runner migrate`"), "{error}");
}

#[tokio::test]
async fn urls_of_other_tools_open_the_same_store() {
    let url = PostgresServer::shared().create_database().await;
    let rest = url.split_once("://").expect("a URL").1;
    for scheme in ["postgresql", "postgresql+asyncpg", "postgres+asyncpg"] {
        connect(&format!("{scheme}://{rest}")).await.expect(scheme);
    }
}

#[tokio::test]
async fn passwords_stay_out_of_errors() {
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
    for url in [
        format!("postgres://somebody:hunter2@127.0.0.1:{port}/nowhere"),
        "postgres://somebody:hunter2@127.0.0.1:notaport/nowhere".to_owned(),
        "sqlite://somebody:hunter2@nowhere".to_owned(),
    ] {
        for error in [
            connect(&url).await.expect_err("nobody is there"),
            PostgresStore::migrate(&url).await.expect_err("nor here"),
        ] {
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }
}
