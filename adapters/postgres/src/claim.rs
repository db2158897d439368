//! Claims: waiting tasks come into a worker's hand.
//!
//! A claim changes no index ("heap-only"), and leaves one row in `claim_batch` by which the tasks are found should the
//! worker die. It holds the worker's row `FOR KEY SHARE`: a burial waits for it, and a claim that comes after a burial
//! finds nobody to claim for. Heartbeats are not in its way.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use application::ports::{Claim, ClaimedTask, Patience, Settlement, StoreError};
use domain::{
    Change, Counters, End, Event, Failure, Json, QueueName, Rank, State, Suspicion, TaskId, Timestamp,
    WorkerId, decide, queue::Room,
};
use sqlx::{Connection, PgConnection, postgres::PgRow};
use tokio::{sync::OwnedRwLockReadGuard, time::Instant};

use crate::{
    PostgresStore,
    clock::Clock,
    connections::Operation,
    error::Fault,
    ledger::Ledger,
    limits::Gate,
    marks::Scan,
    rows::{self, counters, field, in_lock_order, lane, limit},
};

/// A claim of the rows of `live` that `$chosen` says and that wait in `$lane`, by worker `$1` at `$2`. `IS TRUE` hides
/// from the planner that the index of waiting tasks would do: on an empty table, which is where the first workers of an
/// installation prepare this, it looks as good as the primary key, and reads all that waits.
macro_rules! claim_tasks {
    ($before:literal, $chosen:literal, $lane:literal) => {
        concat!(
            "WITH me AS MATERIALIZED (
                SELECT id FROM worker WHERE id = $1 AND dead_at IS NULL AND retired_at IS NULL FOR KEY SHARE
            ), ",
            $before,
            "taken AS (
                UPDATE live SET worker = $1, attempt = attempt + 1,
                    started_at = coalesce($2, now()), changed_at = coalesce($2, now())
                WHERE id = ANY(",
            $chosen,
            ") AND (ready AND worker IS NULL AND lane = ",
            $lane,
            ") IS TRUE AND EXISTS (SELECT FROM me)
                RETURNING id, tenant, queue, priority, coalesce(rank, id) AS rank, attempt, failures, crashes,
                    forgiven_failures, forgiven_crashes, started_at
            ), batch AS (
                INSERT INTO claim_batch (worker, ids) SELECT $1, array_agg(id) FROM taken HAVING count(*) > 0 RETURNING id
            ), tallied AS (
                INSERT INTO tally_delta (tenant, queue, pending, processing)
                SELECT tenant, queue, -count(*), count(*) FROM taken GROUP BY tenant, queue
            )
            SELECT (SELECT id FROM batch) AS batch, taken.*,
                t.task_type, t.input, t.max_attempts, t.soft_time_limit, t.time_limit, t.retry, t.fairness_key, t.created_at
            FROM taken LEFT JOIN LATERAL (
                SELECT task_type, input, max_attempts, soft_time_limit, time_limit, retry, fairness_key, created_at
                FROM task WHERE task.id = taken.id LIMIT 1
            ) t ON true"
        )
    };
}

pub(crate) const CLAIM_IDS: &str = claim_tasks!("", "$3", "0");

