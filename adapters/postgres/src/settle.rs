//! Settlements: what becomes of attempts, applied where the worker still holds them.
//!
//! A batch takes one statement for the tasks that have plainly completed, one for those that end in another way, and one
//! for those that wait again. Each begins with the rows that the worker holds, in the order of ids, and changes nothing
//! else: the fence is (task, attempt, worker).

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use application::ports::{Applied, Settlement, StoreError};
use domain::{AttemptOutcome, Change, End, Status, TaskId, WorkerId};
use sqlx::{Connection, PgConnection, postgres::PgRow};
use tokio::sync::Notify;

use crate::{
    PostgresStore,
    clock::Clock,
    connections::Operation,
    error::Fault,
    rows::{count, failure_text, field, integer, interval, lane},
    usage,
};

/// Deletes first, which is lock and fence in one: the attempt that each row has to be at stands at the place of its id
/// among the ids, which are in order.
macro_rules! end_tasks {
    ($($part:literal),+) => {
        concat!(
            "WITH gone AS (
                DELETE FROM live
                WHERE id = ANY($4) AND worker = $1 AND attempt = ($5::integer[])[width_bucket(id, $4::bigint[])]
                RETURNING id, attempt, tenant, queue, started_at, forgiven_failures, forgiven_crashes, awaited
            ), told AS (
                INSERT INTO ended_need (task) SELECT id FROM gone WHERE awaited RETURNING task
            ), done AS (
                DELETE FROM claim_batch WHERE id = ANY($3)
            ), ",
            $($part),+
        )
    };
}

/// What nearly every task comes to: it has completed, with a result and nothing more to say. Less is sent than by
/// [`FINISH`], and nothing is kept in between. The full join is there for the planner: it takes no nested loop for one.
pub(crate) const COMPLETE: &str = end_tasks!(
    "ended AS (
        INSERT INTO outcome (task, worker, started_at, ended_at, attempt, failures, crashes, forgiven_failures,
            forgiven_crashes, status, attempt_outcome, result)
        SELECT gone.id, $1, gone.started_at, coalesce($2, now()), gone.attempt, s.failures, s.crashes,
            gone.forgiven_failures, gone.forgiven_crashes, 'COMPLETED', 'COMPLETED', s.result
        FROM unnest($4::bigint[], $5::integer[], $6::integer[], $7::integer[], $8::text[])
            AS s (task, attempt, failures, crashes, result)
        FULL JOIN gone ON gone.id = s.task AND gone.attempt = s.attempt
        WHERE (gone.id IS NULL) IS FALSE
    ), tallied AS (
        INSERT INTO tally_delta (tenant, queue, processing, completed)
        SELECT tenant, queue, -count(*), count(*) FROM gone GROUP BY tenant, queue
    )
    SELECT id AS task, attempt, false AS refused, EXISTS (SELECT FROM told) AS told FROM gone"
);

/// Whatever else ends a task.
pub(crate) const FINISH: &str = end_tasks!(
    "held AS MATERIALIZED (
        SELECT s.*, gone.tenant, gone.queue, gone.started_at, gone.forgiven_failures, gone.forgiven_crashes
        FROM unnest($4::bigint[], $5::integer[], $6::integer[], $7::integer[], $8::text[], $9::text[], $10::text[],
            $11::text[], $12::text[])
            AS s (task, attempt, failures, crashes, result, details, error, status, attempt_outcome)
        FULL JOIN gone ON gone.id = s.task AND gone.attempt = s.attempt
        WHERE (gone.id IS NULL) IS FALSE
    ), ended AS (
        INSERT INTO outcome (task, worker, started_at, ended_at, attempt, failures, crashes, forgiven_failures,
            forgiven_crashes, status, attempt_outcome, result, details, error)
        SELECT task, $1, started_at, coalesce($2, now()), attempt, failures, crashes, forgiven_failures,
            forgiven_crashes, status, attempt_outcome, result, details, error
        FROM held
    ), tallied AS (
        INSERT INTO tally_delta (tenant, queue, processing, completed, failed, cancelled, expired)
        SELECT tenant, queue, -count(*), count(*) FILTER (WHERE status = 'COMPLETED'),
            count(*) FILTER (WHERE status = 'FAILED'), count(*) FILTER (WHERE status = 'CANCELLED'),
            count(*) FILTER (WHERE status = 'EXPIRED')
        FROM held GROUP BY tenant, queue
    )
    SELECT task, attempt, false AS refused, EXISTS (SELECT FROM told) AS told FROM held"
);

