//! How many calls of a provider are under way, over all processes, and how many may be.
//!
//! Each process says how many it has, and says so again while it has some: one that falls silent is gone, and its calls
//! with it. A server of one's own has no quota to go by, it only grows slow; so where it is said how soon a first token is
//! due, the number adapts: one more for each round of calls that are answered in time, three tenths fewer where one is not, once for as
//! long as that takes. Source: additive increase, multiplicative decrease, Chiu and Jain 1989,
//! <https://doi.org/10.1016/0169-7552(89)90019-6>.

use std::{collections::BTreeMap, time::Duration};

use chrono::TimeDelta;
use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// How many calls may be under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InFlight {
    /// At most.
    pub most: u32,
    /// How soon a first token is due, where the number is to adapt.
    pub first_token: Option<Duration>,
}

impl InFlight {
    /// More is no limit.
    pub const MOST: u32 = 100_000;
    /// How long a process counts that has said nothing.
    pub const LEASE: Duration = Duration::from_secs(15);
    /// Nobody is told to come back later than this.
    const LONGEST_WAIT: Duration = Duration::from_secs(10);
    /// How long a call is taken to last before one has ended.
    const FIRST_GUESS: Duration = Duration::from_secs(1);
}

/// A process that makes calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Caller(pub u64);

/// What is kept of the calls under way.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Crowd {
    callers: BTreeMap<Caller, Held>,
    /// What the most has become, in thousandths of a call.
    limit: Option<u64>,
    /// When it was last made less.
    cut_at: Option<Timestamp>,
    /// How long calls have lasted lately, in milliseconds.
    lasted: Option<u64>,
    /// When the last of those comes back that found no room.
    line: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Held {
    calls: u32,
    until: Timestamp,
}

impl Crowd {
    const ONE: u64 = 1_000;

    /// Lets a call in; else says when to come back.
    pub(super) fn enter(&mut self, terms: &InFlight, caller: Caller, now: Timestamp) -> Result<(), Duration> {
        self.callers.retain(|_, held| held.calls > 0 && held.until > now);
        if self.under_way() < self.limit(terms) {
            let held = self.callers.entry(caller).or_insert(Held { calls: 0, until: now });
            (held.calls, held.until) = (held.calls.saturating_add(1), later(now, InFlight::LEASE));
            return Ok(());
        }
        // As far apart as calls end.
        let lasts = self.lasted.map_or(InFlight::FIRST_GUESS, Duration::from_millis);
        let spacing = TimeDelta::from_std(lasts / self.limit(terms).max(1)).unwrap_or_default();
        let behind = self.line.filter(|last| *last > now).unwrap_or(now) + spacing;
        let place = behind.clamp(now + TimeDelta::milliseconds(100), later(now, InFlight::LONGEST_WAIT));
        self.line = Some(place);
        Err((place - now).to_std().unwrap_or_default())
    }

    /// A call has ended, or was not made.
    pub(super) fn leave(&mut self, caller: Caller, lasted: Option<Duration>) {
        if let Some(held) = self.callers.get_mut(&caller) {
            held.calls = held.calls.saturating_sub(1);
        }
        if let Some(lasted) = lasted {
            let lasted = u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX).min(3_600_000);
            self.lasted = Some(self.lasted.map_or(lasted, |known| (known * 15 + lasted) / 16));
        }
    }

    /// A process says how many it has.
    pub(super) fn renew(&mut self, caller: Caller, calls: u32, now: Timestamp) {
        if calls == 0 {
            self.callers.remove(&caller);
        } else {
            self.callers.insert(caller, Held { calls, until: later(now, InFlight::LEASE) });
        }
    }

    /// A call was answered so soon; or not at all, because there were too many.
    pub(super) fn feel(&mut self, terms: &InFlight, answered: Option<Duration>, now: Timestamp) {
        let Some(due) = terms.first_token else { return };
        let most = u64::from(terms.most) * Self::ONE;
        let limit = self.limit.unwrap_or(most).clamp(Self::ONE, most);
        if answered.is_some_and(|took| took <= due) {
            // Only where it is used: what nobody needs is not tried out.
            if u64::from(self.under_way()) * Self::ONE * 2 > limit {
                self.limit = Some((limit + Self::ONE * Self::ONE / limit).min(most));
            }
        } else if self.cut_at.is_none_or(|cut| cut + TimeDelta::from_std(due).unwrap_or_default() <= now) {
            self.limit = Some((limit * 7 / 10).max(Self::ONE));
            self.cut_at = Some(now);
        }
    }

    fn under_way(&self) -> u32 {
        self.callers.values().map(|held| held.calls).fold(0, u32::saturating_add)
    }

    fn limit(&self, terms: &InFlight) -> u32 {
        let adapted = self.limit.filter(|_| terms.first_token.is_some()).map(|limit| limit / Self::ONE);
        adapted.map_or(terms.most, |limit| u32::try_from(limit).unwrap_or(u32::MAX).clamp(1, terms.most))
    }
}