/// Of each queue (`$3`, at most `$4`) the first in order, and of all these the first `$5`. They are locked where they
/// are found, so that claims that run at the same time take different tasks. Each priority of each queue is read from
/// behind a rank on (`$6`, see [`crate::marks`]); that is written so that only the index of waiting tasks can be its path.
pub(crate) const CLAIM_NEXT: &str = claim_tasks!(
    "chosen AS MATERIALIZED (
        SELECT id FROM (
            SELECT c.id, c.priority, q.place,
                row_number() OVER (PARTITION BY q.place, c.priority ORDER BY c.rank) AS turn
            FROM unnest($3::text[], $4::bigint[]) WITH ORDINALITY AS q (queue, most, place)
            CROSS JOIN LATERAL (
                SELECT found.id, found.priority, found.rank
                FROM generate_series(0, 9) AS level
                CROSS JOIN LATERAL (
                    SELECT id, priority, coalesce(live.rank, live.id) AS rank FROM live
                    WHERE live.queue = q.queue AND live.lane = 0 AND live.ready AND live.worker IS NULL
                        AND (live.priority, coalesce(live.rank, live.id))
                            > (level::smallint, ($6::bigint[])[(q.place - 1) * 10 + level + 1])
                        AND live.priority <= level::smallint
                    ORDER BY live.priority, coalesce(live.rank, live.id) FOR UPDATE SKIP LOCKED
                ) found
                LIMIT q.most
            ) c
            WHERE EXISTS (SELECT FROM me)
        ) candidate
        ORDER BY priority, turn, place LIMIT $5
    ), ",
    "ARRAY(SELECT id FROM chosen)",
    "0"
);

/// The first `$4` suspects over these queues (`$3`) in the lane `$5`.
pub(crate) const CLAIM_SUSPECTS: &str = claim_tasks!(
    "chosen AS MATERIALIZED (
        SELECT id FROM (
            SELECT c.id, c.priority, c.rank
            FROM unnest($3::text[]) AS q (queue)
            CROSS JOIN LATERAL (
                SELECT id, priority, coalesce(live.rank, live.id) AS rank FROM live
                WHERE live.queue = q.queue AND live.lane = $5 AND live.ready AND live.worker IS NULL
                ORDER BY live.priority, coalesce(live.rank, live.id) LIMIT $4 FOR UPDATE SKIP LOCKED
            ) c
            WHERE EXISTS (SELECT FROM me)
        ) candidate
        ORDER BY priority, rank LIMIT $4
    ), ",
    "ARRAY(SELECT id FROM chosen)",
    "$5"
);

/// What one claim took.
struct Taken {
    batch: Option<i64>,
    tasks: Vec<ClaimedTask>,
    /// What the limits leave, where there are some.
    room: Option<Room>,
    unreadable: Vec<(TaskId, Counters, String)>,
}

/// What a claim is about.
pub(crate) enum Wanted {
    Ids(Vec<i64>),
    Next {
        queues: Vec<(QueueName, usize)>,
        limit: usize,
        /// By queue and priority.
        behind: Vec<i64>,
    },
    /// Each queue once.
    Suspects {
        queues: Vec<QueueName>,
        suspicion: Suspicion,
        limit: usize,
    },
}

impl Wanted {
    fn is_nothing(&self) -> bool {
        match self {
            Self::Ids(ids) => ids.is_empty(),
            Self::Next { queues, limit, .. } => queues.is_empty() || *limit == 0,
            Self::Suspects { queues, suspicion, limit } => {
                queues.is_empty() || *limit == 0 || *suspicion == Suspicion::None
            }
        }
    }
}

struct TakeTasks {
    worker: WorkerId,
    wanted: Wanted,
    gate: Option<Gate>,
    clock: Clock,
    /// Held by the work and by the caller that will note it, whichever lives longer: see [`Ledger::claims`].
    _on_its_way: Arc<OwnedRwLockReadGuard<()>>,
}

impl Operation for TakeTasks {
    type Output = Taken;

    async fn run(&self, connection: &mut PgConnection) -> Result<Taken, Fault> {
        let Some(gate) = &self.gate else {
            return self.take(connection, usize::MAX, self.clock.bind()).await;
        };
        let mut transaction = connection.begin().await?;
        let open = gate.open(&mut transaction, &self.clock).await?;
        let room = Some(open.room);
        if open.room.tasks == 0 {
            transaction.rollback().await?;
            return Ok(Taken { batch: None, tasks: Vec::new(), room, unreadable: Vec::new() });
        }
        let mut taken = self.take(&mut transaction, open.room.tasks, Some(open.now)).await?;
        let count = taken.tasks.len() + taken.unreadable.len();
        taken.room = Some(open.passed(&mut transaction, count).await?);
        transaction.commit().await?;
        Ok(taken)
    }
}