pub(crate) const WAIT: &str = "
WITH held AS MATERIALIZED (
    SELECT s.*, l.tenant, l.queue, l.started_at, l.cancel_requested AND NOT s.knew_of_cancel AS refused
    FROM unnest($4::bigint[], $5::integer[], $6::interval[], $7::integer[], $8::integer[], $9::integer[],
        $10::text[], $11::text[], $12::boolean[])
        AS s (task, attempt, after, failures, crashes, lane, outcome, error, knew_of_cancel)
    CROSS JOIN LATERAL (
        SELECT tenant, queue, started_at, cancel_requested FROM live
        WHERE live.id = s.task AND live.attempt = s.attempt AND live.worker = $1 FOR UPDATE
    ) l
), back AS (
    UPDATE live SET worker = NULL, ready = held.after = interval '0',
        due_at = CASE WHEN held.after > interval '0' THEN coalesce($2, now()) + held.after END,
        failures = held.failures, crashes = held.crashes, lane = held.lane, cancel_requested = false,
        error = held.error, changed_at = coalesce($2, now())
    FROM held WHERE live.id = held.task AND NOT held.refused
), kept AS (
    INSERT INTO attempt (task, worker, started_at, ended_at, attempt, outcome, error)
    SELECT task, $1, started_at, coalesce($2, now()), attempt, outcome, error FROM held WHERE NOT refused
), tallied AS (
    INSERT INTO tally_delta (tenant, queue, processing, pending, scheduled)
    SELECT tenant, queue, -count(*), count(*) FILTER (WHERE after = interval '0'),
        count(*) FILTER (WHERE after > interval '0')
    FROM held WHERE NOT refused GROUP BY tenant, queue
), done AS (
    DELETE FROM claim_batch WHERE id = ANY($3)
)
SELECT task, attempt, refused FROM held";

/// Which statement applies a settlement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Complete,
    Finish,
    Wait,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Complete, Self::Finish, Self::Wait];

    /// `None` for changes that end no attempt.
    fn of(settlement: &Settlement) -> Option<Self> {
        let plain = settlement.result.is_some() && settlement.details.is_none();
        match &settlement.change {
            Change::Finish { end: End::Completed, error: None, .. } if plain => Some(Self::Complete),
            Change::Finish { .. } => Some(Self::Finish),
            Change::Wait { .. } => Some(Self::Wait),
            Change::BecomePending | Change::Start | Change::RequestCancel | Change::Reopen { .. } => None,
        }
    }
}

/// Settlements of one kind.
struct Settle {
    worker: WorkerId,
    settlements: Arc<[Settlement]>,
    /// Which of them, in the order of ids.
    places: Vec<usize>,
    kind: Kind,
    done: Vec<i64>,
    clock: Clock,
    /// Told when one has ended that others wait for.
    need_ended: Arc<Notify>,
}

