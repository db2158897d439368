//! How the product fares.

use chrono::{DateTime, Utc};
use domain::Tenant;
use poem_openapi::{ApiResponse, OpenApi};

use super::{Context, Tag};
use crate::{
    body::JsonAnswer,
    problem::ApiError,
    views::{DependencyView, HealthStatusView, HealthView, LivenessView, StatsView, TaskTypeListView},
};

pub(crate) struct SystemApi(pub(crate) Context);

#[derive(ApiResponse)]
enum Health {
    /// It works, perhaps without something it can do without.
    #[oai(status = 200)]
    Up(JsonAnswer<HealthView>),
    /// The store cannot be reached.
    #[oai(status = 503)]
    Down(JsonAnswer<HealthView>),
}

#[OpenApi(tag = "Tag::System")]
impl SystemApi {
    /// How the product and its dependencies fare
    #[oai(path = "/health", method = "get", operation_id = "get_health")]
    async fn health(&self) -> Health {
        let found = match self.0.tasks() {
            Ok(tasks) => tasks.health().await,
            Err(_) => Vec::new(),
        };
        let status = if found.iter().any(|one| one.required && !one.healthy) {
            HealthStatusView::Unhealthy
        } else if found.iter().any(|one| !one.healthy) {
            HealthStatusView::Degraded
        } else {
            HealthStatusView::Healthy
        };
        let dependencies = found
            .into_iter()
            .map(|one| DependencyView {
                name: one.name.to_owned(),
                status: if one.healthy { HealthStatusView::Healthy } else { HealthStatusView::Unhealthy },
                error: one.error,
            })
            .collect();
        let config = &self.0.config;
        let (app_name, version) = (config.app_name.clone(), config.version.clone());
        let answer = JsonAnswer(HealthView { status, app_name, version, timestamp: now(), dependencies });
        if status == HealthStatusView::Unhealthy { Health::Down(answer) } else { Health::Up(answer) }
    }

    /// Whether the process is alive
    #[oai(path = "/health/live", method = "get", operation_id = "get_liveness")]
    async fn live(&self) -> JsonAnswer<LivenessView> {
        JsonAnswer(LivenessView { status: "alive".to_owned() })
    }

    /// How many tasks stand where
    #[oai(path = "/stats", method = "get", operation_id = "get_stats")]
    async fn stats(&self) -> Result<JsonAnswer<StatsView>, ApiError> {
        Ok(JsonAnswer(self.0.tasks()?.counts(&Tenant::default()).await?.into()))
    }

    /// The task types that can be submitted
    #[oai(path = "/task-types", method = "get", operation_id = "list_task_types")]
    async fn task_types(&self) -> Result<JsonAnswer<TaskTypeListView>, ApiError> {
        Ok(JsonAnswer(TaskTypeListView {
            items: self
                .0
                .tasks()?
                .registry()
                .iter()
                .filter(|spec| !spec.is_internal())
                .map(Into::into)
                .collect(),
        }))
    }
}

/// The one place that shows this server's own clock; nothing is decided by it.
#[allow(clippy::disallowed_methods)]
fn now() -> DateTime<Utc> {
    std::time::SystemTime::now().into()
}
