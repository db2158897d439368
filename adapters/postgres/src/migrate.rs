//! The schema: applied by `task-runner migrate`, checked at every start.

use std::{collections::HashSet, time::Duration};

use sqlx::{
    ConnectOptions, Connection, PgConnection,
    migrate::{MigrateError, Migrator},
    postgres::PgConnectOptions,
};
use tokio::time::{Instant, timeout};

use crate::{PostgresError, options::parse_url};

fn migrations() -> Migrator {
    sqlx::migrate!("../../migrations/postgres")
}

/// Held while migrating. The number is `task-run` in ASCII; it must never change.
const LOCK: i64 = 0x7461_736b_2d72_756e;
/// How long another process's migration, or whoever is in the way of ours, is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked whether that one has ended.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long opening the connection may take.
const CONNECT: Duration = Duration::from_secs(10);

/// Host, port and database: what errors may say of a URL.
pub(crate) fn place(target: &PgConnectOptions) -> String {
    format!("{}:{}/{}", target.get_host(), target.get_port(), target.get_database().unwrap_or_default())
}

/// Applies what is missing and answers how many steps that were. Any number of processes may call it at once. A schema
/// that is newer than this program is left as it is.
pub(crate) async fn migrate(url: &str) -> Result<usize, PostgresError> {
    // A migration must not queue for long behind a long transaction: everything else would queue behind it.
    let target = parse_url(url)?.options([("lock_timeout", "5s")]);
    let place = place(&target);
    let unavailable =
        |error: sqlx::Error| PostgresError::Unavailable { place: place.clone(), reason: error.to_string() };
    let mut connection = match timeout(CONNECT, target.connect()).await {
        Ok(connection) => connection.map_err(unavailable)?,
        Err(_) => return Err(unavailable(sqlx::Error::PoolTimedOut)),
    };
    let deadline = Instant::now() + PATIENCE;
    while !try_lock(&mut connection).await.map_err(unavailable)? {
        if Instant::now() > deadline {
            return Err(PostgresError::Locked { place: place.clone(), seconds: PATIENCE.as_secs() });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let before = applied(&mut connection).await.map_err(unavailable)?.map_or(0, |versions| versions.len());
    let mut migrations = migrations();
    migrations.set_ignore_missing(true).set_locking(false);
    loop {
        let outcome = match drop_unfinished_indexes(&mut connection).await {
            Ok(()) => migrations.run_direct(None, &mut connection, false).await,
            Err(error) => Err(error.into()),
        };
        match outcome {
            Ok(()) => break,
            // Whoever was in the way goes on; steps that were done stay done.
            Err(error) if was_in_the_way(&error) && Instant::now() < deadline => {
                tracing::info!(%error, "running programs were in the way of a migration; trying again");
                tokio::time::sleep(LOOK_EVERY).await;
            }
            Err(error) => {
                return Err(PostgresError::Migration { place: place.clone(), reason: error.to_string() });
            }
        }
    }
    let after = applied(&mut connection).await.map_err(unavailable)?.map_or(0, |versions| versions.len());
    // The end of the session gives the lock back.
    connection.close().await.map_err(unavailable)?;
    Ok(after - before)
}

/// Whether a migration waited too long for a lock, or in a circle with others.
fn was_in_the_way(error: &MigrateError) -> bool {
    let (MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)) = error else {
        return false;
    };
    let code = error.as_database_error().and_then(|error| error.code());
    matches!(code.as_deref(), Some("55P03" | "40P01"))
}

/// An index whose building beside running programs was cut off stays behind, of no use, and would pass for the real one.
async fn drop_unfinished_indexes(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let unfinished: Vec<String> = sqlx::query_scalar(
        "SELECT indexrelid::regclass::text FROM pg_index
         WHERE NOT indisvalid AND indrelid IN (to_regclass('live'), to_regclass('task'), to_regclass('outcome'))",
    )
    .fetch_all(&mut *connection)
    .await?;
    for index in unfinished {
        // The name comes quoted from the catalogue.
        let drop = format!("DROP INDEX CONCURRENTLY IF EXISTS {index}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(drop)).execute(&mut *connection).await?;
    }
    Ok(())
}

async fn try_lock(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT pg_try_advisory_lock($1)").bind(LOCK).fetch_one(connection).await
}

/// The versions that the database has; `None` when it has never been migrated.
async fn applied(connection: &mut PgConnection) -> Result<Option<HashSet<i64>>, sqlx::Error> {
    let known: bool = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await?;
    if !known {
        return Ok(None);
    }
    let versions: Vec<i64> = sqlx::query_scalar("SELECT version FROM _sqlx_migrations WHERE success")
        .fetch_all(connection)
        .await?;
    Ok(Some(versions.into_iter().collect()))
}

/// Refuses a database whose schema is older than this program; a newer one is fine, since migrations only add until
/// no running version needs what they would take away.
pub(crate) async fn check(target: &PgConnectOptions) -> Result<(), PostgresError> {
    let place = place(target);
    let unavailable =
        |error: sqlx::Error| PostgresError::Unavailable { place: place.clone(), reason: error.to_string() };
    let look = async {
        let mut connection = target.connect().await?;
        let versions = applied(&mut connection).await?;
        connection.close().await?;
        Ok(versions)
    };
    let versions = match timeout(CONNECT, look).await {
        Ok(versions) => versions.map_err(unavailable)?,
        Err(_) => return Err(unavailable(sqlx::Error::PoolTimedOut)),
    };
    let Some(versions) = versions.filter(|versions| !versions.is_empty()) else {
        return Err(PostgresError::NoSchema { place });
    };
    match migrations().iter().filter(|migration| !versions.contains(&migration.version)).count() {
        0 => Ok(()),
        missing => Err(PostgresError::OldSchema { place, missing }),
    }
}