impl Operation for Settle {
    type Output = Vec<(TaskId, u32, Applied)>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Self::Output, Fault> {
        let settlements: Vec<&Settlement> = self.places.iter().map(|at| &self.settlements[*at]).collect();
        let tasks: Vec<_> = settlements.iter().map(|settlement| settlement.task.0).collect();
        let attempts: Vec<_> = settlements.iter().map(|settlement| integer(settlement.attempt)).collect();
        let sql = match self.kind {
            Kind::Complete => COMPLETE,
            Kind::Finish => FINISH,
            Kind::Wait => WAIT,
        };
        let query = sqlx::query(sql).bind(self.worker.0).bind(self.clock.bind()).bind(&self.done);
        let query = query.bind(tasks).bind(attempts);

        let (mut failures, mut crashes, mut errors) = (Vec::new(), Vec::new(), Vec::new());
        let (mut statuses, mut outcomes) = (Vec::new(), Vec::new());
        let (mut waits, mut lanes) = (Vec::new(), Vec::new());
        for settlement in &settlements {
            let (counters, error) = match &settlement.change {
                Change::Finish { end, counters, error } => {
                    statuses.push(Status::from(*end).as_str());
                    (counters, error)
                }
                Change::Wait { after, counters, outcome: _, error } => {
                    waits.push(interval(*after));
                    lanes.push(lane(counters.suspicion()));
                    (counters, error)
                }
                // Of no kind.
                Change::BecomePending | Change::Start | Change::RequestCancel | Change::Reopen { .. } => {
                    continue;
                }
            };
            failures.push(integer(counters.failures));
            crashes.push(integer(counters.crashes));
            errors.push(error.as_ref().map(failure_text));
            outcomes.push(settlement.change.attempt_outcome().map(AttemptOutcome::as_str));
        }
        let query = match self.kind {
            Kind::Complete | Kind::Finish => {
                let results: Vec<_> =
                    settlements.iter().map(|s| s.result.as_ref().map(|json| json.as_str())).collect();
                let query = query.bind(failures).bind(crashes).bind(results);
                if self.kind == Kind::Complete {
                    query
                } else {
                    let details: Vec<_> =
                        settlements.iter().map(|s| s.details.as_ref().map(|json| json.as_str())).collect();
                    query.bind(details).bind(errors).bind(statuses).bind(outcomes)
                }
            }
            Kind::Wait => {
                let knew: Vec<_> = settlements.iter().map(|settlement| settlement.knew_of_cancel).collect();
                let query = query.bind(waits).bind(failures).bind(crashes).bind(lanes);
                query.bind(outcomes).bind(errors).bind(knew)
            }
        };
        let (applied, told) = if settlements.iter().all(|settlement| settlement.calls.is_empty()) {
            self.read(&query.fetch_all(connection).await?)?
        } else {
            let mut transaction = connection.begin().await?;
            let (applied, told) = self.read(&query.fetch_all(&mut *transaction).await?)?;
            usage::keep(&mut transaction, &settlements, &applied, &self.clock).await?;
            transaction.commit().await?;
            (applied, told)
        };
        // Only now: whoever is woken has to see what has ended.
        if told {
            self.need_ended.notify_one();
        }
        Ok(applied)
    }
}

impl Settle {
    /// What was applied, and whether others wait for the end of one of them.
    fn read(&self, rows: &[PgRow]) -> Result<(<Self as Operation>::Output, bool), Fault> {
        let told = match rows.first() {
            Some(row) if self.kind != Kind::Wait => field(row, "told")?,
            _ => false,
        };
        let applied = rows.iter().map(|row| {
            let refused: bool = field(row, "refused")?;
            let applied = if refused { Applied::CancelRequested } else { Applied::Yes };
            Ok((TaskId(field(row, "task")?), count(row, "attempt")?, applied))
        });
        Ok((applied.collect::<Result<_, Fault>>()?, told))
    }
}

/// Which of these settlements had been applied before: the answer to them was lost.
struct AppliedBefore {
    worker: WorkerId,
    settlements: Arc<[Settlement]>,
    places: Vec<usize>,
}

impl Operation for AppliedBefore {
    type Output = HashSet<usize>;

    async fn run(&self, connection: &mut PgConnection) -> Result<HashSet<usize>, Fault> {
        let tasks: Vec<_> = self.places.iter().map(|at| self.settlements[*at].task.0).collect();
        let rows = sqlx::query(
            "SELECT task, attempt, attempt_outcome AS verdict FROM outcome WHERE task = ANY($1) AND worker = $2
             UNION ALL
             SELECT task, attempt, outcome AS verdict FROM attempt WHERE task = ANY($1) AND worker = $2",
        )
        .bind(tasks)
        .bind(self.worker.0)
        .fetch_all(connection)
        .await?;
        let mut kept = HashSet::new();
        for row in &rows {
            kept.insert((
                field::<i64>(row, "task")?,
                field::<i32>(row, "attempt")?,
                field::<Option<String>>(row, "verdict")?,
            ));
        }
        let holds = |settlement: &Settlement| {
            // A task that was run again since has the record of the attempt, where its outcome was.
            let Some(verdict) = settlement.change.attempt_outcome() else { return false };
            let verdict = Some(verdict.as_str().to_owned());
            kept.contains(&(settlement.task.0, integer(settlement.attempt), verdict))
        };
        Ok(self.places.iter().copied().filter(|at| holds(&self.settlements[*at])).collect())
    }
}

