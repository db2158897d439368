//! Why a task does not run: what holds it back, in words, and when it is likely to start.

use std::{fmt, time::Duration};

use crate::{AttemptOutcome, Failure, QueueLimits, QueueName, Status, TaskId, Timestamp, WorkerState};

/// One thing that holds a task back. Reads as a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hold {
    /// It was submitted for later.
    NotYetDue {
        /// When it is due.
        until: Timestamp,
    },
    /// An attempt failed, and the next one is not due yet.
    BackOff {
        /// When it is.
        until: Timestamp,
        /// What the attempt failed with.
        error: String,
    },
    /// A rate limit let its attempt not through; that one is not charged.
    RateLimited {
        /// When it is tried again.
        until: Timestamp,
        /// Whose limit, in that one's words.
        error: String,
    },
    /// It waits for others, so many of which have not ended.
    WaitsForTasks {
        /// How many.
        open: u32,
        /// All that it waits for.
        tasks: Vec<TaskId>,
    },
    /// It is a batch, and its items have not ended.
    WaitsForItems {
        /// How many.
        open: u32,
    },
    /// Its queue stands still.
    QueuePaused(QueueName),
    /// No living worker serves its queue.
    NobodyServes(QueueName),
    /// Workers serve its queue, and none of them knows its type.
    NobodyKnowsType(QueueName),
    /// Workers could run it, and none of them takes tasks.
    NobodyTakes,
    /// As many of its queue run as may.
    QueueFull {
        /// Which.
        queue: QueueName,
        /// How many may.
        most: u32,
    },
    /// Others of its queue go first.
    OthersAhead {
        /// How many.
        tasks: usize,
        /// Whether there may be more.
        or_more: bool,
    },
    /// It may have killed a worker and runs in small company only, apart from the others.
    Suspected,
    /// Everybody who could run it has all hands full.
    NoFreeSlot,
}

impl Hold {
    /// A stable name for programs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotYetDue { .. } => "not_yet_due",
            Self::BackOff { .. } => "back_off",
            Self::RateLimited { .. } => "rate_limited",
            Self::WaitsForTasks { .. } => "waits_for_tasks",
            Self::WaitsForItems { .. } => "waits_for_items",
            Self::QueuePaused(_) => "queue_paused",
            Self::NobodyServes(_) => "nobody_serves_its_queue",
            Self::NobodyKnowsType(_) => "nobody_knows_its_type",
            Self::NobodyTakes => "nobody_takes_tasks",
            Self::QueueFull { .. } => "queue_full",
            Self::OthersAhead { .. } => "others_ahead",
            Self::Suspected => "suspected",
            Self::NoFreeSlot => "no_free_slot",
        }
    }

    /// Until when, where that is known.
    pub fn until(&self) -> Option<Timestamp> {
        match self {
            Self::NotYetDue { until } | Self::BackOff { until, .. } | Self::RateLimited { until, .. } => {
                Some(*until)
            }
            _ => None,
        }
    }

    /// Whether it stays until somebody does something.
    pub fn needs_somebody(&self) -> bool {
        matches!(
            self,
            Self::QueuePaused(_) | Self::NobodyServes(_) | Self::NobodyKnowsType(_) | Self::NobodyTakes
        )
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotYetDue { .. } => f.write_str("it was submitted for later"),
            Self::BackOff { error, .. } => {
                write!(f, "its last attempt failed ({error}), and the next one is not due yet")
            }
            Self::RateLimited { error, .. } => write!(f, "a rate limit held it up, which costs no attempt: {error}"),
            Self::WaitsForTasks { open, tasks } => {
                let shown: Vec<_> = tasks.iter().take(10).map(TaskId::to_string).collect();
                let dots = if tasks.len() > shown.len() { ", …" } else { "" };
                let (all, shown) = (tasks.len(), shown.join(", "));
                write!(f, "{open} of the {all} tasks that it waits for have not ended ({shown}{dots})")
            }
            Self::WaitsForItems { open } => write!(f, "{open} of its items have not ended"),
            Self::QueuePaused(queue) => {
                write!(f, "queue {queue} is paused: `task-runner queues resume {queue}` lets it go on")
            }
            Self::NobodyServes(queue) => write!(
                f,
                "no living worker serves queue {queue}: start one, or have one serve it (`task-runner control add-queue`)"
            ),
            Self::NobodyKnowsType(queue) => write!(
                f,
                "the workers that serve queue {queue} do not know its type: start one that registers it"
            ),
            Self::NobodyTakes => f.write_str(
                "the workers that could run it are paused, draining or silent: `task-runner control resume`, or start another",
            ),
            Self::QueueFull { queue, most } => {
                write!(f, "as many tasks of queue {queue} run as may at once: {most}")
            }
            Self::OthersAhead { tasks, or_more } => {
                let or_more = if *or_more { "or more " } else { "" };
                write!(f, "{tasks} {or_more}of its queue go first")
            }
            Self::Suspected => f.write_str(
                "it ran while a worker crashed, and runs again apart from others until it is known which task did it",
            ),
            Self::NoFreeSlot => f.write_str("every worker that could run it has all its slots in use"),
        }
    }
}

