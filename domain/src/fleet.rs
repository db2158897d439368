//! The workers of an installation as those see and steer them who run it.

use std::{fmt, str::FromStr, time::Duration};

use crate::{Pace, QueueName, TaskType};

/// How a worker fares, as far as can be told from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WorkerState {
    /// It takes tasks.
    Alive,
    /// It was told to take none.
    Paused,
    /// It takes none any more, and ends when what runs has ended.
    Draining,
    /// It has not been heard of for half of its lease.
    Silent,
    /// It was declared dead: others have its tasks.
    Dead,
    /// It has signed off.
    Left,
}

/// What a living worker is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WorkerMode {
    /// It takes tasks.
    #[default]
    Working,
    /// It was told to take none.
    Paused,
    /// It is about to end.
    Draining,
}

/// How a registration ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Departure {
    /// The worker signed off.
    Left,
    /// It was declared dead.
    Dead,
}

impl WorkerState {
    /// Every state, for tables.
    pub const ALL: [Self; 6] =
        [Self::Alive, Self::Paused, Self::Draining, Self::Silent, Self::Dead, Self::Left];

    /// Judges a worker: what it last said, how its registration ended, and for how long it has been silent.
    pub fn judge(mode: WorkerMode, departure: Option<Departure>, silence: Duration, lease: Duration) -> Self {
        match (departure, mode) {
            (Some(Departure::Left), _) => Self::Left,
            (Some(Departure::Dead), _) => Self::Dead,
            (None, _) if silence > lease / 2 => Self::Silent,
            (None, WorkerMode::Working) => Self::Alive,
            (None, WorkerMode::Paused) => Self::Paused,
            (None, WorkerMode::Draining) => Self::Draining,
        }
    }

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Paused => "paused",
            Self::Draining => "draining",
            Self::Silent => "silent",
            Self::Dead => "dead",
            Self::Left => "left",
        }
    }

    /// Whether it has been heard of lately, and holds its tasks.
    pub fn lives(self) -> bool {
        match self {
            Self::Alive | Self::Paused | Self::Draining => true,
            Self::Silent | Self::Dead | Self::Left => false,
        }
    }

    /// Whether its registration is over: nothing reaches it any more.
    pub fn is_gone(self) -> bool {
        match self {
            Self::Dead | Self::Left => true,
            Self::Alive | Self::Paused | Self::Draining | Self::Silent => false,
        }
    }
}

impl WorkerMode {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Working => "working",
            Self::Paused => "paused",
            Self::Draining => "draining",
        }
    }

    /// Reads [`WorkerMode::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Working, Self::Paused, Self::Draining].into_iter().find(|mode| mode.as_str() == text)
    }
}

/// Which queues a worker serves: the named ones, or every queue but some, also those of tomorrow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Serving {
    only: Vec<QueueName>,
    except: Vec<QueueName>,
}

/// A worker that serves named queues was to lose the last of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no queue would be left to serve; pause or drain the worker instead")]
pub struct NoQueueLeft;

impl Serving {
    /// These, none meaning every queue; but not those.
    pub fn of(only: Vec<QueueName>, except: Vec<QueueName>) -> Self {
        Self { only, except }
    }

    /// `only` empty means every queue; `except` is taken away.
    pub fn new(only: Vec<QueueName>, except: Vec<QueueName>) -> Result<Self, NoQueueLeft> {
        if only.is_empty() {
            return Ok(Self { only, except });
        }
        let only: Vec<_> = only.into_iter().filter(|queue| !except.contains(queue)).collect();
        if only.is_empty() { Err(NoQueueLeft) } else { Ok(Self { only, except: Vec::new() }) }
    }

    /// Whether it serves queues that nobody has named yet.
    pub fn is_open(&self) -> bool {
        self.only.is_empty()
    }

    /// The named queues; none where it [is open](Self::is_open).
    pub fn only(&self) -> &[QueueName] {
        &self.only
    }

    /// What an open one leaves out.
    pub fn except(&self) -> &[QueueName] {
        &self.except
    }

    /// Whether it serves this queue.
    pub fn serves(&self, queue: &QueueName) -> bool {
        (self.is_open() || self.only.contains(queue)) && !self.except.contains(queue)
    }

