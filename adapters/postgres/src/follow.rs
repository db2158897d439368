//! Following up: what becomes of tasks that wait for others when one of these has ended.
//!
//! One transaction a step. It takes ends that nobody else has in hand, locks who is concerned (submissions first, then
//! where they stand, each in the order of ids, as retries and deletions do), lets the domain judge, and applies that. Of two
//! steps that concern the same task the second sees what the first one did.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use application::ports::{FollowedUp, StoreError};
use domain::{
    Change, Counters, Event, Failure, Json, Progress, State, Status, TaskId, TaskType, Timestamp, decide,
    flow::{NeedState, Needs, Verdict, is_batch, judge},
};
use sqlx::{Connection, PgConnection, postgres::PgRow};

use crate::{
    PostgresStore,
    clock::Clock,
    connections::Operation,
    error::Fault,
    fair,
    flow::{count_items, tell},
    retry::ended_as,
    rows::{self, counters, failure, failure_text, field, in_lock_order, limit},
};

/// How many waiting tasks one step looks at. One that more wait for takes several steps.
const MOST_CONCERNED: usize = 2_000;

const ENDS: &str = "SELECT id, task FROM ended_need ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED";

const CONCERNED: &str = "
SELECT d.task FROM unnest($1::bigint[]) AS ended (id)
CROSS JOIN LATERAL (SELECT task FROM dependency WHERE needs = ended.id AND NOT met) d
CROSS JOIN LATERAL (SELECT id FROM live WHERE live.id = d.task AND live.waits_for IS NOT NULL LIMIT 1) l
LIMIT $2";

const LOCK_TASKS: &str = "
SELECT t.id FROM unnest($1::bigint[]) AS asked (id)
CROSS JOIN LATERAL (SELECT id FROM task WHERE task.id = asked.id FOR NO KEY UPDATE) t";

const LOCK_LIVE: &str = "
SELECT l.* FROM unnest($1::bigint[]) AS asked (id)
CROSS JOIN LATERAL (
    SELECT id, waits_for, attempt, failures, crashes, forgiven_failures, forgiven_crashes
    FROM live WHERE live.id = asked.id FOR UPDATE
) l";

const MEET: &str = "
WITH met AS (
    UPDATE dependency SET met = true WHERE needs = ANY($1) AND NOT met AND (task = ANY($2)) IS TRUE RETURNING task
), n AS (
    SELECT task, count(*)::integer AS n FROM met GROUP BY task
)
UPDATE live SET waits_for = live.waits_for - n.n FROM n WHERE live.id = n.task AND live.id = ANY($2)
RETURNING live.id, live.waits_for";

const READ: &str = "
SELECT t.id, t.task_type, t.needs, t.input LIKE '%\"$result\"%' OR t.input LIKE '%\"$text\"%' AS refers
FROM unnest($1::bigint[]) AS asked (id)
CROSS JOIN LATERAL (SELECT id, task_type, needs, input FROM task WHERE task.id = asked.id LIMIT 1) t";

/// In one sight of the database, so that nobody ends between two looks.
const STATES: &str = "
SELECT asked.id, o.status, o.error, CASE WHEN $2 THEN o.result END AS result, l.id IS NOT NULL AS open
FROM unnest($1::bigint[]) AS asked (id)
LEFT JOIN LATERAL (SELECT status, error, result FROM outcome WHERE outcome.task = asked.id LIMIT 1) o ON true
LEFT JOIN LATERAL (SELECT id FROM live WHERE live.id = asked.id LIMIT 1) l ON true";

const RELEASE: &str = "
WITH freed AS (
    UPDATE live SET ready = true, due_at = NULL, waits_for = NULL, changed_at = coalesce($1, now())
    WHERE id = ANY($2) RETURNING id, tenant, queue, priority, rank, lane
), tallied AS (
    INSERT INTO tally_delta (tenant, queue, scheduled, pending)
    SELECT tenant, queue, -count(*), count(*) FROM freed GROUP BY tenant, queue
), untied AS (
    DELETE FROM dependency WHERE task = ANY($2)
)
SELECT id, queue, priority, coalesce(rank, id) AS rank, lane FROM freed ORDER BY id";