impl PostgresStore {
    pub(crate) async fn settle_attempts(
        &self,
        worker: WorkerId,
        settlements: &[Settlement],
    ) -> Result<Vec<Applied>, StoreError> {
        let settlements: Arc<[Settlement]> = settlements.into();
        let mut answers = vec![None; settlements.len()];
        // The same attempt twice in one call: the first one counts, the other is looked up afterwards.
        let mut places = HashMap::with_capacity(settlements.len());
        for (place, settlement) in settlements.iter().enumerate() {
            places.entry((settlement.task, settlement.attempt)).or_insert(place);
        }
        for kind in Kind::ALL {
            let of_kind = |place: &usize| Kind::of(&settlements[*place]) == Some(kind);
            let mut batch: Vec<_> = places.values().copied().filter(of_kind).collect();
            if batch.is_empty() {
                continue;
            }
            batch.sort_unstable_by_key(|place| (settlements[*place].task, settlements[*place].attempt));
            for (task, attempt, applied) in self.apply(worker, &settlements, batch, kind).await? {
                if let Some(place) = places.get(&(task, attempt)) {
                    answers[*place] = Some(applied);
                }
            }
        }
        let unanswered: Vec<_> = (0..answers.len()).filter(|place| answers[*place].is_none()).collect();
        if !unanswered.is_empty() {
            let (settlements, places) = (Arc::clone(&settlements), unanswered.clone());
            let before = self.connections.run(AppliedBefore { worker, settlements, places }).await?;
            for place in unanswered {
                answers[place] = Some(if before.contains(&place) { Applied::Yes } else { Applied::Stale });
            }
        }
        let answers: Vec<_> = answers.into_iter().map(|answer| answer.unwrap_or(Applied::Stale)).collect();
        if let Some(ledger) = self.ledgers.get(worker) {
            let over =
                settlements.iter().zip(&answers).filter(|(_, answer)| **answer != Applied::CancelRequested);
            ledger.settled(over.map(|(settlement, _)| (settlement.task, settlement.attempt)));
        }
        Ok(answers)
    }

    /// One statement; where the database refuses a value in it, one for each settlement, so that a single bad one does
    /// not hold up the others. What is left out of the answer was not held.
    async fn apply(
        &self,
        worker: WorkerId,
        settlements: &Arc<[Settlement]>,
        places: Vec<usize>,
        kind: Kind,
    ) -> Result<Vec<(TaskId, u32, Applied)>, StoreError> {
        self.tallied();
        let ledger = self.ledgers.get(worker);
        let done = ledger.as_ref().map(|ledger| ledger.take_done()).unwrap_or_default();
        let settle = |places, done| {
            let (settlements, clock) = (Arc::clone(settlements), self.clock.clone());
            let need_ended = Arc::clone(&self.need_ended);
            Settle { worker, settlements, places, kind, done, clock, need_ended }
        };
        let outcome = self.connections.attempt(settle(places.clone(), done.clone())).await;
        if let (Some(ledger), false) = (ledger, matches!(outcome, Ok(Ok(_)))) {
            ledger.put_back_done(done);
        }
        let fault = match outcome? {
            Ok(applied) => return Ok(applied),
            Err(fault) if fault.is_refusal() && places.len() > 1 => fault,
            Err(fault) => return Err(fault.into()),
        };
        tracing::warn!(
            ?fault,
            settlements = places.len(),
            "a batch of settlements was refused; settling one by one"
        );
        let (mut applied, mut refused) = (Vec::new(), None);
        for place in places {
            match self.connections.attempt(settle(vec![place], Vec::new())).await? {
                Ok(one) => applied.extend(one),
                Err(fault) => refused = refused.or(Some(fault)),
            }
        }
        // What was applied stays so: when the batch is sent again, it is found to have been.
        refused.map_or(Ok(applied), |fault| Err(fault.into()))
    }
}