    /// Serves this queue as well; `false` where it did already.
    pub fn add(&mut self, queue: &QueueName) -> bool {
        if self.serves(queue) {
            return false;
        }
        self.except.retain(|other| other != queue);
        if !self.serves(queue) {
            self.only.push(queue.clone());
        }
        true
    }

    /// Serves this queue no more; `false` where it did not anyway.
    pub fn remove(&mut self, queue: &QueueName) -> Result<bool, NoQueueLeft> {
        if !self.serves(queue) {
            return Ok(false);
        }
        if self.is_open() {
            self.except.push(queue.clone());
        } else if self.only.iter().all(|other| other == queue || !self.serves(other)) {
            return Err(NoQueueLeft);
        } else {
            self.only.retain(|other| other != queue);
        }
        Ok(true)
    }
}

/// What a living worker can be told. Written as one line, such as `concurrency 5` or `rate-limit ai.article 10/m`; so it
/// is kept, and so it is logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Answer.
    Ping,
    /// Take no tasks until told to.
    Pause,
    /// Take tasks again.
    Resume,
    /// Have so many slots.
    Concurrency(usize),
    /// Serve this queue as well.
    AddQueue(QueueName),
    /// Serve this queue no more; what runs of it goes on.
    RemoveQueue(QueueName),
    /// Start tasks of this type at this pace at most; `None` lifts the limit.
    RateLimit(TaskType, Option<Pace>),
    /// Take no tasks any more, finish what runs however long that takes, end.
    Drain,
    /// End as on SIGTERM: what is not finished within the grace time is given back.
    Shutdown,
}

/// Why a text is no command; reads as a sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidCommand(String);

impl Command {
    /// The most slots that a worker can be given.
    pub const MOST_SLOTS: usize = 1_000_000;

    /// Its first word.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Concurrency(_) => "concurrency",
            Self::AddQueue(_) => "add-queue",
            Self::RemoveQueue(_) => "remove-queue",
            Self::RateLimit(..) => "rate-limit",
            Self::Drain => "drain",
            Self::Shutdown => "shutdown",
        }
    }

    /// So many slots, from 1 to [`Self::MOST_SLOTS`].
    pub fn concurrency(slots: usize) -> Result<Self, InvalidCommand> {
        if (1..=Self::MOST_SLOTS).contains(&slots) {
            return Ok(Self::Concurrency(slots));
        }
        let most = Self::MOST_SLOTS;
        Err(InvalidCommand(format!("{slots} is not a number of slots from 1 to {most}")))
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.verb())?;
        match self {
            Self::Ping | Self::Pause | Self::Resume | Self::Drain | Self::Shutdown => Ok(()),
            Self::Concurrency(slots) => write!(f, " {slots}"),
            Self::AddQueue(queue) | Self::RemoveQueue(queue) => write!(f, " {queue}"),
            Self::RateLimit(task_type, Some(pace)) => write!(f, " {task_type} {pace}"),
            Self::RateLimit(task_type, None) => write!(f, " {task_type} none"),
        }
    }
}

impl FromStr for Command {
    type Err = InvalidCommand;