const END: &str = "
WITH gone AS (
    DELETE FROM live WHERE id = ANY($2)
    RETURNING id, tenant, queue, attempt, failures, crashes, forgiven_failures, forgiven_crashes, started_at, awaited
), ended AS (
    INSERT INTO outcome (task, started_at, ended_at, attempt, failures, crashes, forgiven_failures, forgiven_crashes,
        status, result, error)
    SELECT gone.id, gone.started_at, coalesce($1, now()), gone.attempt, gone.failures, gone.crashes,
        gone.forgiven_failures, gone.forgiven_crashes, s.status, s.result, s.error
    FROM unnest($2::bigint[], $3::text[], $4::text[], $5::text[]) AS s (id, status, result, error)
    JOIN gone ON gone.id = s.id
), told AS (
    INSERT INTO ended_need (task) SELECT id FROM gone WHERE awaited
), untied AS (
    DELETE FROM dependency WHERE task = ANY($2)
)
INSERT INTO tally_delta (tenant, queue, scheduled, completed, failed, cancelled)
SELECT gone.tenant, gone.queue, -count(*), count(*) FILTER (WHERE s.status = 'COMPLETED'),
    count(*) FILTER (WHERE s.status = 'FAILED'), count(*) FILTER (WHERE s.status = 'CANCELLED')
FROM unnest($2::bigint[], $3::text[]) AS s (id, status) JOIN gone ON gone.id = s.id GROUP BY gone.tenant, gone.queue";

struct FollowUp {
    limit: usize,
    clock: Clock,
}

impl Operation for FollowUp {
    type Output = FollowedUp;

    async fn run(&self, connection: &mut PgConnection) -> Result<FollowedUp, Fault> {
        let any: bool =
            sqlx::query_scalar("SELECT EXISTS (SELECT FROM ended_need)").fetch_one(&mut *connection).await?;
        if !any {
            return Ok(FollowedUp::default());
        }
        let mut transaction = connection.begin().await?;
        let rows = sqlx::query(ENDS).bind(limit(self.limit)).fetch_all(&mut *transaction).await?;
        let mut ends: Vec<i64> = Vec::with_capacity(rows.len());
        let mut ended = BTreeSet::new();
        for row in &rows {
            ends.push(field(row, "id")?);
            ended.insert(field::<i64>(row, "task")?);
        }
        let ended: Vec<i64> = ended.into_iter().collect();
        let mut step = Step { now: self.clock.bind(), done: FollowedUp::default() };
        step.done.seen = ends.len();
        let whole = step.take(&mut transaction, &ended).await?;
        if whole {
            let seen = sqlx::query("DELETE FROM ended_need WHERE id = ANY($1)").bind(ends);
            seen.execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        Ok(step.done)
    }
}

/// What one transaction has done so far.
struct Step {
    now: Option<Timestamp>,
    done: FollowedUp,
}

/// A task that waits for others, under lock.
struct Waiter {
    waits_for: i32,
    counters: Counters,
}

impl Step {
    /// Answers whether all were looked at that these ends concern.
    async fn take(&mut self, connection: &mut PgConnection, ended: &[i64]) -> Result<bool, Fault> {
        let concerned: Vec<i64> = sqlx::query_scalar(CONCERNED)
            .bind(ended)
            .bind(limit(MOST_CONCERNED))
            .fetch_all(&mut *connection)
            .await?;
        let whole = concerned.len() < MOST_CONCERNED;
        let ids = in_lock_order(concerned.into_iter().chain(ended.iter().copied()).map(TaskId));
        sqlx::query(LOCK_TASKS).bind(&ids).execute(&mut *connection).await?;
        let rows = sqlx::query(LOCK_LIVE).bind(&ids).fetch_all(&mut *connection).await?;
        let (mut open, mut waiters) = (BTreeSet::new(), BTreeMap::new());
        for row in &rows {
            let id: i64 = field(row, "id")?;
            open.insert(id);
            if let Some(waits_for) = field::<Option<i32>>(row, "waits_for")? {
                waiters.insert(id, Waiter { waits_for, counters: counters(row)? });
            }
        }
        let (again, over): (Vec<i64>, Vec<i64>) = ended.iter().partition(|id| open.contains(id));
        self.wait_again(connection, &again).await?;
        let mut touched: BTreeSet<i64> = again.into_iter().filter(|id| waiters.contains_key(id)).collect();
        let waiting: Vec<i64> = waiters.keys().copied().collect();
        for row in &sqlx::query(MEET).bind(over).bind(waiting).fetch_all(&mut *connection).await? {
            let id: i64 = field(row, "id")?;
            touched.insert(id);
            if let Some(waiter) = waiters.get_mut(&id) {
                waiter.waits_for = field(row, "waits_for")?;
            }
        }
        waiters.retain(|id, _| touched.contains(id));
        self.judge_all(connection, &waiters).await?;
        Ok(whole)
    }

