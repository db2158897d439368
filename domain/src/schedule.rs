//! Schedules: when a task is submitted by itself, and what happens to ticks that were missed or that come while the
//! last task still runs.
//!
//! A tick is a moment at which a schedule is due. Each tick is fired once or declared skipped, whoever looks: replicas
//! decide alike from the same row ([`plan`]), and the store lets the first of them write it.

use std::{str::FromStr, time::Duration};

use chrono_tz::Tz;
use croner::Cron;

use crate::{
    Json, Limits, OwnTerms, Priority, QueueName, Start, TaskId, TaskType, Tenant, Timestamp, name::name,
};

name!(
    /// What people call a schedule: 1–64 ASCII letters, digits, `_`, `-`, `.`.
    ScheduleName, "schedule name", max 64, |c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'),
    "1 to 64 letters, digits, '_', '-' or '.'"
);

/// A schedule's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScheduleId(pub i64);

/// When a schedule is due.
#[derive(Debug, Clone, PartialEq)]
pub enum Cadence {
    /// By a cron expression, read on the clock of a time zone.
    Cron {
        /// When.
        expression: CronExpression,
        /// On whose clock.
        zone: Tz,
    },
    /// Every so often, counted from a moment: no drift, whatever happens in between.
    Every {
        /// From 1 s to a year, in whole milliseconds.
        interval: Duration,
        /// The first tick.
        from: Timestamp,
    },
}

/// A cron expression: five fields, or six with seconds in front; names, ranges, steps, `L`, `W`, `#`, `@daily` and the
/// like. Where daylight saving skips a fixed time, it is due at the first moment after the gap; where a fixed time comes
/// twice, the first counts. Expressions that repeat within an hour go on through both.
#[derive(Clone, PartialEq)]
pub struct CronExpression {
    text: String,
    /// Boxed, because it is ten times as large as the other cadence.
    cron: Box<Cron>,
}

/// Why a text is no cadence; reads as a sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidCadence(String);

impl CronExpression {
    /// Longer texts are refused.
    pub const MAX_LENGTH: usize = 256;

    /// Reads an expression.
    pub fn new(text: &str) -> Result<Self, InvalidCadence> {
        let shown: String = text.chars().take(80).collect();
        if text.len() > Self::MAX_LENGTH {
            let most = Self::MAX_LENGTH;
            return Err(InvalidCadence(format!("{shown:?}… is longer than {most} characters")));
        }
        let example = "an example: `0 2 * * *` is every day at 02:00";
        match Cron::from_str(text.trim()) {
            Ok(cron) => Ok(Self { text: text.trim().to_owned(), cron: Box::new(cron) }),
            Err(error) => {
                Err(InvalidCadence(format!("{shown:?} is not a cron expression: {error}; {example}")))
            }
        }
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// In words, such as "At 02:00."
    pub fn describe(&self) -> String {
        self.cron.describe()
    }
}

impl std::fmt::Debug for CronExpression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.text)
    }
}

impl Cadence {
    /// The shortest interval.
    pub const SHORTEST: Duration = Duration::from_secs(1);
    /// The longest interval: a year.
    pub const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

    /// A cron cadence in the time zone of this IANA name, such as `Europe/Berlin` or `UTC`.
    pub fn cron(expression: &str, zone: &str) -> Result<Self, InvalidCadence> {
        Ok(Self::Cron { expression: CronExpression::new(expression)?, zone: read_zone(zone)? })
    }

    /// A tick every `interval` from `from` on, both cut to whole milliseconds.
    pub fn every(interval: Duration, from: Timestamp) -> Result<Self, InvalidCadence> {
        if !(Self::SHORTEST..=Self::LONGEST).contains(&interval) {
            let (least, most) = (Self::SHORTEST.as_secs(), Self::LONGEST.as_secs());
            let given = interval.as_secs_f64();
            return Err(InvalidCadence(format!("{given} is not between {least} and {most} seconds")));
        }
        let interval = Duration::from_millis(u64::try_from(interval.as_millis()).unwrap_or(u64::MAX));
        let from = Timestamp::from_timestamp_millis(from.timestamp_millis()).unwrap_or(from);
        Ok(Self::Every { interval, from })
    }

