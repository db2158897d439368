//! Following up: what becomes of tasks that wait for others when one of these has ended.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use application::ports::{FollowedUp, StoreError, Waiting};
use async_trait::async_trait;
use domain::{
    Change as Decision, Counters, Event, Json, Progress, Rank, State, Status, TaskId, decide,
    flow::{NeedState, Needs, Verdict, is_batch, judge, reference},
};
use sqlx::SqliteConnection;

use crate::{
    ending::{Ending, end},
    error::store_error,
    fair,
    flow::{count_items, read_needs, set_needs},
    rows::{
        CounterColumns, failure, id_list, parse_lane, parse_name, parse_priority, parse_queue, parse_status,
        state,
    },
    store::Query,
    writer::{Change, Write},
};

/// Whether there is anything to follow up.
pub(crate) struct AnyEnds;

#[async_trait]
impl Query for AnyEnds {
    type Answer = bool;

    async fn run(self, snapshot: &mut SqliteConnection) -> Result<Self::Answer, StoreError> {
        any_ends(snapshot).await
    }
}

pub(crate) async fn any_ends(conn: &mut SqliteConnection) -> Result<bool, StoreError> {
    const SQL: &str = "SELECT EXISTS (SELECT 1 FROM ended_need)";
    sqlx::query_scalar(SQL).fetch_one(conn).await.map_err(store_error)
}

/// One step.
pub(crate) struct FollowUp {
    pub(crate) limit: usize,
}

/// A task that waits for others.
#[derive(sqlx::FromRow)]
struct Waiter {
    id: i64,
    tenant: String,
    queue: String,
    lane: String,
    priority: i64,
    rank: i64,
    task_type: String,
    input: String,
    needs: Option<String>,
    waits_for: i64,
    #[sqlx(flatten)]
    counters: CounterColumns,
}

#[async_trait]
impl Change for FollowUp {
    type Answer = FollowedUp;

    async fn apply(&self, write: &mut Write<'_>) -> Result<Self::Answer, StoreError> {
        const ENDS: &str = "SELECT id, task FROM ended_need ORDER BY id LIMIT ?1";
        const SEEN: &str = "DELETE FROM ended_need WHERE id IN (SELECT value FROM json_each(?1))";
        let rows: Vec<(i64, i64)> = sqlx::query_as(ENDS)
            .bind(i64::try_from(self.limit).unwrap_or(i64::MAX))
            .fetch_all(&mut *write.conn)
            .await
            .map_err(store_error)?;
        let mut done = FollowedUp { seen: rows.len(), ..FollowedUp::default() };
        let (ends, ended): (Vec<i64>, BTreeSet<i64>) = rows.into_iter().unzip();
        let seen = sqlx::query(SEEN).bind(id_list(ends)).execute(&mut *write.conn).await;
        seen.map_err(store_error)?;
        let concerned = meet(write, &ended).await?;
        for id in concerned {
            if let Some(waiter) = waiter(write, id).await? {
                look_at(write, waiter, &mut done).await?;
            }
        }
        Ok(done)
    }
}