    /// What has ended and runs again by now is waited for again, if anybody waits.
    async fn wait_again(&self, connection: &mut PgConnection, ids: &[i64]) -> Result<(), Fault> {
        if !ids.is_empty() {
            let mark = "UPDATE live SET awaited = true WHERE id = ANY($1) AND awaited IS NULL
                AND EXISTS (SELECT FROM dependency d WHERE d.needs = live.id)";
            sqlx::query(mark).bind(ids).execute(connection).await?;
        }
        Ok(())
    }

    async fn judge_all(
        &mut self,
        connection: &mut PgConnection,
        waiters: &BTreeMap<i64, Waiter>,
    ) -> Result<(), Fault> {
        if waiters.is_empty() {
            return Ok(());
        }
        let ids: Vec<i64> = waiters.keys().copied().collect();
        let (mut batches, mut chained) = (Vec::new(), Vec::new());
        for row in &sqlx::query(READ).bind(&ids).fetch_all(&mut *connection).await? {
            let id: i64 = field(row, "id")?;
            if is_batch(&rows::name::<TaskType>(row, "task_type")?) {
                batches.push(id);
            } else {
                chained.push((id, needs(row)?, field::<bool>(row, "refers")?));
            }
        }
        let needed =
            in_lock_order(chained.iter().flat_map(|(_, needs, _)| needs.after.iter().map(|need| need.task)));
        let states = states(connection, &needed, false).await?;
        let mut verdicts = Vec::with_capacity(chained.len());
        for (id, needs, refers) in chained {
            let plain = Json::from_stored("null".to_owned());
            let mut verdict = judge(&needs, &plain, &of(&needs, &states));
            if refers && !needs.resolved && verdict == Verdict::Start(None) {
                verdict = resolve(connection, id, &needs).await?;
            }
            verdicts.push((id, verdict));
        }
        self.apply(connection, waiters, verdicts).await?;
        self.come_on(connection, waiters, &batches).await
    }

    async fn apply(
        &mut self,
        connection: &mut PgConnection,
        waiters: &BTreeMap<i64, Waiter>,
        verdicts: Vec<(i64, Verdict)>,
    ) -> Result<(), Fault> {
        let (mut starts, mut ends) = (Vec::new(), Vec::new());
        for (id, verdict) in verdicts {
            let Some(waiter) = waiters.get(&id) else { continue };
            let event = match &verdict {
                Verdict::Wait => continue,
                Verdict::Start(_) => Event::Due,
                Verdict::GiveUp(failure) => Event::GiveUp { failure },
                Verdict::Fail(failure) => Event::Conclude { failure: Some(failure) },
            };
            match decide(State::Scheduled, waiter.counters, event) {
                Ok(Change::BecomePending) => starts.push(id),
                Ok(Change::Finish { end, error, .. }) => ends.push((id, Status::from(end), None, error)),
                other => {
                    return Err(Fault::Unreadable(format!("task {id}: following up would mean {other:?}")));
                }
            }
        }
        if !starts.is_empty() {
            let freed = sqlx::query(RELEASE).bind(self.now).bind(starts).fetch_all(&mut *connection).await?;
            let mut freed = freed.iter().map(rows::waiting).collect::<Result<Vec<_>, _>>()?;
            fair::rank(connection, &mut freed, self.now).await?;
            self.done.released.extend(freed);
        }
        self.end(connection, ends).await
    }

