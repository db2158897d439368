//! The workers of an installation: who they are, what they do, and what they are told to do.
//!
//! Workers report to the store every few seconds and take their commands from there, so that both work without Redis and
//! whichever process is asked; a signal makes it fast. What a command did is known when its worker has answered.

mod standing;

use std::{sync::Arc, time::Duration};

use domain::{Command, Timestamp, WorkerId, WorkerMode, WorkerName, WorkerState};
use tokio::time::Instant;

pub use self::standing::{About, Active, Ends, MOST_ACTIVE, Standing};
pub(crate) use self::standing::{read, written};
use crate::ports::{CommandAnswer, CommandId, Signal, Signals, Store, StoreError, Wanted, WorkerRecord};

/// How long workers that are gone are listed.
const REMEMBERED: Duration = Duration::from_secs(3600);
/// The longest that a command's answers can be waited for.
pub const LONGEST_COMMAND_WAIT: Duration = Duration::from_secs(60);
/// How often answers are looked for: at first, and later.
const FIRST_LOOK: Duration = Duration::from_millis(20);
const LATER_LOOK: Duration = Duration::from_millis(250);

/// The use cases.
#[derive(Clone)]
pub struct Workers {
    store: Arc<dyn Store>,
    signals: Arc<dyn Signals>,
}

/// A worker as it is shown.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerInfo {
    /// What the store knows.
    pub record: WorkerRecord,
    /// How it fares.
    pub state: WorkerState,
    /// How long ago it registered.
    pub registered_for: Duration,
    /// What it said at its start.
    pub about: About,
    /// What it last reported, and when.
    pub standing: Standing,
    /// When that was.
    pub reported_at: Option<Timestamp>,
}

/// Whom a command is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Every worker that is not gone.
    All,
    /// This one.
    Id(WorkerId),
    /// Those of this name.
    Name(WorkerName),
}

/// What became of a command at one worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obeyed {
    /// Who.
    pub worker: WorkerId,
    /// What people call it.
    pub name: WorkerName,
    /// What it said; `None` where it has not answered yet.
    pub answer: Option<CommandAnswer>,
}

/// Why nobody was told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// No worker is called so.
    #[error("there is no worker {0:?}; GET /workers lists them")]
    Unknown(String),
    /// There was one, and it is gone.
    #[error("worker {0:?} is gone")]
    Gone(String),
    /// There is nobody who could be told.
    #[error("{NOBODY}")]
    Nobody,
    /// The store could not be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is said where no worker lives.
pub const NOBODY: &str = "no worker is alive: tasks wait until one starts (`task-runner-worker`, or `task-runner` for all in one process)";

impl Target {
    /// Reads `all`, a number or a name. A text that is no name is nobody's.
    pub fn parse(text: &str) -> Option<Self> {
        match (text, text.parse::<i64>()) {
            ("all", _) => Some(Self::All),
            (_, Ok(id)) => Some(Self::Id(WorkerId(id))),
            _ => WorkerName::new(text).ok().map(Self::Name),
        }
    }

    fn is(&self, record: &WorkerRecord) -> bool {
        match self {
            Self::All => true,
            Self::Id(id) => record.id == *id,
            Self::Name(name) => record.name == *name,
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Id(id) => id.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

impl Workers {
    /// Wires the use cases.
    pub fn new(store: Arc<dyn Store>, signals: Arc<dyn Signals>) -> Self {
        Self { store, signals }
    }

    /// Every worker that is not gone, and those that went within the hour; the latest first.
    pub async fn list(&self) -> Result<Vec<WorkerInfo>, StoreError> {
        let fleet = self.store.workers(Wanted::Recent(REMEMBERED)).await?;
        Ok(fleet.workers.into_iter().map(|record| info(record, fleet.now)).collect())
    }

    /// One worker by its number, whenever it lived, or by its name: the latest of that name, before the others one that is
    /// not gone.
    pub async fn find(&self, target: &Target) -> Result<Option<WorkerInfo>, StoreError> {
        if let Target::Id(id) = target {
            let fleet = self.store.workers(Wanted::One(*id)).await?;
            return Ok(fleet.workers.into_iter().next().map(|record| info(record, fleet.now)));
        }
        let mut called: Vec<_> =
            self.list().await?.into_iter().filter(|worker| target.is(&worker.record)).collect();
        called.sort_by_key(|worker| worker.state.is_gone());
        Ok(called.into_iter().next())
    }

    /// Tells workers what to do, and waits until all of them have answered, at most `patience` (and
    /// [`LONGEST_COMMAND_WAIT`]). Who has not answered by then does as soon as it can.
    pub async fn command(
        &self,
        target: &Target,
        command: &Command,
        patience: Duration,
    ) -> Result<Vec<Obeyed>, CommandError> {
        let told = self.addressees(target).await?;
        let ids: Vec<WorkerId> = told.iter().map(|record| record.id).collect();
        let commands = self.store.command(&ids, &command.to_string()).await?;
        self.signals.publish(&[Signal::Command(ids)]).await;
        tracing::info!(%command, %target, workers = told.len(), "workers were told");
        let answers = self.answers(&commands, patience.min(LONGEST_COMMAND_WAIT)).await?;
        let obeyed = told.into_iter().zip(commands).map(|(record, command)| Obeyed {
            worker: record.id,
            name: record.name,
            answer: answers.iter().find(|answer| answer.id == command).cloned(),
        });
        Ok(obeyed.collect())
    }

    /// Those whom a command can still reach.
    async fn addressees(&self, target: &Target) -> Result<Vec<WorkerRecord>, CommandError> {
        let wanted = match target {
            Target::Id(id) => Wanted::One(*id),
            Target::All | Target::Name(_) => Wanted::Recent(REMEMBERED),
        };
        let found = self.store.workers(wanted).await?.workers;
        let (there, gone): (Vec<_>, Vec<_>) = found
            .into_iter()
            .filter(|record| target.is(record))
            .partition(|record| record.departure.is_none());
        match (there.is_empty(), target) {
            (false, _) => Ok(there),
            (true, Target::All) => Err(CommandError::Nobody),
            (true, target) if gone.is_empty() => Err(CommandError::Unknown(target.to_string())),
            (true, target) => Err(CommandError::Gone(target.to_string())),
        }
    }

    async fn answers(
        &self,
        commands: &[CommandId],
        patience: Duration,
    ) -> Result<Vec<CommandAnswer>, StoreError> {
        let deadline = Instant::now() + patience;
        let mut pause = FIRST_LOOK;
        loop {
            let answers = self.store.answers(commands).await?;
            let now = Instant::now();
            if answers.len() == commands.len() || now >= deadline {
                return Ok(answers);
            }
            tokio::time::sleep_until(deadline.min(now + pause)).await;
            pause = (pause * 2).min(LATER_LOOK);
        }
    }
}

fn info(record: WorkerRecord, now: Timestamp) -> WorkerInfo {
    let since = |then: Timestamp| (now - then).to_std().unwrap_or_default();
    let standing: Standing = read(record.report.as_ref().map(|(_, standing)| standing));
    let mode = WorkerMode::parse(&standing.mode).unwrap_or_default();
    let silence = since(record.last_heartbeat);
    WorkerInfo {
        state: WorkerState::judge(mode, record.departure, silence, record.lease),
        registered_for: since(record.registered_at),
        about: read(record.about.as_ref()),
        reported_at: record.report.as_ref().map(|(at, _)| *at),
        standing,
        record,
    }
}

#[cfg(test)]
mod tests;
