//! Schedules.

use application::{
    ports::Put,
    schedules::{MOST_COMING_TICKS, Schedules},
    tasks::Admission,
};
use domain::{
    Tenant, Timestamp,
    schedule::{Schedule, ScheduleName},
};
use poem_openapi::{
    ApiResponse, OpenApi,
    param::{Path, Query},
};

use super::{Context, Tag, parameters::read_limit};
use crate::{
    body::{JsonAnswer, JsonBody},
    problem::{ApiError, FieldError},
    scheduling::{self, ScheduleBody},
    views::{
        TaskView,
        schedules::{FiringListView, FiringView, ScheduleListView, ScheduleView, TickListView},
    },
};

pub(crate) struct SchedulesApi(pub(crate) Context);

#[derive(ApiResponse)]
enum Kept {
    /// It took the place of the one of this name.
    #[oai(status = 200)]
    Replaced(JsonAnswer<ScheduleView>),
    /// It is new.
    #[oai(status = 201)]
    Created(JsonAnswer<ScheduleView>),
}

#[derive(ApiResponse)]
enum Removed {
    /// It is gone.
    #[oai(status = 204)]
    Gone,
}

#[derive(ApiResponse)]
enum Triggered {
    /// Its task is stored; it will run.
    #[oai(status = 201)]
    Created(JsonAnswer<TaskView>),
}