fn later(now: Timestamp, time: Duration) -> Timestamp {
    now + TimeDelta::from_std(time).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ONE: Caller = Caller(1);
    const OTHER: Caller = Caller(2);

    fn at(millis: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + TimeDelta::milliseconds(millis)
    }

    fn terms(most: u32, first_token: Option<u64>) -> InFlight {
        InFlight { most, first_token: first_token.map(Duration::from_millis) }
    }

    #[test]
    fn no_more_are_under_way_than_may_be_over_all_processes() {
        let (mut crowd, terms) = (Crowd::default(), terms(3, None));
        for caller in [ONE, OTHER, ONE] {
            assert_eq!(crowd.enter(&terms, caller, at(0)), Ok(()));
        }
        assert!(crowd.enter(&terms, OTHER, at(0)).is_err());
        crowd.leave(ONE, Some(Duration::from_millis(500)));
        assert_eq!(crowd.enter(&terms, OTHER, at(0)), Ok(()));
    }

    #[test]
    fn those_that_find_no_room_come_back_as_calls_end() {
        let (mut crowd, terms) = (Crowd::default(), terms(2, None));
        for _ in 0..2 {
            crowd.enter(&terms, ONE, at(0)).expect("room");
            crowd.leave(ONE, Some(Duration::from_secs(4)));
            crowd.enter(&terms, ONE, at(0)).expect("room");
        }
        let waits: Vec<_> = (0..10).map(|_| crowd.enter(&terms, OTHER, at(0)).expect_err("full")).collect();
        assert_eq!(waits[..3], [2, 4, 6].map(Duration::from_secs), "two at a time, four seconds each");
        assert_eq!(waits[9], InFlight::LONGEST_WAIT);
    }

    #[test]
    fn the_calls_of_a_process_that_has_gone_do_not_count() {
        let (mut crowd, terms) = (Crowd::default(), terms(1, None));
        crowd.enter(&terms, ONE, at(0)).expect("room");
        crowd.renew(ONE, 1, at(10_000));
        assert!(crowd.enter(&terms, OTHER, at(24_999)).is_err(), "it lives");
        assert_eq!(crowd.enter(&terms, OTHER, at(25_000)), Ok(()));
        crowd.renew(OTHER, 0, at(25_000));
        assert_eq!(crowd.enter(&terms, ONE, at(25_000)), Ok(()));
    }

    #[test]
    fn a_server_that_grows_slow_gets_fewer_calls_and_more_again_when_it_is_quick() {
        let (mut crowd, terms) = (Crowd::default(), terms(100, Some(1_000)));
        for _ in 0..100 {
            crowd.enter(&terms, ONE, at(0)).expect("room");
        }
        let slow = Some(Duration::from_millis(1_001));
        crowd.feel(&terms, slow, at(0));
        crowd.feel(&terms, slow, at(999));
        assert_eq!(crowd.limit(&terms), 70, "once for all that began together");
        crowd.feel(&terms, None, at(1_000));
        assert_eq!(crowd.limit(&terms), 49);
        let quick = Some(Duration::from_millis(100));
        for _ in 0..50 {
            crowd.feel(&terms, quick, at(1_000));
        }
        assert_eq!(crowd.limit(&terms), 50, "a round of calls, one more");
        crowd.renew(ONE, 10, at(1_000));
        for _ in 0..500 {
            crowd.feel(&terms, quick, at(1_000));
        }
        assert_eq!(crowd.limit(&terms), 50, "nobody needs more");
    }

    proptest! {
        #[test]
        fn the_limit_stays_between_one_and_the_most(
            most in 1_u32..500,
            answers in prop::collection::vec((prop::option::of(0_u64..3_000), 0_i64..2_000), 0..300),
        ) {
            let (mut crowd, terms, mut now) = (Crowd::default(), terms(most, Some(1_000)), 0);
            for (answered, passed) in answers {
                now += passed;
                let _ = crowd.enter(&terms, ONE, at(now));
                crowd.feel(&terms, answered.map(Duration::from_millis), at(now));
                prop_assert!((1..=most).contains(&crowd.limit(&terms)));
                prop_assert!(crowd.under_way() <= most);
            }
        }
    }
}
