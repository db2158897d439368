//! Fair shares of a queue: who sends much does not hold up who sends little.
//!
//! The tasks of a fair queue belong to lanes, one for each tenant and key. When a task begins to wait it gets a rank, the
//! virtual time at which its lane's turn comes; among equally urgent tasks the lowest rank goes first. A lane's next rank is
//! as much later as its last task is expected to cost, in tokens; a lane that had nothing waiting begins at the queue's
//! clock, which is the highest rank that has been started. So lanes that wait share what workers do equally, whatever is
//! free goes to whoever waits, and nobody saves up turns. Source: start-time fair queueing, Goyal, Vin and Cheng 1996,
//! <https://doi.org/10.1145/248156.248171>.

use std::num::NonZeroU32;

use crate::name::name;

name!(
    /// What tasks share that are to take turns with others: 1–128 bytes without control characters.
    FairnessKey, "fairness key", max 128, |c| !c.is_control(), "1 to 128 bytes without control characters"
);

/// Whose share of a fair queue a task is taken from, and how much it is expected to take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// The lane's key; tasks of a tenant without one share a lane.
    pub key: Option<FairnessKey>,
    /// Tokens that the task is expected to use.
    pub cost: NonZeroU32,
}

impl Share {
    /// What a task counts that asks no model.
    pub const OTHER_WORK: NonZeroU32 = NonZeroU32::new(1_000).expect("not zero");
}

/// A waiting task's place among those that are as urgent: the lowest goes first. In a fair queue that is a virtual time, in
/// others the task's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Rank(pub i64);

/// What is kept of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lane {
    /// The rank that its next task gets unless the clock is beyond that.
    pub next: Rank,
    /// The share of its expected costs that its tasks have used lately, in thousandths; `None` before one has ended.
    pub used: Option<i32>,
}

impl Lane {
    /// A lane that has had no task.
    pub const NEW: Self = Self { next: Rank(0), used: None };
    /// The highest rank: what an order on Redis holds.
    const LAST: i64 = (1 << 49) - 1;

    /// A task of this lane begins to wait.
    pub fn line_up(&mut self, clock: Rank, cost: NonZeroU32) -> Rank {
        let rank = self.next.max(clock);
        let share = i64::from(self.used.unwrap_or(1_000).clamp(20, 10_000));
        let cost = (i64::from(cost.get()) * share / 1_000).max(1);
        self.next = Rank(rank.0.saturating_add(cost).min(Self::LAST));
        rank
    }

    /// A task of this lane has ended. The last sixteen or so count: what is expected of the next ones comes closer to what
    /// is used, while those that wait keep their places.
    pub fn learn(&mut self, cost: NonZeroU32, used: u64) {
        let share = used.saturating_mul(1_000) / u64::from(cost.get());
        let share = i32::try_from(share.min(10_000)).unwrap_or(10_000);
        self.used = Some(self.used.map_or(share, |known| (known * 15 + share) / 16));
    }

    /// Whether nothing is lost when it is forgotten: its next task would begin at the clock all the same.
    pub fn is_forgettable(&self, clock: Rank) -> bool {
        self.next <= clock
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cost(tokens: u32) -> NonZeroU32 {
        NonZeroU32::new(tokens).expect("not zero")
    }

    #[test]
    fn who_comes_late_with_little_is_not_behind_who_came_early_with_much() {
        let (mut many, mut few, mut clock) = (Lane::NEW, Lane::NEW, Rank(0));
        let mut waiting: Vec<(Rank, &str)> =
            (0..1_000).map(|_| (many.line_up(clock, cost(500)), "many")).collect();
        clock = waiting[99].0;
        waiting.drain(..100);
        waiting.extend((0..5).map(|_| (few.line_up(clock, cost(500)), "few")));
        waiting.sort();
        let last = waiting.iter().rposition(|(_, lane)| *lane == "few").expect("it waits");
        assert!(last <= 10, "turn and turn about, not {last} before it");
    }

    #[test]
    fn a_lane_that_rests_saves_up_no_turns_and_is_owed_none() {
        let (mut busy, mut idle) = (Lane::NEW, Lane::NEW);
        idle.line_up(Rank(0), cost(100));
        let mut clock = Rank(0);
        for _ in 0..50 {
            clock = busy.line_up(clock, cost(100));
        }
        assert_eq!(idle.line_up(clock, cost(100)), clock);
        assert_eq!(busy.line_up(clock, cost(100)), Rank(clock.0 + 100));
        assert!(!busy.is_forgettable(clock));
        assert!(busy.is_forgettable(Rank(clock.0 + 200)));
    }

    #[test]
    fn what_is_expected_of_a_lane_follows_what_it_uses() {
        let mut lane = Lane::NEW;
        for _ in 0..100 {
            lane.learn(cost(1_000), 100);
        }
        let first = lane.line_up(Rank(0), cost(1_000));
        assert_eq!(lane.line_up(Rank(0), cost(1_000)).0 - first.0, 100);
        lane.learn(cost(1), u64::MAX);
        assert!(lane.used.is_some_and(|used| used <= 10_000), "{lane:?}");
    }

    proptest! {
        /// While two lanes wait, neither gets more than the other but for one task each, however much each of theirs costs.
        #[test]
        fn lanes_that_wait_get_equally_much(
            costs in prop::collection::vec((1_u32..2_000, 1_u32..2_000), 1..100),
            head_start in 0_usize..50,
        ) {
            let (mut one, mut other) = (Lane::NEW, Lane::NEW);
            let mut waiting: Vec<(Rank, usize, u32)> =
                costs.iter().map(|(its, _)| (one.line_up(Rank(0), cost(*its)), 0, *its)).collect();
            let started = head_start.min(waiting.len() - 1);
            let clock = waiting[started].0;
            waiting.drain(..started);
            waiting.extend(costs.iter().map(|(_, its)| (other.line_up(clock, cost(*its)), 1, *its)));
            waiting.sort();
            let mut served = [0_i64; 2];
            let mut left = [0; 2];
            waiting.iter().for_each(|(_, lane, _)| left[*lane] += 1);
            for (_, lane, its) in waiting {
                if left.contains(&0) {
                    break;
                }
                served[lane] += i64::from(its);
                left[lane] -= 1;
                prop_assert!((served[0] - served[1]).abs() <= 2 * 2_000, "{served:?}");
            }
        }

        /// Inside a lane, who came first goes first.
        #[test]
        fn a_lane_keeps_its_order(steps in prop::collection::vec((0_i64..500, 1_u32..2_000, 0_u64..5_000), 1..100)) {
            let (mut lane, mut clock, mut last) = (Lane::NEW, Rank(0), None);
            for (passed, its, used) in steps {
                clock = Rank(clock.0 + passed);
                let rank = lane.line_up(clock, cost(its));
                prop_assert!(last.is_none_or(|last| last < rank));
                last = Some(rank);
                lane.learn(cost(its), used);
            }
        }
    }
}
