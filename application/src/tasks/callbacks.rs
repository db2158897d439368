//! Completion webhooks: a task of the runner's own that waits for another one's end and tells an endpoint of it.

use std::time::Duration;

use domain::{
    Json, NewTask, OwnTerms, Priority, Start, Status, TaskId, TaskType, Tenant, Unique, UniqueKey,
    outbound::callback_key,
};

use super::{Admission, FlowSubmission, InvalidField, SubmitError, Tasks};
use crate::{
    ports::{StoreError, Submitted},
    registry::{TaskTypeSpec, share},
    task_types::{Callback, WEBHOOK_TYPE, WebhookInput},
};

/// The soonest that a webhook looks at its task.
const FIRST_LOOK: Duration = Duration::from_millis(500);

impl Tasks {
    /// Submits a task and the webhook that tells of its end. Both are stored when this returns; where it fails in between,
    /// asking again under the same idempotency key completes it.
    pub async fn submit_with_callback(
        &self,
        tenant: &Tenant,
        flow: FlowSubmission,
        callback: &Callback,
    ) -> Result<Option<Admission>, SubmitError> {
        self.check_callback(callback)?;
        let admission = self.submit_flow(tenant, flow).await?;
        if let Some(task) = admission.as_ref().and_then(Admission::task) {
            self.callback_for(tenant, task.id, callback).await?;
        }
        Ok(admission)
    }

    /// Submits the webhook that tells of this task's end; answers its number. The same URL and events are told once of
    /// one task, however often they are asked for.
    pub async fn callback_for(
        &self,
        tenant: &Tenant,
        task: TaskId,
        callback: &Callback,
    ) -> Result<TaskId, SubmitError> {
        let (spec, input) = self.webhook(task, callback)?;
        let corrupt = |error: domain::InvalidName| StoreError::Corrupt(error.to_string());
        let key = UniqueKey::new(callback_key(task, &callback.url, &callback.events)).map_err(corrupt)?;
        let queue = self.routes.queue_for(spec.name()).clone();
        let share = share(self.routes.settings(&queue), None, None);
        let webhook = NewTask {
            tenant: tenant.clone(),
            task_type: spec.name().clone(),
            queue,
            priority: Priority::default(),
            input,
            metadata: None,
            start: Start::After(FIRST_LOOK),
            expires_at: None,
            limits: spec.default_limits(),
            own: OwnTerms::default(),
            idempotency: None,
            unique: Some(Unique { key, among: Status::ALL.to_vec(), window: None }),
            share,
        };
        match self.store.submit(&[webhook]).await?.pop() {
            Some(Submitted::New(receipt) | Submitted::Replayed(receipt)) => Ok(receipt.id),
            Some(Submitted::Existing(id) | Submitted::KeyReused(id)) => Ok(id),
            None => Err(StoreError::Corrupt("a submission had no outcome".to_owned()).into()),
        }
    }

    /// Whether a callback can be promised: its URL is one that may be called, as far as its text tells.
    pub fn check_callback(&self, callback: &Callback) -> Result<(), SubmitError> {
        self.webhook(TaskId(0), callback).map(drop)
    }

    fn webhook(&self, task: TaskId, callback: &Callback) -> Result<(&TaskTypeSpec, Json), SubmitError> {
        let refuse =
            |message: String| SubmitError::Invalid(vec![InvalidField { field: "callback_url", message }]);
        let spec = TaskType::new(WEBHOOK_TYPE).ok().and_then(|name| self.registry.get(&name));
        let spec = spec.ok_or_else(|| refuse("this server delivers no webhooks".to_owned()))?;
        let input = WebhookInput { task: task.0, callback: callback.clone() };
        let input = Json::from_value(&input).map_err(|error| refuse(format!("it {error}")))?;
        spec.check_input(&input).map_err(refuse)?;
        Ok((spec, input))
    }
}