    async fn end(
        &mut self,
        connection: &mut PgConnection,
        ends: Vec<(i64, Status, Option<Json>, Option<Failure>)>,
    ) -> Result<(), Fault> {
        if ends.is_empty() {
            return Ok(());
        }
        sqlx::query(END)
            .bind(self.now)
            .bind(ends.iter().map(|(id, ..)| *id).collect::<Vec<_>>())
            .bind(ends.iter().map(|(_, status, ..)| status.as_str()).collect::<Vec<_>>())
            .bind(ends.iter().map(|(.., result, _)| result.as_ref().map(Json::as_str)).collect::<Vec<_>>())
            .bind(ends.iter().map(|(.., error)| error.as_ref().map(failure_text)).collect::<Vec<_>>())
            .execute(connection)
            .await?;
        self.done.ended.extend(ends.into_iter().map(|(id, status, ..)| (TaskId(id), status)));
        Ok(())
    }

    /// Batches come on, and conclude when all their items have ended.
    async fn come_on(
        &mut self,
        connection: &mut PgConnection,
        waiters: &BTreeMap<i64, Waiter>,
        batches: &[i64],
    ) -> Result<(), Fault> {
        if batches.is_empty() {
            return Ok(());
        }
        let waits_for = |id: &i64| waiters.get(id).map_or(0, |waiter| i64::from(waiter.waits_for));
        let rows = sqlx::query(
            "UPDATE progress SET updated_at = coalesce($1, now()),
                current = greatest(total - ($3::bigint[])[width_bucket(task, $2::bigint[])], 0)
             WHERE task = ANY($2) RETURNING task, current, total",
        )
        .bind(self.now)
        .bind(batches)
        .bind(batches.iter().map(waits_for).collect::<Vec<_>>())
        .fetch_all(&mut *connection)
        .await?;
        for row in &rows {
            let (current, total): (i64, i64) = (field(row, "current")?, field(row, "total")?);
            let progress = Progress::new(current.unsigned_abs(), total.unsigned_abs(), None);
            self.done.progress.push((TaskId(field(row, "task")?), progress));
        }
        let over: Vec<i64> = batches.iter().copied().filter(|id| waits_for(id) <= 0).collect();
        if over.is_empty() {
            return Ok(());
        }
        let counted = count_items(connection, None, &over).await?;
        let mut ends = Vec::with_capacity(over.len());
        for id in over {
            let Some(waiter) = waiters.get(&id) else { continue };
            let (result, failure) = counted.get(&id).copied().unwrap_or_default().conclude();
            let event = Event::Conclude { failure: failure.as_ref() };
            match decide(State::Scheduled, waiter.counters, event) {
                Ok(Change::Finish { end, error, .. }) => ends.push((id, end.into(), Some(result), error)),
                other => {
                    return Err(Fault::Unreadable(format!("batch {id}: concluding it would mean {other:?}")));
                }
            }
        }
        self.end(connection, ends).await
    }
}

/// The column `needs`.
pub(crate) fn needs(row: &PgRow) -> Result<Needs, Fault> {
    let Some(text) = field::<Option<&str>>(row, "needs")? else { return Ok(Needs::default()) };
    Needs::from_text(text).map_err(|error| Fault::Unreadable(format!("needs: {error}")))
}

/// Where needed tasks stand; with their results, if these are wanted.
async fn states(
    connection: &mut PgConnection,
    ids: &[i64],
    with_results: bool,
) -> Result<HashMap<TaskId, NeedState>, Fault> {
    let mut states = HashMap::with_capacity(ids.len());
    if ids.is_empty() {
        return Ok(states);
    }
    for row in &sqlx::query(STATES).bind(ids).bind(with_results).fetch_all(connection).await? {
        let state = match field::<Option<&str>>(row, "status")? {
            Some(_) => {
                let State::Ended(end) = ended_as(rows::status(row, "status")?)? else { continue };
                let result = field::<Option<String>>(row, "result")?.map(Json::from_stored);
                NeedState::Ended { end, error: failure(row)?, result }
            }
            None if field(row, "open")? => NeedState::Open,
            None => NeedState::Gone,
        };
        states.insert(TaskId(field(row, "id")?), state);
    }
    Ok(states)
}

fn of(needs: &Needs, states: &HashMap<TaskId, NeedState>) -> Vec<NeedState> {
    needs.after.iter().map(|need| states.get(&need.task).cloned().unwrap_or(NeedState::Gone)).collect()
}

/// Puts the input together of a task that is about to start: one at a time, since results may be big.
async fn resolve(connection: &mut PgConnection, id: i64, needs: &Needs) -> Result<Verdict, Fault> {
    let input: String = sqlx::query_scalar("SELECT input FROM task WHERE id = $1")
        .bind(id)
        .fetch_one(&mut *connection)
        .await?;
    let needed = in_lock_order(needs.after.iter().map(|need| need.task));
    let states = states(connection, &needed, true).await?;
    let verdict = judge(needs, &Json::from_stored(input), &of(needs, &states));
    if let Verdict::Start(Some(input)) = &verdict {
        let needs = Needs { resolved: true, ..needs.clone() };
        sqlx::query("UPDATE task SET input = $2, needs = $3 WHERE id = $1")
            .bind(id)
            .bind(input.as_str())
            .bind(needs.to_text())
            .execute(connection)
            .await?;
    }
    Ok(verdict)
}

/// How many edges one look goes through.
const AUDIT_PAGE: i64 = 2_000;

/// Needed tasks that have ended without a word: a program that knows of no flows ended them. Reads one page of who waits
/// for whom, and leaves word.
struct AuditEdges {
    after: i64,
}

impl Operation for AuditEdges {
    /// Where the next page begins, and how many were found.
    type Output = (Option<i64>, usize);

