//! How much may be asked of a provider, over all workers: requests and tokens per minute, kept as moments.
//!
//! The generic cell rate algorithm (GCRA, <https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm>), charged in tokens:
//! each call moves the *theoretical arrival time* on by what it costs, and calls are let through as long as that time is less
//! than a burst ahead. So within any time `t` at most `burst + rate · t` passes. What a call costs is known at its end only:
//! it is let through by an estimate, and the difference is given back, or charged, then.
//!
//! Who is not let through is told when to come back. Those that are told so stand in a line, spaced a little closer than
//! calls have cost lately, so that they neither come all at once nor leave the quota unused. Who finds no room when it comes
//! back is not sent to the end of that line, but of a short one of those.

use std::time::Duration;

use chrono::{NaiveDate, TimeDelta};
use serde::{Deserialize, Serialize};

use super::{Budget, Caller, Crowd, InFlight, Purse, Spend};
use crate::Timestamp;

/// So many a minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PerMinute(u64);

impl PerMinute {
    /// More needs no limit.
    pub const MOST: u64 = 1_000_000_000;

    /// 1 to [`PerMinute::MOST`].
    pub fn new(count: u64) -> Option<Self> {
        (1..=Self::MOST).contains(&count).then_some(Self(count))
    }

    /// How many a minute.
    pub fn count(self) -> u64 {
        self.0
    }

    /// How long it takes until so many are let through.
    fn time_of(self, count: u64) -> TimeDelta {
        let nanos = u128::from(count) * 60_000_000_000 / u128::from(self.0);
        TimeDelta::nanoseconds(i64::try_from(nanos).unwrap_or(i64::MAX))
    }

    /// How many are let through in a time.
    fn count_in(self, time: Duration) -> u64 {
        u64::try_from(time.as_nanos() * u128::from(self.0) / 60_000_000_000).unwrap_or(u64::MAX)
    }
}

/// What may be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Calls.
    pub requests: Option<PerMinute>,
    /// Tokens, read and written.
    pub tokens: Option<PerMinute>,
    /// What may pass at once after a rest: as much as the rate lets through in this time.
    pub burst: Duration,
}

impl Quota {
    /// Providers count by the minute.
    pub const DEFAULT_BURST: Duration = Duration::from_secs(60);
    /// Nobody is told to come back later than this; who still finds no room then is told again.
    pub const LONGEST_WAIT: Duration = Duration::from_secs(60);
    /// Nothing but what the provider says holds calls up.
    pub const NONE: Self = Self { requests: None, tokens: None, burst: Self::DEFAULT_BURST };

    /// Whether a burst has room for a call, and for a token.
    pub fn lets_anything_through(&self) -> bool {
        [self.requests, self.tokens].into_iter().flatten().all(|rate| rate.count_in(self.burst) > 0)
    }
}

/// What is kept of a quota.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Meter {
    /// When the next call would be on time, by requests.
    requests: Option<Timestamp>,
    /// And by tokens.
    tokens: Option<Timestamp>,
    /// When the last one in the line comes back.
    line: Option<Timestamp>,
    /// When the last one comes back that did so before.
    line_of_returners: Option<Timestamp>,
    /// How much of what was reserved has been used lately, in thousandths; `None` before the first call has ended.
    used: Option<u64>,
    /// What the provider said.
    closed: Option<Closed>,
    /// What was spent, where this is a budget's.
    #[serde(skip_serializing_if = "is_untouched")]
    purse: Purse,
    /// Calls under way, where these are counted.
    #[serde(skip_serializing_if = "is_untouched")]
    crowd: Crowd,
}

fn is_untouched<T: Default + PartialEq>(part: &T) -> bool {
    *part == T::default()
}

/// A provider that is left alone for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Closed {
    until: Timestamp,
    code: String,
    message: String,
    by_rate: bool,
}

/// One step of a meter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A call wants to be let through, and may use so many tokens.
    Reserve {
        /// An estimate.
        tokens: u64,
        /// Whether it comes back.
        again: bool,
    },
    /// A call has ended, or was not made.
    Settle {
        /// What was reserved for it.
        reserved: u64,
        /// What it used; `None` where it was not made at all.
        used: Option<u64>,
    },
    /// The provider is to be left alone for so long.
    Close {
        /// How long.
        time: Duration,
        /// The code of its error.
        code: String,
        /// What it said.
        message: String,
        /// Whether it says so of its rates.
        by_rate: bool,
    },
    /// A call wants to spend as much as this of a budget.
    Spend {
        /// Of which.
        budget: Budget,
        /// What it costs at most, as far as that is known.
        most: u64,
    },
    /// A call has ended.
    Pay {
        /// From which budget.
        budget: Budget,
        /// What it was let through by.
        reserved: u64,
        /// What it cost.
        cost: u64,
    },
    /// A call wants to be one of those under way.
    Enter {
        /// How many these may be.
        terms: InFlight,
        /// Whose call it is.
        caller: Caller,
    },
    /// A call has ended, or was not made.
    Leave {
        /// Whose call it was.
        caller: Caller,
        /// How long it lasted; `None` where it was not made.
        lasted: Option<Duration>,
    },
    /// A process has so many under way.
    Renew {
        /// Which.
        caller: Caller,
        /// How many.
        calls: u32,
    },
    /// A call was answered.
    Felt {
        /// How many may be under way.
        terms: InFlight,
        /// How soon; `None` where it was not, because there were too many.
        answered: Option<Duration>,
    },
    /// The provider has said what is left of its own quota, by its own count.
    Left {
        /// Requests.
        requests: Option<u64>,
        /// Tokens.
        tokens: Option<u64>,
    },
}