impl TakeTasks {
    /// Takes what is wanted, at most so many where there are limits.
    async fn take(
        &self,
        connection: &mut PgConnection,
        room: usize,
        now: Option<Timestamp>,
    ) -> Result<Taken, Fault> {
        let rows = match &self.wanted {
            Wanted::Ids(ids) => {
                let query = sqlx::query(CLAIM_IDS).bind(self.worker.0).bind(now).bind(ids);
                query.fetch_all(connection).await?
            }
            Wanted::Next { queues, limit: most, behind } => {
                let most = room.min(*most);
                let names: Vec<_> = queues.iter().map(|(queue, _)| queue.as_str()).collect();
                let each: Vec<_> = queues.iter().map(|(_, each)| limit((*each).min(most))).collect();
                let query = sqlx::query(CLAIM_NEXT).bind(self.worker.0).bind(now);
                query.bind(names).bind(each).bind(limit(most)).bind(behind).fetch_all(connection).await?
            }
            Wanted::Suspects { queues, suspicion, limit: most } => {
                let names: Vec<_> = queues.iter().map(QueueName::as_str).collect();
                let query = sqlx::query(CLAIM_SUSPECTS).bind(self.worker.0).bind(now);
                let most = limit(room.min(*most));
                query.bind(names).bind(most).bind(lane(*suspicion)).fetch_all(connection).await?
            }
        };
        let tasks = Vec::with_capacity(rows.len());
        let mut taken = Taken { batch: None, tasks, room: None, unreadable: Vec::new() };
        for row in &rows {
            taken.batch = field(row, "batch")?;
            match claimed_task(row, taken.tasks.last()) {
                Ok(task) => taken.tasks.push(task),
                Err(fault) => {
                    let why = StoreError::from(fault).to_string();
                    taken.unreadable.push((TaskId(field(row, "id")?), counters(row)?, why));
                }
            }
        }
        Ok(taken)
    }
}

/// Most of a batch share their names with the one before: these are kept once.
fn claimed_task(row: &PgRow, before: Option<&ClaimedTask>) -> Result<ClaimedTask, Fault> {
    if field::<Option<&str>>(row, "task_type")?.is_none() {
        return Err(Fault::Unreadable("its submission is missing".into()));
    }
    Ok(ClaimedTask {
        id: TaskId(field(row, "id")?),
        tenant: rows::name_like(row, "tenant", before.map(|task| &task.tenant))?,
        task_type: rows::name_like(row, "task_type", before.map(|task| &task.task_type))?,
        queue: rows::name_like(row, "queue", before.map(|task| &task.queue))?,
        priority: rows::priority(row)?,
        rank: Rank(field(row, "rank")?),
        fairness_key: rows::fairness_key(row)?,
        input: Json::from_stored(field(row, "input")?),
        limits: rows::limits(row)?,
        retry: rows::retry(row)?.map(Box::new),
        counters: counters(row)?,
        created_at: field(row, "created_at")?,
        started_at: field(row, "started_at")?,
    })
}