    async fn run(&self, connection: &mut PgConnection) -> Result<Self::Output, Fault> {
        let rows = sqlx::query(
            "SELECT d.needs, l.id IS NULL AS over
             FROM (SELECT DISTINCT needs FROM (
                SELECT needs FROM dependency WHERE needs > $1 AND NOT met ORDER BY needs LIMIT $2) page) d
             LEFT JOIN LATERAL (SELECT id FROM live WHERE live.id = d.needs LIMIT 1) l ON true
             ORDER BY d.needs",
        )
        .bind(self.after)
        .bind(AUDIT_PAGE)
        .fetch_all(&mut *connection)
        .await?;
        let (mut last, mut over) = (None, Vec::new());
        for row in &rows {
            let needs: i64 = field(row, "needs")?;
            last = Some(needs);
            if field(row, "over")? {
                over.push(needs);
            }
        }
        if !over.is_empty() {
            tell(connection, &over).await?;
        }
        Ok((last, over.len()))
    }
}

impl PostgresStore {
    pub(crate) async fn follow_up_ends(&self, limit: usize) -> Result<FollowedUp, StoreError> {
        if limit == 0 {
            return Ok(FollowedUp::default());
        }
        let done = self.connections.run(FollowUp { limit, clock: self.clock.clone() }).await?;
        if done.seen > 0 {
            self.tallied();
            // What ended here may be needed itself.
            self.need_ended.notify_one();
            return Ok(done);
        }
        if let Some(after) = self.edge_audit.turn() {
            let (last, found) = self.connections.run(AuditEdges { after }).await?;
            self.edge_audit.go_on_after(last.unwrap_or(i64::MIN));
            if found > 0 {
                self.need_ended.notify_one();
            }
        }
        Ok(done)
    }
}