/// What a step came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The call may be made now; or, of another step: it is noted.
    Pass,
    /// The call may be made, and somebody is to be told how little is left.
    Warn {
        /// What has been spent.
        spent: u64,
        /// Of how much.
        limit: u64,
    },
    /// The call may not be made.
    Refused(Refusal),
}

/// Why a call may not be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Not now.
    ComeBack {
        /// In so long.
        after: Duration,
        /// Which limit stands in the way: `requests` or `tokens` a minute, and how many.
        limit: (&'static str, u64),
    },
    /// Not while as many are under way as may be.
    Full {
        /// In so long there may be room.
        after: Duration,
        /// How many may be under way at most.
        most: u32,
    },
    /// Not while the provider is left alone.
    Closed {
        /// For so much longer.
        left: Duration,
        /// The code of its error.
        code: String,
        /// What it said.
        message: String,
        /// Whether it said so of its rates: then calls wait for it. Else it is to be paid first.
        by_rate: bool,
    },
    /// Not in this period.
    Spent {
        /// The budget.
        budget: Budget,
        /// How much of it has been spent.
        spent: u64,
        /// The first day of the period.
        period: NaiveDate,
    },
    /// Never.
    TooLarge {
        /// The tokens that it may use.
        tokens: u64,
        /// The most that may pass at once.
        most: u64,
    },
}

impl Meter {
    /// The share of what is reserved that calls are taken to use, before one has ended, in thousandths.
    const USED_AT_FIRST: u64 = 500;

    /// Takes a step.
    pub fn step(&mut self, quota: &Quota, step: &Step, now: Timestamp) -> Verdict {
        match step {
            Step::Reserve { tokens, again } => {
                if let Err(refusal) = self.reserve(quota, *tokens, *again, now) {
                    return Verdict::Refused(refusal);
                }
            }
            Step::Settle { reserved, used } => self.settle(quota, *reserved, *used, now),
            Step::Close { time, code, message, by_rate } => {
                let until = later(now, *time);
                let known = self.closed.as_ref().map(|closed| closed.until);
                if known.is_none_or(|known| known < until) {
                    let (code, message) = (code.clone(), message.clone());
                    self.closed = Some(Closed { until, code, message, by_rate: *by_rate });
                }
            }
            Step::Spend { budget, most } => match self.purse.spend(budget, *most, now) {
                Spend::May { warn: None } => {}
                Spend::May { warn: Some(spent) } => return Verdict::Warn { spent, limit: budget.limit },
                Spend::MayNot { spent, period } => {
                    return Verdict::Refused(Refusal::Spent { budget: *budget, spent, period });
                }
            },
            Step::Pay { budget, reserved, cost } => self.purse.settle(budget, *reserved, *cost, now),
            Step::Enter { terms, caller } => {
                if let Err(after) = self.crowd.enter(terms, *caller, now) {
                    return Verdict::Refused(Refusal::Full { after, most: terms.most });
                }
            }
            Step::Leave { caller, lasted } => self.crowd.leave(*caller, *lasted),
            Step::Renew { caller, calls } => self.crowd.renew(*caller, *calls, now),
            Step::Felt { terms, answered } => self.crowd.feel(terms, *answered, now),
            Step::Left { requests, tokens } => {
                hold_to(&mut self.requests, quota.requests, quota.burst, *requests, now);
                hold_to(&mut self.tokens, quota.tokens, quota.burst, *tokens, now);
            }
        }
        Verdict::Pass
    }

    /// What has been spent of a budget in the period that is now, and its first day.
    pub fn spent(&self, budget: &Budget, now: Timestamp) -> (u64, NaiveDate) {
        self.purse.spent(budget, now)
    }