    fn from_str(text: &str) -> Result<Self, InvalidCommand> {
        let wrong = |error: &dyn fmt::Display| InvalidCommand(error.to_string());
        let words: Vec<&str> = text.split_whitespace().collect();
        match words.as_slice() {
            ["ping"] => Ok(Self::Ping),
            ["pause"] => Ok(Self::Pause),
            ["resume"] => Ok(Self::Resume),
            ["drain"] => Ok(Self::Drain),
            ["shutdown"] => Ok(Self::Shutdown),
            ["concurrency", slots] => Self::concurrency(slots.parse().map_err(|error| wrong(&error))?),
            ["add-queue", queue] => Ok(Self::AddQueue(queue.parse().map_err(|error| wrong(&error))?)),
            ["remove-queue", queue] => Ok(Self::RemoveQueue(queue.parse().map_err(|error| wrong(&error))?)),
            ["rate-limit", task_type, pace] => {
                let task_type = task_type.parse().map_err(|error| wrong(&error))?;
                let pace = match *pace {
                    "none" => None,
                    pace => Some(pace.parse().map_err(|error| wrong(&error))?),
                };
                Ok(Self::RateLimit(task_type, pace))
            }
            _ => {
                let shown: String = text.chars().take(80).collect();
                Err(InvalidCommand(format!("{shown:?} is not a command that this version knows")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(name: &str) -> QueueName {
        QueueName::new(name).expect("a valid name")
    }

    #[test]
    fn a_worker_is_judged_by_what_it_says_how_it_ended_and_how_long_it_is_silent() {
        let lease = Duration::from_secs(12);
        let judge = |mode, departure, silence| {
            WorkerState::judge(mode, departure, Duration::from_secs(silence), lease)
        };
        for (mode, departure, silence, state) in [
            (WorkerMode::Working, None, 0, WorkerState::Alive),
            (WorkerMode::Working, None, 6, WorkerState::Alive),
            (WorkerMode::Working, None, 7, WorkerState::Silent),
            (WorkerMode::Paused, None, 3, WorkerState::Paused),
            (WorkerMode::Paused, None, 30, WorkerState::Silent),
            (WorkerMode::Draining, None, 3, WorkerState::Draining),
            (WorkerMode::Draining, Some(Departure::Left), 0, WorkerState::Left),
            (WorkerMode::Working, Some(Departure::Dead), 99, WorkerState::Dead),
        ] {
            assert_eq!(judge(mode, departure, silence), state, "{mode:?} {departure:?} {silence}");
        }
        for state in WorkerState::ALL {
            assert!(!(state.lives() && state.is_gone()), "{state:?}");
        }
    }

    #[test]
    fn a_command_is_read_as_it_is_written() {
        let ai = TaskType::new("ai.article").expect("a type");
        for (command, text) in [
            (Command::Ping, "ping"),
            (Command::Pause, "pause"),
            (Command::Resume, "resume"),
            (Command::Concurrency(5), "concurrency 5"),
            (Command::AddQueue(queue("a")), "add-queue a"),
            (Command::RemoveQueue(queue("a")), "remove-queue a"),
            (
                Command::RateLimit(ai.clone(), Some("10/m".parse().expect("a pace"))),
                "rate-limit ai.article 10/m",
            ),
            (Command::RateLimit(ai, None), "rate-limit ai.article none"),
            (Command::Drain, "drain"),
            (Command::Shutdown, "shutdown"),
        ] {
            assert_eq!(command.to_string(), text);
            assert_eq!(text.parse(), Ok(command));
        }
        for text in
            ["", "explode", "ping now", "concurrency", "concurrency 0", "concurrency x", "rate-limit a fast"]
        {
            assert!(text.parse::<Command>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_worker_of_named_queues_serves_these_and_keeps_one() {
        let mut serving = Serving::new(vec![queue("a"), queue("b")], vec![queue("b")]).expect("a is left");
        assert!(serving.serves(&queue("a")) && !serving.serves(&queue("b")) && !serving.is_open());
        assert_eq!(serving.remove(&queue("a")), Err(NoQueueLeft));
        assert!(serving.add(&queue("b")) && !serving.add(&queue("b")));
        assert_eq!(serving.remove(&queue("a")), Ok(true));
        assert_eq!(serving.remove(&queue("a")), Ok(false));
        assert_eq!(serving.only(), [queue("b")]);
        assert_eq!(Serving::new(vec![queue("a")], vec![queue("a")]), Err(NoQueueLeft));
    }

    #[test]
    fn a_worker_of_every_queue_can_leave_some_out() {
        let mut serving = Serving::new(Vec::new(), vec![queue("slow")]).expect("an open one");
        assert!(serving.serves(&queue("of tomorrow".replace(' ', "-").as_str())) && serving.is_open());
        assert!(!serving.serves(&queue("slow")));
        assert_eq!(serving.remove(&queue("a")), Ok(true));
        assert_eq!(serving.except(), [queue("slow"), queue("a")]);
        assert!(serving.add(&queue("slow")) && serving.serves(&queue("slow")));
    }
}