/// Somebody who may come to run the task: a worker that serves its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Runner {
    /// How it fares.
    pub state: WorkerState,
    /// Whether it knows the task's type.
    pub knows_type: bool,
    /// Slots that are not in use.
    pub free_slots: usize,
}

impl Runner {
    /// Whether it would run the task, as soon as the task's turn comes.
    pub fn could_run(&self) -> bool {
        self.knows_type && self.state == WorkerState::Alive
    }
}

/// A waiting task's place in its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// So many go first.
    Behind(usize),
    /// So many do at least.
    BehindMoreThan(usize),
    /// It waits apart from the order.
    Apart,
}

/// What is known of a task and of what it needs in order to run.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// Where it stands.
    pub status: Status,
    /// What it waits in.
    pub queue: QueueName,
    /// Until when it waits.
    pub run_at: Option<Timestamp>,
    /// What its last attempt failed with, and how that one ended: what a rate limit holds up is released.
    pub error: Option<(Failure, AttemptOutcome)>,
    /// How many others it waits for.
    pub waits_for: Option<u32>,
    /// Which those are; of a batch's items there are too many.
    pub needs: Vec<TaskId>,
    /// Whether its queue stands still.
    pub queue_paused: bool,
    /// What may run of its queue.
    pub limits: QueueLimits,
    /// How many of its queue run.
    pub running: u64,
    /// Its place, where it is PENDING.
    pub place: Option<Place>,
    /// The living workers that serve its queue.
    pub runners: Vec<Runner>,
    /// How many of its queue have ended lately, and in which time.
    pub recent: (u64, Duration),
    /// By the store's clock.
    pub now: Timestamp,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Why {
    /// What holds it back, the most telling first; nothing where it runs, has ended, or is about to be taken.
    pub holds: Vec<Hold>,
    /// When it is likely to start; `None` where that cannot be told.
    pub expected_start: Option<Timestamp>,
}

impl Facts {
    /// Judges them.
    pub fn explain(&self) -> Why {
        let holds = match self.status {
            Status::Scheduled => self.before_its_turn(),
            Status::Pending => self.before_it_is_taken(),
            Status::Processing | Status::Completed | Status::Failed | Status::Cancelled | Status::Expired => {
                Vec::new()
            }
        };
        Why { expected_start: self.expected_start(&holds), holds }
    }

    fn before_its_turn(&self) -> Vec<Hold> {
        let mut holds = Vec::new();
        if let Some(open) = self.waits_for {
            holds.push(match self.needs.is_empty() {
                true => Hold::WaitsForItems { open },
                false => Hold::WaitsForTasks { open, tasks: self.needs.clone() },
            });
        }
        if let Some(until) = self.run_at {
            holds.push(match &self.error {
                None => Hold::NotYetDue { until },
                Some((Failure { code, message, .. }, outcome)) => {
                    let error = format!("{code}: {message}");
                    if *outcome == AttemptOutcome::Released {
                        Hold::RateLimited { until, error }
                    } else {
                        Hold::BackOff { until, error }
                    }
                }
            });
        }
        // What will be in its way as well when its time has come; a batch needs no worker.
        if !matches!(holds.first(), Some(Hold::WaitsForItems { .. })) {
            holds.extend(self.in_the_way());
        }
        holds
    }

