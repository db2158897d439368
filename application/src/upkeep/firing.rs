//! Firing schedules. Every process does, without a leader: all decide alike from the same row, and the store writes the
//! first plan only.

use domain::{
    Json, NewTask, Priority, QueueName, Timestamp,
    schedule::{NewSchedule, Plan, plan},
};
use serde_json::{Map, Value};

use crate::{
    ordering::announce_waiting,
    ports::{CancelOutcome, DueSchedule, Fired, Firing, Signal, StoreError, Waiting},
    registry::share,
    worker::WorkerPorts,
};

/// Fires what is due, at most `limit` schedules; answers how many ticks were fired or declared skipped here.
pub(super) async fn fire_due(ports: &WorkerPorts, limit: usize) -> Result<usize, StoreError> {
    let mut ticks = 0;
    for DueSchedule { schedule, running, now } in ports.store.due_schedules(limit).await? {
        let Some(plan) = plan(&schedule, now, running) else { continue };
        // Before the next one starts. Should this process die in between, another one finds nothing running.
        if let Some(last) = schedule.last_task.filter(|_| plan.cancel_running) {
            let outcome = ports.store.cancel(&schedule.spec.tenant, &[last]).await?;
            if outcome == [CancelOutcome::Requested] {
                ports.signals.publish(&[Signal::Cancel(vec![last])]).await;
            }
        }
        let Plan { fire, skipped, next_tick, cancel_running: _ } = plan;
        let skipped_ticks: usize = skipped.iter().map(|run| run.count as usize).sum();
        let tasks = fire.into_iter().map(|tick| (tick, task_of(ports, &schedule.spec, tick))).collect();
        let firing = Firing { schedule: schedule.id, revision: schedule.revision, tasks, skipped, next_tick };
        if let Fired::Yes(receipts) = ports.store.fire(&firing).await? {
            let name = &schedule.spec.name;
            tracing::info!(schedule = %name, fired = receipts.len(), skipped = skipped_ticks, "schedule fired");
            ticks += receipts.len() + skipped_ticks;
            let (queue, priority): (&QueueName, Priority) =
                (&schedule.spec.template.queue, schedule.spec.template.priority);
            let started = receipts.iter().filter(|receipt| receipt.run_at.is_none());
            let waiting: Vec<Waiting> =
                started.map(|receipt| receipt.place(queue.clone(), priority)).collect();
            announce_waiting(ports.order.as_deref(), ports.signals.as_ref(), &waiting).await;
        }
    }
    Ok(ticks)
}

/// What a schedule submits at this tick. The task's metadata name both.
fn task_of(ports: &WorkerPorts, schedule: &NewSchedule, tick: Timestamp) -> NewTask {
    let template = &schedule.template;
    let mut notes: Map<String, Value> =
        template.metadata.as_ref().and_then(|notes| notes.to().ok()).unwrap_or_default();
    notes.insert("schedule".into(), schedule.name.as_str().into());
    notes.insert("scheduled_for".into(), tick.to_rfc3339().into());
    let (queue, spec) = (ports.routes.settings(&template.queue), ports.registry.get(&template.task_type));
    NewTask {
        tenant: schedule.tenant.clone(),
        task_type: template.task_type.clone(),
        queue: template.queue.clone(),
        priority: template.priority,
        input: template.input.clone(),
        metadata: Json::from_value(&notes).ok(),
        start: schedule.start_of(tick),
        expires_at: None,
        limits: template.limits,
        own: template.own.clone(),
        idempotency: None,
        unique: None,
        share: share(queue, spec.map(|spec| (spec, &template.input)), None),
    }
}
