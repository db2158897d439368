//! The batch lane: requests that are not urgent may go through a provider's own Batch API, for half the price.

use std::time::Duration;

use chrono::TimeDelta;

use super::Price;
use crate::Timestamp;

/// When requests take the lane of a provider, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneTerms {
    /// Only those whose deadline is at least this far away.
    pub at_least: Duration,
    /// This long before its deadline, a request that has no answer is asked live.
    pub reserve: Duration,
    /// How long requests are gathered for one batch.
    pub gather: Duration,
    /// How often a batch is looked at.
    pub look: Duration,
    /// The most requests of a batch.
    pub most_requests: usize,
    /// The most bytes of a batch.
    pub most_bytes: usize,
    /// What its tokens cost, in hundredths of the live price.
    pub percent: u32,
}

impl Default for LaneTerms {
    /// Deadlines from an hour on; batches as OpenAI bounds them, at half the price.
    /// Source: <https://platform.openai.com/docs/guides/batch>.
    fn default() -> Self {
        Self {
            at_least: Duration::from_secs(3600),
            reserve: Duration::from_secs(900),
            gather: Duration::from_secs(60),
            look: Duration::from_secs(60),
            most_requests: 50_000,
            most_bytes: 200_000_000,
            percent: 50,
        }
    }
}

impl LaneTerms {
    /// How long a request with this deadline may wait for an answer in the lane; `None` where it is to be asked live.
    pub fn patience(&self, deadline: Timestamp, now: Timestamp) -> Option<Duration> {
        let left = (deadline - now).to_std().ok().filter(|left| *left >= self.at_least)?;
        Some(left - self.reserve)
    }

    /// How much longer one may wait that is in the lane already; `None` once it is to be asked live.
    pub fn patience_left(&self, deadline: Timestamp, now: Timestamp) -> Option<Duration> {
        let reserve = TimeDelta::from_std(self.reserve).unwrap_or(TimeDelta::MAX);
        (deadline - now - reserve).to_std().ok().filter(|left| !left.is_zero())
    }

    /// Whether the reserve leaves something to wait for.
    pub fn are_sound(&self) -> bool {
        self.reserve < self.at_least
    }

    /// What tokens cost in the lane.
    pub fn price(&self, live: Price) -> Price {
        let part = |micros: u64| {
            u64::try_from(u128::from(micros) * u128::from(self.percent) / 100).unwrap_or(u64::MAX)
        };
        Price { input_micros: part(live.input_micros), output_micros: part(live.output_micros) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_timestamp(1_800_000_000 + seconds, 0).expect("a moment")
    }

    #[test]
    fn only_what_is_not_urgent_takes_the_lane_and_leaves_it_in_time() {
        let terms = LaneTerms::default();
        assert!(terms.are_sound());
        for (deadline, patience) in [(3_599, None), (3_600, Some(2_700)), (86_400, Some(85_500)), (-5, None)]
        {
            let patience = patience.map(Duration::from_secs);
            assert_eq!(terms.patience(at(deadline), at(0)), patience, "{deadline}");
        }
        for (now, left) in [(0, Some(2_700)), (2_699, Some(1)), (2_700, None), (4_000, None)] {
            assert_eq!(terms.patience_left(at(3_600), at(now)), left.map(Duration::from_secs), "{now}");
        }
        let price = Price { input_micros: 150_001, output_micros: 600_000 };
        assert_eq!(terms.price(price), Price { input_micros: 75_000, output_micros: 300_000 });
    }
}
