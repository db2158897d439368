//! What the worker says of itself, and how it learns what it is told to do: one call every few seconds carries both, and
//! the answers to what was told before.

use std::time::Duration;

use domain::{WorkerId, WorkerMode};
use tokio::time::Instant;

use super::{Engine, Message, PAUSE_AFTER_ERROR};
use crate::{
    fleet::{About, Active, MOST_ACTIVE, Standing, written},
    ports::{CommandAnswer, GivenCommand, StoreError, WorkerReport},
};

/// How often the worker looks for commands, and reports what has changed.
const REPORT: Duration = Duration::from_secs(2);
/// How often it reports although nothing has changed.
const REPORT_ALL_THE_SAME: Duration = Duration::from_secs(30);

/// The state of the reports.
#[derive(Debug)]
pub(super) struct Reports {
    under_way: bool,
    next: Instant,
    /// What was last told, and when.
    told: Option<(Standing, Instant)>,
    /// Answers that nobody has yet.
    answers: Vec<CommandAnswer>,
    /// Those that are on their way.
    sent: Vec<CommandAnswer>,
}

impl Reports {
    pub(super) fn new(now: Instant) -> Self {
        Self { under_way: false, next: now, told: None, answers: Vec::new(), sent: Vec::new() }
    }

    /// A new registration knows nothing yet.
    pub(super) fn start_anew(&mut self, now: Instant) {
        (self.told, self.next) = (None, now);
    }

    pub(super) fn hurry(&mut self, now: Instant) {
        self.next = now;
    }

    /// Whether somebody waits to hear what became of a command.
    pub(super) fn owes_answers(&self) -> bool {
        !(self.answers.is_empty() && self.sent.is_empty())
    }
}

impl Engine {
    /// What does not change.
    pub(super) fn about(&self) -> About {
        let types = self.crew.ports.registry.iter().map(|spec| spec.name().to_string());
        About { types: types.collect(), ..self.config.about.clone() }
    }

    pub(super) fn report(&mut self, worker: WorkerId, draining: bool) {
        let now = Instant::now();
        if self.reports.under_way || now < self.reports.next {
            return;
        }
        self.reports.under_way = true;
        self.reports.next = now + REPORT;
        let standing = self.standing(draining, now);
        let answers = std::mem::take(&mut self.reports.answers);
        let known = self.reports.told.as_ref().is_some_and(|(told, at)| {
            answers.is_empty() && now < *at + REPORT_ALL_THE_SAME && told.says_the_same(&standing)
        });
        let report = if known { None } else { self.write_report(&standing) };
        if report.is_some() {
            self.reports.told = Some((standing, now));
        }
        self.reports.sent.clone_from(&answers);
        let crew = std::sync::Arc::clone(&self.crew);
        tokio::spawn(async move {
            let commands = crew.ports.store.report(worker, report, &answers).await;
            let _ = crew.outbox.send(Message::Commands(commands));
        });
    }

    fn standing(&self, draining: bool, now: Instant) -> Standing {
        let mode = match (draining || self.finishing, self.paused) {
            (true, _) => WorkerMode::Draining,
            (false, true) => WorkerMode::Paused,
            (false, false) => WorkerMode::Working,
        };
        let mut running: Vec<_> = self.running.values().map(|attempt| &attempt.info).collect();
        let age = |info: &&crate::handler::TaskInfo| (info.started_at, info.id);
        if running.len() > MOST_ACTIVE {
            running.select_nth_unstable_by_key(MOST_ACTIVE, age);
            running.truncate(MOST_ACTIVE);
        }
        running.sort_unstable_by_key(age);
        let active = running.into_iter().map(|info| Active {
            task: info.id.0,
            attempt: info.attempt,
            task_type: info.task_type.to_string(),
            queue: info.queue.to_string(),
            started_at: info.started_at,
        });
        let limits = self.throttles.iter();
        let mut rate_limits: Vec<_> =
            limits.map(|(task_type, limit)| (task_type.to_string(), limit.pace().to_string())).collect();
        rate_limits.sort();
        let mut standing = Standing {
            mode: mode.as_str().to_owned(),
            active_count: self.running.len(),
            active: active.collect(),
            ended: self.ends,
            rate_limits,
            memory: (self.config.memory)(),
            ..Standing::default()
        };
        standing.set_working_for(now - self.began);
        standing
    }

    fn write_report(&self, standing: &Standing) -> Option<WorkerReport> {
        Some(WorkerReport {
            queues: self.serving.only().to_vec(),
            except: self.serving.except().to_vec(),
            concurrency: self.config.concurrency,
            standing: written(standing)?,
        })
    }

    pub(super) fn take_commands(&mut self, given: Result<Vec<GivenCommand>, StoreError>) {
        self.reports.under_way = false;
        let sent = std::mem::take(&mut self.reports.sent);
        match given {
            Ok(given) => {
                for command in given {
                    let answer = self.obey(command);
                    self.reports.answers.push(answer);
                    // At once, with how the worker stands now.
                    self.reports.hurry(Instant::now());
                }
            }
            Err(error) => {
                tracing::debug!(%error, "the worker could not report; trying again");
                self.reports.answers.splice(0..0, sent);
                self.reports.told = None;
                self.reports.next = Instant::now() + PAUSE_AFTER_ERROR;
            }
        }
    }
}