    fn before_it_is_taken(&self) -> Vec<Hold> {
        let mut holds = self.in_the_way();
        if let Some(most) = self.limits.max_running.filter(|most| self.running >= u64::from(*most)) {
            holds.push(Hold::QueueFull { queue: self.queue.clone(), most });
        }
        match self.place {
            Some(Place::Behind(tasks)) if tasks > 0 => {
                holds.push(Hold::OthersAhead { tasks, or_more: false });
            }
            Some(Place::BehindMoreThan(tasks)) => holds.push(Hold::OthersAhead { tasks, or_more: true }),
            Some(Place::Apart) => holds.push(Hold::Suspected),
            Some(Place::Behind(_)) | None => {}
        }
        let mut could = self.runners.iter().filter(|runner| runner.could_run()).peekable();
        if could.peek().is_some() && could.all(|runner| runner.free_slots == 0) {
            holds.push(Hold::NoFreeSlot);
        }
        holds
    }

    /// What somebody has to see to.
    fn in_the_way(&self) -> Vec<Hold> {
        let mut holds = Vec::new();
        if self.queue_paused {
            holds.push(Hold::QueuePaused(self.queue.clone()));
        }
        if self.runners.is_empty() {
            holds.push(Hold::NobodyServes(self.queue.clone()));
        } else if !self.runners.iter().any(|runner| runner.knows_type) {
            holds.push(Hold::NobodyKnowsType(self.queue.clone()));
        } else if !self.runners.iter().any(Runner::could_run) {
            holds.push(Hold::NobodyTakes);
        }
        holds
    }