    fn reserve(&mut self, quota: &Quota, tokens: u64, again: bool, now: Timestamp) -> Result<(), Refusal> {
        if let Some(rate) = quota.tokens
            && tokens > rate.count_in(quota.burst)
        {
            return Err(Refusal::TooLarge { tokens, most: rate.count_in(quota.burst) });
        }
        if let Some(closed) = &self.closed {
            if let Some(left) = (closed.until - now).to_std().ok().filter(|left| !left.is_zero()) {
                let Closed { code, message, by_rate, .. } = closed.clone();
                return Err(Refusal::Closed { left, code, message, by_rate });
            }
            self.closed = None;
        }
        let burst = TimeDelta::from_std(quota.burst).unwrap_or(TimeDelta::MAX);
        let dimensions =
            [(quota.requests, self.requests, 1, "requests"), (quota.tokens, self.tokens, tokens, "tokens")];
        // The one that opens last decides.
        let mut opens = (now, ("", 0), TimeDelta::zero());
        for (rate, arrival, cost, name) in dimensions {
            let Some(rate) = rate else { continue };
            let cost = rate.time_of(cost);
            let at = ahead_of(arrival, now, burst) + cost - burst;
            if at > opens.0 {
                opens = (at, (name, rate.count()), cost);
            }
        }
        let (at, limit, cost) = opens;
        if at > now {
            return Err(Refusal::ComeBack { after: self.line_up(at, limit.0, cost, again, now), limit });
        }
        let pass = |arrival: &mut Option<Timestamp>, rate: Option<PerMinute>, cost| {
            *arrival = rate.map(|rate| ahead_of(*arrival, now, burst) + rate.time_of(cost));
        };
        pass(&mut self.requests, quota.requests, 1);
        pass(&mut self.tokens, quota.tokens, tokens);
        Ok(())
    }

    /// A place in a line, behind its last one.
    fn line_up(
        &mut self,
        opens: Timestamp,
        limit: &str,
        cost: TimeDelta,
        again: bool,
        now: Timestamp,
    ) -> Duration {
        // A request costs what it costs; tokens are estimated, most often far too high.
        let share = if limit == "tokens" { self.used.unwrap_or(Self::USED_AT_FIRST) } else { 1_000 };
        let share = i32::try_from(share.clamp(20, 1_000)).unwrap_or(1_000);
        // A tenth closer than that, because some do not come back.
        let spacing = cost * share / 1_000 * 9 / 10;
        let line = if again { &mut self.line_of_returners } else { &mut self.line };
        let behind = line.filter(|last| *last > now).map_or(opens, |last| opens.max(last + spacing));
        let place = behind.min(later(now, Quota::LONGEST_WAIT));
        *line = Some(place);
        (place - now).to_std().unwrap_or_default()
    }

    fn settle(&mut self, quota: &Quota, reserved: u64, used: Option<u64>, now: Timestamp) {
        if let Some(used) = used
            && let Some(share) = used.saturating_mul(1_000).checked_div(reserved)
        {
            // The last sixteen or so calls count.
            let share = share.min(10_000);
            self.used = Some(self.used.map_or(share, |known| (known * 15 + share) / 16));
        }
        let back = |arrival: &mut Option<Timestamp>, rate: Option<PerMinute>, reserved: u64, used: u64| {
            if let (Some(at), Some(rate)) = (arrival.as_mut(), rate) {
                // What is not used of it any more cannot be given back.
                *at = (*at - rate.time_of(reserved) + rate.time_of(used)).max(now.min(*at));
            }
        };
        back(&mut self.requests, quota.requests, 1, u64::from(used.is_some()));
        back(&mut self.tokens, quota.tokens, reserved, used.unwrap_or(0));
    }
}

/// Where the arrival time stands: not before now, and no farther ahead than a burst and calls that used more than was
/// reserved explain. What is farther comes from a clock that was set back.
fn ahead_of(arrival: Option<Timestamp>, now: Timestamp, burst: TimeDelta) -> Timestamp {
    let farthest = now.checked_add_signed(burst * 3).unwrap_or(Timestamp::MAX_UTC);
    arrival.map_or(now, |arrival| arrival.clamp(now, farthest))
}

/// Charges what the provider has counted and we have not. It never gives anything back: others may use the same key.
fn hold_to(
    arrival: &mut Option<Timestamp>,
    rate: Option<PerMinute>,
    burst: Duration,
    left: Option<u64>,
    now: Timestamp,
) {
    let (Some(rate), Some(left)) = (rate, left) else { return };
    let spent = rate.count_in(burst).saturating_sub(left);
    let at_least = now.checked_add_signed(rate.time_of(spent)).unwrap_or(Timestamp::MAX_UTC);
    *arrival = Some(arrival.map_or(at_least, |arrival| arrival.max(at_least)));
}

fn later(now: Timestamp, time: Duration) -> Timestamp {
    let time = TimeDelta::from_std(time).unwrap_or(TimeDelta::MAX);
    now.checked_add_signed(time).unwrap_or(Timestamp::MAX_UTC)
}

#[cfg(test)]
mod tests;