#[OpenApi(tag = "Tag::Schedules")]
impl SchedulesApi {
    /// List schedules, by name
    #[oai(path = "/schedules", method = "get", operation_id = "list_schedules")]
    async fn list(
        &self,
        /// How many at most: 1 to 500, 50 unless said otherwise.
        limit: Query<Option<String>>,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> Result<JsonAnswer<ScheduleListView>, ApiError> {
        let mut errors = Vec::new();
        let limit = read_limit(limit.0.as_deref(), &mut errors);
        let after = cursor.0.and_then(|cursor| {
            let name = ScheduleName::new(cursor).ok();
            if name.is_none() {
                errors.push(FieldError::new("cursor", "it is not a next_cursor of an earlier page"));
            }
            name
        });
        if !errors.is_empty() {
            return Err(ApiError::invalid(errors));
        }
        let found = self.0.schedules()?.list(&Tenant::default(), after, limit).await?;
        let last = found.last().filter(|_| found.len() == limit);
        let next_cursor = last.map(|schedule| schedule.spec.name.to_string());
        Ok(JsonAnswer(ScheduleListView {
            items: found.iter().map(ScheduleView::from).collect(),
            next_cursor,
        }))
    }

    /// Create or change a schedule
    ///
    /// It is kept under its name, in place of one of the same name. Ticks before now are not looked at.
    #[oai(path = "/schedules/:name", method = "put", operation_id = "put_schedule")]
    async fn put(
        &self,
        /// What it is called.
        #[oai(validator(pattern = "^[A-Za-z0-9_.-]{1,64}$"))]
        name: Path<String>,
        body: JsonBody<ScheduleBody>,
    ) -> Result<Kept, ApiError> {
        let name = ScheduleName::new(&name.0)
            .map_err(|error| ApiError::invalid(vec![FieldError::new("name", error.to_string())]))?;
        let request = scheduling::read(&body.text, self.0.schedules()?.now().await?)?;
        match self.0.schedules()?.put(&Tenant::default(), name, request).await? {
            Put::Created(schedule) => Ok(Kept::Created(JsonAnswer(ScheduleView::from(&schedule)))),
            Put::Replaced(schedule) => Ok(Kept::Replaced(JsonAnswer(ScheduleView::from(&schedule)))),
        }
    }

    /// Read a schedule
    #[oai(path = "/schedules/:name", method = "get", operation_id = "get_schedule")]
    async fn read(
        &self,
        /// What it is called.
        #[oai(validator(pattern = "^[A-Za-z0-9_.-]{1,64}$"))]
        name: Path<String>,
    ) -> Result<JsonAnswer<ScheduleView>, ApiError> {
        let found = self.0.schedules()?.read(&Tenant::default(), &known(&name.0)?).await?;
        answer(&name.0, found)
    }

    /// Remove a schedule
    ///
    /// Its tasks stay.
    #[oai(path = "/schedules/:name", method = "delete", operation_id = "delete_schedule")]
    async fn remove(
        &self,
        /// What it is called.
        #[oai(validator(pattern = "^[A-Za-z0-9_.-]{1,64}$"))]
        name: Path<String>,
    ) -> Result<Removed, ApiError> {
        if self.0.schedules()?.remove(&Tenant::default(), &known(&name.0)?).await? {
            Ok(Removed::Gone)
        } else {
            Err(unknown(&name.0))
        }
    }

    /// Let a schedule stand still
    ///
    /// Ticks that pass meanwhile are forgotten.
    #[oai(path = "/schedules/:name/pause", method = "post", operation_id = "pause_schedule")]
    async fn pause(
        &self,
        /// What it is called.
        #[oai(validator(pattern = "^[A-Za-z0-9_.-]{1,64}$"))]
        name: Path<String>,
    ) -> Result<JsonAnswer<ScheduleView>, ApiError> {
        let found = self.0.schedules()?.pause(&Tenant::default(), &known(&name.0)?, true).await?;
        answer(&name.0, found)
    }

    /// Let a schedule go on
    #[oai(path = "/schedules/:name/resume", method = "post", operation_id = "resume_schedule")]
    async fn resume(
        &self,
        /// What it is called.
        #[oai(validator(pattern = "^[A-Za-z0-9_.-]{1,64}$"))]
        name: Path<String>,
    ) -> Result<JsonAnswer<ScheduleView>, ApiError> {
        let found = self.0.schedules()?.pause(&Tenant::default(), &known(&name.0)?, false).await?;
        answer(&name.0, found)
    }

    /// Submit a schedule's task now
    ///
    /// Beside its ticks, which go on as they would.
    #[oai(path = "/schedules/:name/trigger", method = "post", operation_id = "trigger_schedule")]
    async fn trigger(
        &self,
        /// What it is called.
        #[oai(validator(pattern = "^[A-Za-z0-9_.-]{1,64}$"))]
        name: Path<String>,
    ) -> Result<Triggered, ApiError> {
        let admission = self.0.schedules()?.trigger(&Tenant::default(), &known(&name.0)?).await?;
        match admission.as_ref().and_then(Admission::task) {
            Some(task) => Ok(Triggered::Created(JsonAnswer(TaskView::from(task)))),
            None => Err(unknown(&name.0)),
        }
    }

    /// The coming ticks of a schedule
    ///
    /// None while it stands still.
    #[oai(path = "/schedules/:name/next", method = "get", operation_id = "next_ticks")]
    async fn next(
        &self,
        /// What it is called.
        #[oai(validator(pattern = "^[A-Za-z0-9_.-]{1,64}$"))]
        name: Path<String>,
        /// How many at most: 1 to 100, 5 unless said otherwise.
        count: Query<Option<String>>,
    ) -> Result<JsonAnswer<TickListView>, ApiError> {
        let count = read_count(count.0.as_deref())?;
        let found = self.0.schedules()?.read(&Tenant::default(), &known(&name.0)?).await?;
        let schedule = found.ok_or_else(|| unknown(&name.0))?;
        let ticks = Schedules::coming(&schedule, count);
        Ok(JsonAnswer(TickListView::new(&schedule.spec.cadence, ticks)))
    }

    /// When a schedule would be due
    ///
    /// The ticks of a cron expression, or of an interval, without a schedule: for looking before one is made.
    #[oai(path = "/schedule-ticks", method = "get", operation_id = "preview_ticks")]
    async fn preview(
        &self,
        /// A cron expression: five fields, or six with seconds in front.
        cron: Query<Option<String>>,
        /// The time zone on whose clock it is read; `UTC` unless said otherwise.
        time_zone: Query<Option<String>>,
        /// Instead of `cron`: seconds between two ticks.
        every_seconds: Query<Option<String>>,
        /// From when on they are counted; now unless said otherwise.
        starting_at: Query<Option<String>>,
        /// How many at most: 1 to 100, 5 unless said otherwise.
        count: Query<Option<String>>,
    ) -> Result<JsonAnswer<TickListView>, ApiError> {
        let count = read_count(count.0.as_deref())?;
        let now = self.0.schedules()?.now().await?;
        let parameters = [
            ("cron", cron.0),
            ("time_zone", time_zone.0),
            ("every_seconds", every_seconds.0),
            ("starting_at", starting_at.0),
        ];
        let cadence = scheduling::read_ticks(&parameters, now)?;
        let ticks = Schedules::ticks(&cadence, now, count);
        Ok(JsonAnswer(TickListView::new(&cadence, ticks)))
    }

    /// What became of a schedule's ticks
    ///
    /// The latest first, for 30 days: the task that each submitted, or why it was skipped.
    #[oai(path = "/schedules/:name/firings", method = "get", operation_id = "list_firings")]
    async fn firings(
        &self,
        /// What it is called.
        #[oai(validator(pattern = "^[A-Za-z0-9_.-]{1,64}$"))]
        name: Path<String>,
        /// How many at most: 1 to 500, 50 unless said otherwise.
        limit: Query<Option<String>>,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> Result<JsonAnswer<FiringListView>, ApiError> {
        let mut errors = Vec::new();
        let limit = read_limit(limit.0.as_deref(), &mut errors);
        let before = cursor.0.and_then(|cursor| {
            let before = cursor.parse().ok().and_then(Timestamp::from_timestamp_micros);
            if before.is_none() {
                errors.push(FieldError::new("cursor", "it is not a next_cursor of an earlier page"));
            }
            before
        });
        if !errors.is_empty() {
            return Err(ApiError::invalid(errors));
        }
        let found = self.0.schedules()?.firings(&Tenant::default(), &known(&name.0)?, before, limit).await?;
        let found = found.ok_or_else(|| unknown(&name.0))?;
        let last = found.last().filter(|_| found.len() == limit);
        let next_cursor = last.map(|record| record.tick().timestamp_micros().to_string());
        Ok(JsonAnswer(FiringListView { items: found.iter().map(FiringView::from).collect(), next_cursor }))
    }
}

fn read_count(text: Option<&str>) -> Result<usize, ApiError> {
    let count = text.map_or(Some(5), |text| text.parse().ok());
    count.filter(|count| (1..=MOST_COMING_TICKS).contains(count)).ok_or_else(|| {
        let message = format!("it is not a whole number from 1 to {MOST_COMING_TICKS}");
        ApiError::invalid(vec![FieldError::new("count", message)])
    })
}

/// A text that is no name is the name of no schedule.
fn known(name: &str) -> Result<ScheduleName, ApiError> {
    ScheduleName::new(name).map_err(|_| unknown(name))
}

fn unknown(name: &str) -> ApiError {
    let shown: String = name.chars().take(80).collect();
    ApiError::not_found(format!("there is no schedule {shown:?}"))
}

fn answer(name: &str, found: Option<Schedule>) -> Result<JsonAnswer<ScheduleView>, ApiError> {
    found.map(|schedule| JsonAnswer(ScheduleView::from(&schedule))).ok_or_else(|| unknown(name))
}