    /// As fast as the queue has moved lately, and no faster than its rate allows.
    fn expected_start(&self, holds: &[Hold]) -> Option<Timestamp> {
        let is_held = holds.iter().any(|hold| hold.needs_somebody() || matches!(hold, Hold::Suspected));
        if is_held || self.waits_for.is_some() {
            return None;
        }
        if self.status == Status::Scheduled {
            return self.run_at;
        }
        let ahead = match self.place? {
            Place::Behind(ahead) => ahead,
            Place::BehindMoreThan(_) | Place::Apart => return None,
        };
        let moves = holds.iter().all(|hold| !matches!(hold, Hold::NoFreeSlot | Hold::QueueFull { .. }));
        let (ended, within) = self.recent;
        let pace = (ended > 0).then(|| within.as_secs_f64() / ended as f64);
        let wait = match (ahead, pace) {
            (0, _) if moves => 0.0,
            (_, Some(pace)) => (ahead + 1) as f64 * pace,
            (_, None) => return None,
        };
        let rate = self.limits.rate.map_or(0.0, |rate| {
            let beyond_burst = ahead.saturating_sub(usize::try_from(rate.burst()).unwrap_or(usize::MAX));
            beyond_burst as f64 * rate.interval_between().as_secs_f64()
        });
        let wait = Duration::try_from_secs_f64(wait.max(rate)).ok()?;
        self.now.checked_add_signed(chrono::TimeDelta::from_std(wait).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(status: Status) -> Facts {
        Facts {
            status,
            queue: QueueName::new("slow").expect("a name"),
            run_at: None,
            error: None,
            waits_for: None,
            needs: Vec::new(),
            queue_paused: false,
            limits: QueueLimits::default(),
            running: 0,
            place: (status == Status::Pending).then_some(Place::Behind(0)),
            runners: vec![Runner { state: WorkerState::Alive, knows_type: true, free_slots: 1 }],
            recent: (30, Duration::from_secs(300)),
            now: Timestamp::UNIX_EPOCH,
        }
    }

    fn reasons(facts: &Facts) -> Vec<&'static str> {
        facts.explain().holds.iter().map(Hold::reason).collect()
    }

    fn after(seconds: i64) -> Option<Timestamp> {
        Some(Timestamp::UNIX_EPOCH + chrono::TimeDelta::seconds(seconds))
    }

    #[test]
    fn what_waits_says_why() {
        let runner = |state, knows_type, free_slots| vec![Runner { state, knows_type, free_slots }];
        let failed = |outcome| Some((Failure::transient("http_503", "busy"), outcome));
        let pending = || facts(Status::Pending);
        let later = || Facts { run_at: after(60), ..facts(Status::Scheduled) };
        let full = QueueLimits { max_running: Some(3), rate: None };
        for (facts, expected, start) in [
            (pending(), vec![], after(0)),
            (later(), vec!["not_yet_due"], after(60)),
            (Facts { error: failed(AttemptOutcome::Failed), ..later() }, vec!["back_off"], after(60)),
            (Facts { error: failed(AttemptOutcome::Released), ..later() }, vec!["rate_limited"], after(60)),
            (Facts { queue_paused: true, ..later() }, vec!["not_yet_due", "queue_paused"], None),
            (
                Facts { waits_for: Some(2), needs: vec![TaskId(1), TaskId(2)], ..facts(Status::Scheduled) },
                vec!["waits_for_tasks"],
                None,
            ),
            (
                Facts { waits_for: Some(2), runners: vec![], ..facts(Status::Scheduled) },
                vec!["waits_for_items"],
                None,
            ),
            (Facts { queue_paused: true, ..pending() }, vec!["queue_paused"], None),
            (Facts { runners: vec![], ..pending() }, vec!["nobody_serves_its_queue"], None),
            (
                Facts { runners: runner(WorkerState::Alive, false, 9), ..pending() },
                vec!["nobody_knows_its_type"],
                None,
            ),
            (
                Facts { runners: runner(WorkerState::Paused, true, 9), ..pending() },
                vec!["nobody_takes_tasks"],
                None,
            ),
            (Facts { place: Some(Place::Behind(2)), ..pending() }, vec!["others_ahead"], after(30)),
            (Facts { place: Some(Place::BehindMoreThan(9)), ..pending() }, vec!["others_ahead"], None),
            (Facts { place: Some(Place::Apart), ..pending() }, vec!["suspected"], None),
            (
                Facts { runners: runner(WorkerState::Alive, true, 0), ..pending() },
                vec!["no_free_slot"],
                after(10),
            ),
            (Facts { limits: full, running: 3, ..pending() }, vec!["queue_full"], after(10)),
            (Facts { limits: full, running: 2, ..pending() }, vec![], after(0)),
            (Facts { runners: vec![], ..facts(Status::Processing) }, vec![], None),
            (facts(Status::Completed), vec![], None),
        ] {
            assert_eq!(reasons(&facts), expected, "{facts:?}");
            assert_eq!(facts.explain().expected_start, start, "{facts:?}");
        }
    }

    #[test]
    fn a_rate_holds_up_what_its_burst_does_not_let_through() {
        let rate = Some("60/m".parse().expect("a rate"));
        let limits = QueueLimits { rate, max_running: None };
        let recent = (3_000, Duration::from_secs(300));
        let facts = Facts { limits, recent, place: Some(Place::Behind(21)), ..facts(Status::Pending) };
        assert_eq!(facts.explain().expected_start, after(20));
    }

    #[test]
    fn without_any_end_lately_nobody_knows_when() {
        let recent = (0, Duration::from_secs(300));
        let facts = Facts { recent, place: Some(Place::Behind(1)), ..facts(Status::Pending) };
        assert_eq!(facts.explain().expected_start, None);
    }

    #[test]
    fn sentences_name_what_is_to_be_done() {
        let queue = QueueName::new("slow").expect("a name");
        let tasks: Vec<_> = (1..=12).map(TaskId).collect();
        for (hold, expected) in [
            (Hold::QueuePaused(queue.clone()), "queues resume slow"),
            (Hold::NobodyServes(queue), "control add-queue"),
            (Hold::WaitsForTasks { open: 3, tasks }, "3 of the 12 tasks that it waits for"),
            (Hold::OthersAhead { tasks: 1_000, or_more: true }, "1000 or more of its queue go first"),
        ] {
            assert!(hold.to_string().contains(expected), "{hold}");
        }
    }
}