impl PostgresStore {
    pub(crate) async fn claim_tasks(
        &self,
        worker: WorkerId,
        claim: &Claim,
    ) -> Result<Vec<ClaimedTask>, StoreError> {
        let mut scan = None;
        let wanted = match claim {
            Claim::Ids(ids) => Wanted::Ids(in_lock_order(ids.iter().copied())),
            Claim::Next { queues, limit, patience } => {
                let mut queues = self.turns.order(queues);
                if *patience == Patience::Little {
                    queues.retain(|(queue, _)| self.claim_marks.lets_look_soon(queue));
                }
                let (begun, behind) =
                    self.claim_marks.begin(queues.iter().map(|(queue, _)| queue), *patience);
                scan = Some(begun);
                Wanted::Next { queues, limit: *limit, behind }
            }
            Claim::Suspects { queues, suspicion, limit } => {
                let queues: BTreeSet<_> = queues.iter().cloned().collect();
                Wanted::Suspects {
                    queues: queues.into_iter().collect(),
                    suspicion: *suspicion,
                    limit: *limit,
                }
            }
        };
        let (mut tasks, _) = self.take_tasks(worker, wanted, None, scan).await?;
        match claim {
            Claim::Ids(ids) => {
                let place: HashMap<_, _> =
                    ids.iter().enumerate().rev().map(|(place, id)| (*id, place)).collect();
                tasks.sort_by_key(|task| place.get(&task.id).copied());
            }
            Claim::Next { .. } => self.turns.sort_and_note(&mut tasks),
            Claim::Suspects { .. } => tasks.sort_by_key(|task| (task.priority, task.rank)),
        }
        Ok(tasks)
    }

    /// Takes what is wanted, as far as it passes the gate, and answers it in no order, with what the gate leaves.
    pub(crate) async fn take_tasks(
        &self,
        worker: WorkerId,
        wanted: Wanted,
        gate: Option<Gate>,
        scan: Option<Scan<'_>>,
    ) -> Result<(Vec<ClaimedTask>, Option<Room>), StoreError> {
        if wanted.is_nothing() {
            return Ok((Vec::new(), None));
        }
        let ledger = self.ledgers.of(worker);
        if ledger.in_doubt() {
            self.release_lost_claims(worker, &ledger).await?;
        }
        self.tallied();
        let doubt = ledger.doubt(self.connections.doubt());
        let on_its_way = Arc::new(ledger.claims.clone().read_owned().await);
        let clock = self.clock.clone();
        let operation = TakeTasks { worker, wanted, gate, clock, _on_its_way: on_its_way.clone() };
        let Taken { batch, tasks, room, unreadable } = self.connections.run(operation).await?;
        if let Some(batch) = batch {
            let read = tasks.iter().map(|task| (task.id, task.counters.attempt));
            let unread = unreadable.iter().map(|(id, counters, _)| (*id, counters.attempt));
            ledger.note(batch, read.chain(unread));
        }
        if let Some(scan) = scan {
            // Another lane's task may have the same rank.
            let behind = |task: &ClaimedTask| Rank(task.rank.0 - 1);
            scan.end(tasks.len(), tasks.iter().map(|task| (&task.queue, task.priority, behind(task))));
        }
        self.clocks.note(&tasks);
        doubt.settled();
        drop(on_its_way);
        if !unreadable.is_empty() {
            self.fail_unreadable(worker, unreadable).await?;
        }
        Ok((tasks, room))
    }

    /// A task that cannot be read would come back for ever and stop its queue: it fails, and says why.
    async fn fail_unreadable(
        &self,
        worker: WorkerId,
        unreadable: Vec<(TaskId, Counters, String)>,
    ) -> Result<(), StoreError> {
        let settlements: Vec<_> = unreadable
            .into_iter()
            .map(|(task, counters, why)| {
                tracing::error!(%task, %why, "a task cannot be read and fails");
                let error = Some(Failure::permanent("unreadable", why));
                let change = Change::Finish { end: End::Failed, counters, error };
                let attempt = counters.attempt;
                Settlement {
                    task,
                    attempt,
                    change,
                    result: None,
                    details: None,
                    calls: Vec::new(),
                    knew_of_cancel: true,
                }
            })
            .collect();
        self.settle_attempts(worker, &settlements).await.map(drop)
    }

