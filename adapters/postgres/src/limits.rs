//! What limits let through: claims from a queue with limits go one by one, by the lock of its row in `queue_state`, so that
//! each sees what those before it have started. Queues without limits have no part in this.

use application::ports::{LimitedClaim, LimitedTasks, Patience, StoreError};
use domain::{QueueLimits, QueueName, Suspicion, Timestamp, WorkerId, queue::Room};
use sqlx::PgConnection;

use crate::{PostgresStore, claim::Wanted, clock::Clock, error::Fault, rows::field};

/// The limits that a claim has to pass.
pub(crate) struct Gate {
    queue: QueueName,
    limits: QueueLimits,
}

/// A gate in this transaction's hand.
pub(crate) struct Open<'g> {
    gate: &'g Gate,
    running: u64,
    arrival: Option<Timestamp>,
    /// When it was opened: later than every end that it has seen, which the beginning of the transaction need not be.
    pub(crate) now: Timestamp,
    /// What it lets through.
    pub(crate) room: Room,
}

impl Gate {
    /// Locks it and looks what may pass.
    pub(crate) async fn open(
        &self,
        transaction: &mut PgConnection,
        clock: &Clock,
    ) -> Result<Open<'_>, Fault> {
        let lock = "SELECT rate_arrival FROM queue_state WHERE queue = $1 FOR UPDATE";
        let locked = loop {
            let found = sqlx::query(lock).bind(self.queue.as_str()).fetch_optional(&mut *transaction).await?;
            if let Some(row) = found {
                break row;
            }
            let make = "INSERT INTO queue_state (queue, changed_at) VALUES ($1, coalesce($2, now())) ON CONFLICT DO NOTHING";
            sqlx::query(make).bind(self.queue.as_str()).bind(clock.bind()).execute(&mut *transaction).await?;
        };
        // A statement of its own: it sees all that was committed before the lock was given.
        let state = sqlx::query(
            "SELECT coalesce($2, clock_timestamp()) AS now,
                (SELECT coalesce(sum(processing), 0)::bigint FROM tally_delta WHERE $3 AND queue = $1) AS running",
        )
        .bind(self.queue.as_str())
        .bind(clock.bind())
        .bind(self.limits.max_running.is_some())
        .fetch_one(transaction)
        .await?;
        let (arrival, now): (Option<Timestamp>, Timestamp) =
            (field(&locked, "rate_arrival")?, field(&state, "now")?);
        let running = u64::try_from(field::<i64>(&state, "running")?).unwrap_or(0);
        let room = self.limits.room(running, arrival, now);
        Ok(Open { gate: self, running, arrival, now, room })
    }
}

impl Open<'_> {
    /// Keeps that so many have passed, and answers what is left.
    pub(crate) async fn passed(self, transaction: &mut PgConnection, count: usize) -> Result<Room, Fault> {
        let Gate { queue, limits } = self.gate;
        let mut arrival = self.arrival;
        if let Some(rate) = limits.rate.filter(|_| count > 0) {
            let passed = u32::try_from(count).unwrap_or(u32::MAX);
            arrival = Some(rate.arrival_after(arrival, self.now, passed));
            sqlx::query("UPDATE queue_state SET rate_arrival = $2 WHERE queue = $1")
                .bind(queue.as_str())
                .bind(arrival)
                .execute(transaction)
                .await?;
        }
        let running = self.running.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        Ok(limits.room(running, arrival, self.now))
    }
}

impl PostgresStore {
    pub(crate) async fn claim_within_limits(
        &self,
        worker: WorkerId,
        claim: &LimitedClaim,
    ) -> Result<LimitedTasks, StoreError> {
        let LimitedClaim { queue, limits, suspicion, limit } = claim.clone();
        let gate = Gate { queue: queue.clone(), limits };
        let (wanted, scan) = match suspicion {
            Suspicion::None => {
                let (scan, behind) = self.claim_marks.begin([&queue], Patience::Any);
                (Wanted::Next { queues: vec![(queue, limit)], limit, behind }, Some(scan))
            }
            degree => (Wanted::Suspects { queues: vec![queue], suspicion: degree, limit }, None),
        };
        let (mut tasks, room) = self.take_tasks(worker, wanted, Some(gate), scan).await?;
        tasks.sort_by_key(|task| (task.priority, task.id));
        Ok(LimitedTasks { tasks, wait: room.and_then(|room| room.wait) })
    }
}