/// Crosses off who has ended, and answers who is concerned: who waited for one of these, and those of them that wait
/// themselves.
async fn meet(write: &mut Write<'_>, ended: &BTreeSet<i64>) -> Result<BTreeSet<i64>, StoreError> {
    const OPEN: &str = "
        SELECT l.task, l.waits_for IS NOT NULL FROM json_each(?1) AS asked CROSS JOIN live AS l ON l.task = asked.value";
    const AWAIT: &str = "
        UPDATE live SET awaited = 1 WHERE task IN (
            SELECT asked.value FROM json_each(?1) AS asked
            WHERE EXISTS (SELECT 1 FROM dependency AS d WHERE d.needs = asked.value))";
    const MEET: &str = "
        UPDATE dependency SET met = 1 WHERE met = 0 AND needs IN (SELECT value FROM json_each(?1)) RETURNING task";
    const LESS: &str = "
        UPDATE live SET waits_for = waits_for - m.n
        FROM (SELECT value ->> 0 AS task, value ->> 1 AS n FROM json_each(?1)) AS m
        WHERE live.task = m.task AND live.waits_for IS NOT NULL";
    let open: Vec<(i64, bool)> = sqlx::query_as(OPEN)
        .bind(id_list(ended.iter().copied()))
        .fetch_all(&mut *write.conn)
        .await
        .map_err(store_error)?;
    // What runs again by now is waited for again, if anybody waits.
    let again = id_list(open.iter().map(|(id, _)| *id));
    sqlx::query(AWAIT).bind(again).execute(&mut *write.conn).await.map_err(store_error)?;
    let open: BTreeMap<i64, bool> = open.into_iter().collect();
    let over = id_list(ended.iter().copied().filter(|id| !open.contains_key(id)));
    let met: Vec<i64> =
        sqlx::query_scalar(MEET).bind(over).fetch_all(&mut *write.conn).await.map_err(store_error)?;
    let mut fewer: BTreeMap<i64, i64> = BTreeMap::new();
    for task in met {
        *fewer.entry(task).or_default() += 1;
    }
    for page in crate::rows::pages(fewer.iter()) {
        sqlx::query(LESS).bind(page).execute(&mut *write.conn).await.map_err(store_error)?;
    }
    Ok(fewer.into_keys().chain(open.into_iter().filter(|(_, waits)| *waits).map(|(id, _)| id)).collect())
}

async fn waiter(write: &mut Write<'_>, id: i64) -> Result<Option<Waiter>, StoreError> {
    const SQL: &str = "
        SELECT t.id, t.tenant, t.queue, l.lane, l.priority, coalesce(l.rank, t.id) AS rank, t.type AS task_type, t.input, t.needs, l.waits_for,
               l.attempt, l.failures, l.crashes, l.forgiven_failures, l.forgiven_crashes
        FROM live AS l JOIN task AS t ON t.id = l.task WHERE l.task = ?1 AND l.waits_for IS NOT NULL";
    sqlx::query_as(SQL).bind(id).fetch_optional(&mut *write.conn).await.map_err(store_error)
}

async fn look_at(write: &mut Write<'_>, waiter: Waiter, done: &mut FollowedUp) -> Result<(), StoreError> {
    let counters = waiter.counters.read()?;
    if is_batch(&parse_name(&waiter.task_type)?) {
        return come_on(write, waiter, counters, done).await;
    }
    let needs = waiter.needs.as_deref().map(read_needs).transpose()?.unwrap_or_default();
    let input = Json::from_stored(waiter.input.clone());
    // Results are read only for who refers to them.
    let with_results = !needs.resolved && reference::may_hold(&input);
    let states = states(write, &needs, with_results).await?;
    match judge(&needs, &input, &states) {
        Verdict::Wait => Ok(()),
        Verdict::Start(resolved) => {
            if let Some(input) = resolved {
                const INPUT: &str = "UPDATE task SET input = ?2 WHERE id = ?1";
                let set =
                    sqlx::query(INPUT).bind(waiter.id).bind(input.as_str()).execute(&mut *write.conn).await;
                set.map_err(store_error)?;
                set_needs(write, waiter.id, &Needs { resolved: true, ..needs }).await?;
            }
            if let Ok(Decision::BecomePending) = decide(State::Scheduled, counters, Event::Due) {
                release(write, waiter, done).await?;
            }
            Ok(())
        }
        Verdict::GiveUp(failure) => {
            conclude(write, &waiter, counters, Event::GiveUp { failure: &failure }, None, done).await
        }
        Verdict::Fail(failure) => {
            let event = Event::Conclude { failure: Some(&failure) };
            conclude(write, &waiter, counters, event, None, done).await
        }
    }
}

async fn release(write: &mut Write<'_>, waiter: Waiter, done: &mut FollowedUp) -> Result<(), StoreError> {
    const FREE: &str = "
        UPDATE live SET state = 'PENDING', due_at = NULL, waits_for = NULL, updated_at = ?2 WHERE task = ?1";
    const UNTIE: &str = "DELETE FROM dependency WHERE task = ?1";
    let free = sqlx::query(FREE).bind(waiter.id).bind(write.now).execute(&mut *write.conn).await;
    free.map_err(store_error)?;
    sqlx::query(UNTIE).bind(waiter.id).execute(&mut *write.conn).await.map_err(store_error)?;
    write.tally.shift(&waiter.tenant, &waiter.queue, Status::Scheduled, Status::Pending);
    let mut place = Waiting {
        id: TaskId(waiter.id),
        queue: parse_queue(&waiter.queue)?,
        priority: parse_priority(waiter.priority)?,
        rank: Rank(waiter.rank),
        suspicion: parse_lane(&waiter.lane)?,
    };
    fair::rank(write, [&mut place]).await?;
    done.released.push(place);
    Ok(())
}