    /// The first tick after this moment; `None` when none ever comes.
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Cron { expression, zone } => {
                let local = after.with_timezone(zone);
                let next = expression.cron.find_next_occurrence(&local, false).ok()?;
                Some(next.to_utc()).filter(|next| *next > after)
            }
            Self::Every { interval, from } => {
                if *from > after {
                    return Some(*from);
                }
                let interval = i64::try_from(interval.as_millis()).ok()?;
                let passed = (after - *from).num_milliseconds() / interval;
                let next = passed.checked_add(1)?.checked_mul(interval)?;
                from.checked_add_signed(chrono::TimeDelta::try_milliseconds(next)?)
            }
        }
    }
}

fn read_zone(name: &str) -> Result<Tz, InvalidCadence> {
    name.parse().map_err(|_| {
        let shown: String = name.chars().take(80).collect();
        InvalidCadence(format!("{shown:?} is not a time zone's name such as Europe/Berlin or UTC"))
    })
}

/// What becomes of ticks that nobody fired in time, because everything was down or the schedule's queue of ticks was
/// too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CatchUp {
    /// They are declared skipped.
    #[default]
    Skip,
    /// The latest of them is fired, the others are declared skipped.
    Latest,
    /// Each is fired.
    All,
}

/// What becomes of a tick while the schedule's last task has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overlap {
    /// It is fired all the same.
    #[default]
    Allow,
    /// It is declared skipped.
    Skip,
    /// The latest such tick is fired when that task has ended; earlier ones are declared skipped.
    Queue,
    /// That task is cancelled, and the tick fired.
    CancelRunning,
}

macro_rules! words {
    ($name:ident { $($variant:ident = $word:literal),+ $(,)? }) => {
        impl $name {
            /// Every choice.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// Reads a name.
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($word => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}
words!(CatchUp { Skip = "skip", Latest = "latest", All = "all" });
words!(Overlap { Allow = "allow", Skip = "skip", Queue = "queue", CancelRunning = "cancel_running" });
words!(SkipReason { Missed = "missed", Overlap = "overlap" });

/// Why a tick was not fired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SkipReason {
    /// Nobody was there in time.
    Missed,
    /// The last task had not ended.
    Overlap,
}

/// What a schedule submits.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    /// Which handler.
    pub task_type: TaskType,
    /// Where the task waits.
    pub queue: QueueName,
    /// How soon it goes.
    pub priority: Priority,
    /// What the handler gets.
    pub input: Json,
    /// The caller's own notes.
    pub metadata: Option<Json>,
    /// Budgets and time limits.
    pub limits: Limits,
    /// What its tasks are given instead of what their type says.
    pub own: OwnTerms,
}

/// A schedule as its owner wrote it.
#[derive(Debug, Clone, PartialEq)]
pub struct NewSchedule {
    /// Whose it is.
    pub tenant: Tenant,
    /// What it is called; unique for its tenant.
    pub name: ScheduleName,
    /// When it is due.
    pub cadence: Cadence,
    /// What becomes of missed ticks.
    pub catch_up: CatchUp,
    /// What becomes of a tick while the last task runs.
    pub overlap: Overlap,
    /// Each task starts up to so long after its tick: see [`NewSchedule::start_of`].
    pub jitter: Duration,
    /// What it submits.
    pub template: Template,
    /// Whether it stands still. Ticks that pass meanwhile are forgotten.
    pub paused: bool,
    /// Whether it comes from the configuration, which may change and remove it then. What somebody writes over the API
    /// does not.
    pub configured: bool,
}

impl NewSchedule {
    /// The longest jitter: a day.
    pub const LONGEST_JITTER: Duration = Duration::from_secs(24 * 3600);

    /// When the task of this tick starts: at once, or within the jitter, always at the same moment for the same tick, so
    /// that it does not matter who fires it. Tasks of many schedules that share their ticks are spread by it.
    pub fn start_of(&self, tick: Timestamp) -> Start {
        let most = i64::try_from(self.jitter.as_millis()).unwrap_or(i64::MAX);
        if most == 0 {
            return Start::Now;
        }
        // FNV-1a, <http://www.isthe.com/chongo/tech/comp/fnv/>, with the finalizer of SplitMix64.
        let name = self.tenant.as_str().bytes().chain([0]).chain(self.name.as_str().bytes());
        let bytes = name.chain(tick.timestamp_micros().to_be_bytes());
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let after = (hash ^ (hash >> 31)) % most.unsigned_abs();
        let after =
            chrono::TimeDelta::try_milliseconds(i64::try_from(after).unwrap_or(0)).unwrap_or_default();
        Start::At(tick.checked_add_signed(after).unwrap_or(tick))
    }
}

/// A schedule as it is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// Its number.
    pub id: ScheduleId,
    /// What its owner wrote.
    pub spec: NewSchedule,
    /// Rises with every change and every firing: whoever writes must have seen this one.
    pub revision: i64,
    /// The first tick that is neither fired nor skipped; `None` while it is paused, or when none comes any more.
    pub next_tick: Option<Timestamp>,
    /// The last tick that was fired.
    pub last_tick: Option<Timestamp>,
    /// The task that it submitted last.
    pub last_task: Option<TaskId>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When its owner last changed it.
    pub updated_at: Timestamp,
}