    /// Gives back what a claim took whose answer never arrived: the worker does not know that it holds these.
    pub(crate) async fn release_lost_claims(
        &self,
        worker: WorkerId,
        ledger: &Arc<Ledger>,
    ) -> Result<(), StoreError> {
        // Not while a claim is on its way, whose batch is not known yet; there will be another look.
        let Ok(_alone) = ledger.claims.try_write() else { return Ok(()) };
        let began = Instant::now();
        let lost = self.connections.run(LostClaims { worker, known: ledger.known() }).await?;
        let settlements: Vec<_> = lost
            .into_iter()
            .filter_map(|(task, counters, cancel_requested)| {
                let change = decide(State::Processing { cancel_requested }, counters, Event::Release).ok()?;
                let attempt = counters.attempt;
                Some(Settlement {
                    task,
                    attempt,
                    change,
                    result: None,
                    details: None,
                    calls: Vec::new(),
                    knew_of_cancel: cancel_requested,
                })
            })
            .collect();
        if !settlements.is_empty() {
            tracing::warn!(%worker, tasks = settlements.len(), "a claim's answer was lost; its tasks are released");
            self.settle_attempts(worker, &settlements).await?;
        }
        ledger.looked(began);
        Ok(())
    }
}

/// What the worker holds by batches that it does not know.
struct LostClaims {
    worker: WorkerId,
    known: Vec<i64>,
}

impl Operation for LostClaims {
    type Output = Vec<(TaskId, Counters, bool)>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Self::Output, Fault> {
        let rows = sqlx::query(
            "SELECT l.* FROM claim_batch b CROSS JOIN LATERAL unnest(b.ids) AS taken (id)
             CROSS JOIN LATERAL (
                SELECT id, attempt, failures, crashes, forgiven_failures, forgiven_crashes, cancel_requested FROM live
                WHERE live.id = taken.id AND live.worker = $1 LIMIT 1
             ) l
             WHERE b.worker = $1 AND NOT b.id = ANY($2)",
        )
        .bind(self.worker.0)
        .bind(&self.known)
        .fetch_all(connection)
        .await?;
        rows.iter()
            .map(|row| Ok((TaskId(field(row, "id")?), counters(row)?, field(row, "cancel_requested")?)))
            .collect()
    }
}

/// Whose turn it is among queues whose first tasks are equally urgent: the one that was served the longest ago.
#[derive(Debug, Default)]
pub(crate) struct Turns(Mutex<Served>);

#[derive(Debug, Default)]
struct Served {
    last: HashMap<QueueName, u64>,
    count: u64,
}

impl Turns {
    /// The queues in the order of their turns, each once.
    fn order(&self, queues: &[(QueueName, usize)]) -> Vec<(QueueName, usize)> {
        let served = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ordered: Vec<(QueueName, usize)> = Vec::with_capacity(queues.len());
        for (queue, most) in queues.iter().filter(|(_, most)| *most > 0) {
            if !ordered.iter().any(|(known, _)| known == queue) {
                ordered.push((queue.clone(), *most));
            }
        }
        ordered.sort_by_key(|(queue, _)| served.last.get(queue).copied().unwrap_or(0));
        ordered
    }

    /// Puts what was taken in order, and notes who was served.
    fn sort_and_note(&self, tasks: &mut [ClaimedTask]) {
        let mut served = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.sort_by(|a, b| (&a.queue, a.priority, a.rank).cmp(&(&b.queue, b.priority, b.rank)));
        let (mut turn, mut group) = (0, None);
        let mut turns = HashMap::with_capacity(tasks.len());
        for task in tasks.iter() {
            let this = Some((task.queue.clone(), task.priority));
            turn = if group == this { turn + 1 } else { 0 };
            group = this;
            turns.insert(task.id, turn);
        }
        let place = |task: &ClaimedTask| served.last.get(&task.queue).copied().unwrap_or(0);
        tasks.sort_by_cached_key(|task| (task.priority, turns[&task.id], place(task), task.id));
        for task in tasks.iter() {
            served.count += 1;
            let now = served.count;
            served.last.insert(task.queue.clone(), now);
        }
    }
}