async fn conclude(
    write: &mut Write<'_>,
    waiter: &Waiter,
    counters: Counters,
    event: Event<'_>,
    result: Option<Json>,
    done: &mut FollowedUp,
) -> Result<(), StoreError> {
    const RESULT: &str = "UPDATE outcome SET result = ?2 WHERE task = ?1";
    let Ok(Decision::Finish { end: how, counters, error }) = decide(State::Scheduled, counters, event) else {
        return Ok(());
    };
    let id = TaskId(waiter.id);
    write.tally.shift(&waiter.tenant, &waiter.queue, Status::Scheduled, how.into());
    end(write, vec![Ending::waiting(id, how, counters, error)]).await?;
    if let Some(result) = result {
        let set = sqlx::query(RESULT).bind(id.0).bind(result.as_str()).execute(&mut *write.conn).await;
        set.map_err(store_error)?;
    }
    done.ended.push((id, how.into()));
    Ok(())
}

/// A batch comes on, and concludes when all its items have ended.
async fn come_on(
    write: &mut Write<'_>,
    waiter: Waiter,
    counters: Counters,
    done: &mut FollowedUp,
) -> Result<(), StoreError> {
    const SQL: &str = "
        UPDATE progress SET current = max(total - ?2, 0), updated_at = ?3 WHERE task = ?1 RETURNING current, total";
    let row: Option<(i64, i64)> = sqlx::query_as(SQL)
        .bind(waiter.id)
        .bind(waiter.waits_for)
        .bind(write.now)
        .fetch_optional(&mut *write.conn)
        .await
        .map_err(store_error)?;
    if let Some((current, total)) = row {
        let progress = Progress::new(current.unsigned_abs(), total.unsigned_abs(), None);
        done.progress.push((TaskId(waiter.id), progress));
    }
    if waiter.waits_for > 0 {
        return Ok(());
    }
    let (result, failure) = count_items(write.conn, None, waiter.id).await?.conclude();
    let event = Event::Conclude { failure: failure.as_ref() };
    conclude(write, &waiter, counters, event, Some(result), done).await
}

#[derive(sqlx::FromRow)]
struct StateRow {
    id: i64,
    status: Option<String>,
    error_code: Option<String>,
    error_message: Option<String>,
    result: Option<String>,
    open: bool,
}

/// Where each need stands, in order; with its result, if that is wanted.
async fn states(
    write: &mut Write<'_>,
    needs: &Needs,
    with_results: bool,
) -> Result<Vec<NeedState>, StoreError> {
    const SQL: &str = "
        SELECT asked.value AS id, o.status, o.error_code, o.error_message, iif(?2, o.result, NULL) AS result,
               l.task IS NOT NULL AS open
        FROM json_each(?1) AS asked
        LEFT JOIN outcome AS o ON o.task = asked.value
        LEFT JOIN live AS l ON l.task = asked.value";
    let rows: Vec<StateRow> = sqlx::query_as(SQL)
        .bind(id_list(needs.after.iter().map(|need| need.task.0)))
        .bind(with_results)
        .fetch_all(&mut *write.conn)
        .await
        .map_err(store_error)?;
    let mut found = HashMap::with_capacity(rows.len());
    for row in rows {
        let stands = match row.status {
            Some(status) => match state(parse_status(&status)?, false) {
                State::Ended(end) => NeedState::Ended {
                    end,
                    error: failure(row.error_code, row.error_message),
                    result: row.result.map(Json::from_stored),
                },
                State::Scheduled | State::Pending | State::Processing { .. } => NeedState::Open,
            },
            None if row.open => NeedState::Open,
            None => NeedState::Gone,
        };
        found.insert(TaskId(row.id), stands);
    }
    Ok(needs.after.iter().map(|need| found.get(&need.task).cloned().unwrap_or(NeedState::Gone)).collect())
}
