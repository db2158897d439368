//! P10: as P1, on the embedded base: one process, one SQLite file, every commit flushed to the disk.

use std::path::Path;

use anyhow::{Result, bail};
use sqlx::{Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::time::{Instant, sleep};

use super::{
    Bench,
    p01::{EndToEnd, WARM_UP, lines_of},
    repeat,
};
use crate::{
    load, process,
    report::{self, Line, counted},
    rig::{self, GLANCE, NOOP_BODY},
};

pub(super) async fn measure(bench: &Bench) -> Result<Vec<Line>> {
    let count = bench.scale.of(1_000, 20_000);
    let mut lines = Vec::new();
    for (connections, ids) in [(32, ["p10_32", "p10_32_p99"]), (256, ["p10_256", "p10_256_p99"])] {
        let all = repeat(bench, async || once(bench, count, connections).await).await?;
        let what = format!("SQLite, {} tasks over {}", counted(count), report::connections(connections));
        lines.extend(lines_of("P10", &what, ids, &all));
    }
    Ok(lines)
}

async fn once(bench: &Bench, count: usize, connections: usize) -> Result<EndToEnd> {
    let folder = tempfile::tempdir_in(bench.rig.folder())?;
    let file = folder.path().join("tasks.db");
    let front = bench.rig.standalone(&file).await?;
    let mut connection = open(&file).await?;
    let request = load::submission(NOOP_BODY);
    load::submit(front.server, &request, WARM_UP, connections).await?;
    drained(&mut connection).await?;

    let processors = || -> Result<[f64; 2]> {
        Ok([process::processor(std::process::id())?, process::processor(front.program.id())?])
    };
    let before = processors()?;
    let submitted = load::submit(front.server, &request, count, connections).await?;
    drained(&mut connection).await?;
    let took = submitted.began.elapsed();
    let after = processors()?;
    let spent = vec![("the generator", after[0] - before[0]), ("the product", after[1] - before[1])];

    let completed: i64 = sqlx::query_scalar("SELECT count(*) FROM outcome WHERE status = 'COMPLETED'")
        .fetch_one(&mut connection)
        .await?;
    if completed != i64::try_from(count + WARM_UP)? {
        bail!("{completed} of {} tasks have completed", count + WARM_UP);
    }
    connection.close().await?;
    rig::stop(front.program).await;
    EndToEnd::new(submitted, took, spent)
}

/// A reader beside the process.
async fn open(file: &Path) -> Result<SqliteConnection> {
    Ok(SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(file).read_only(true)).await?)
}

async fn drained(connection: &mut SqliteConnection) -> Result<()> {
    let began = Instant::now();
    while sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM live)").fetch_one(&mut *connection).await? {
        rig::in_time(began, "the tasks have not all ended")?;
        sleep(GLANCE).await;
    }
    Ok(())
}