/// A run of ticks that were not fired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Skipped {
    /// The first of them.
    pub first: Timestamp,
    /// The last of them.
    pub last: Timestamp,
    /// How many.
    pub count: u32,
    /// Why.
    pub reason: SkipReason,
}

/// What to do with the ticks that are due.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Ticks to fire, in order.
    pub fire: Vec<Timestamp>,
    /// Ticks to declare skipped, in order.
    pub skipped: Vec<Skipped>,
    /// Whether the last task is to be cancelled first.
    pub cancel_running: bool,
    /// What the schedule waits for after this.
    pub next_tick: Option<Timestamp>,
}

/// A tick that is this late was missed; a moment's delay is none.
pub const MISSED_AFTER: Duration = Duration::from_secs(60);
/// The most ticks of one plan; the rest are due in the next.
pub const MOST_TICKS: usize = 1_000;
/// The most tasks that one plan submits.
const MOST_FIRED: usize = 100;

/// What is to be done about a schedule at `now`; `None` when nothing is. `running` says whether its last task has not
/// ended.
pub fn plan(schedule: &Schedule, now: Timestamp, running: bool) -> Option<Plan> {
    let NewSchedule { cadence, catch_up, overlap, paused, .. } = &schedule.spec;
    let first = schedule.next_tick.filter(|tick| *tick <= now && !paused)?;
    let most = if *catch_up == CatchUp::All { MOST_FIRED } else { MOST_TICKS };
    let ticks: Vec<Timestamp> =
        std::iter::successors(Some(first), |tick| cadence.next_after(*tick).filter(|next| *next <= now))
            .take(most)
            .collect();
    let last = *ticks.last()?;
    let mut plan = Plan { next_tick: cadence.next_after(last), ..Plan::default() };

    let is_missed = |tick: Timestamp| (now - tick).to_std().is_ok_and(|late| late >= MISSED_AFTER);
    // What waits for a running task waits on purpose: it is not missed.
    let waits = *overlap == Overlap::Queue && (running || schedule.last_task.is_some()) && ticks.len() == 1;
    let mut candidates = Vec::new();
    for tick in ticks {
        let forgiven = match catch_up {
            CatchUp::All => true,
            CatchUp::Latest => tick == last,
            CatchUp::Skip => waits,
        };
        if forgiven || !is_missed(tick) { candidates.push(tick) } else { plan.skip(tick, SkipReason::Missed) }
    }
    match overlap {
        Overlap::Allow => plan.fire = candidates,
        Overlap::Skip => {
            let fired = if running { 0 } else { 1 };
            plan.fire = candidates.iter().copied().take(fired).collect();
            candidates.iter().skip(fired).for_each(|tick| plan.skip(*tick, SkipReason::Overlap));
        }
        Overlap::Queue => {
            let fired = if running { 0 } else { 1 };
            plan.fire = candidates.iter().copied().take(fired).collect();
            let mut left = candidates.split_off(fired.min(candidates.len()));
            if let Some(kept) = left.pop() {
                plan.next_tick = Some(kept);
            }
            left.iter().for_each(|tick| plan.skip(*tick, SkipReason::Overlap));
        }
        Overlap::CancelRunning => {
            plan.fire.extend(candidates.pop());
            candidates.iter().for_each(|tick| plan.skip(*tick, SkipReason::Overlap));
            plan.cancel_running = running && !plan.fire.is_empty();
        }
    }
    plan.skipped.sort_by_key(|skipped| skipped.first);
    let changes = !plan.fire.is_empty() || !plan.skipped.is_empty();
    changes.then_some(plan)
}

impl Plan {
    /// Adds a tick to the run before it where the reason is the same.
    fn skip(&mut self, tick: Timestamp, reason: SkipReason) {
        match self.skipped.last_mut().filter(|run| run.reason == reason) {
            Some(run) => (run.last, run.count) = (tick, run.count + 1),
            None => self.skipped.push(Skipped { first: tick, last: tick, count: 1, reason }),
        }
    }
}

#[cfg(test)]
mod tests;
