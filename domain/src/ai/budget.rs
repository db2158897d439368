//! How much money calls of models may cost, over all workers, in a day or a month of UTC.
//!
//! A call is let through by what it costs at most, as far as that is known, which counts as spent at once; the difference is
//! given back at its end. So calls that run side by side never spend together what only one of them may.

use chrono::{Datelike, NaiveDate};
use serde::{Deserialize, Serialize};

use crate::{FairnessKey, Tenant, Timestamp};

/// Whose purse a budget is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Purses {
    /// One for all.
    #[default]
    One,
    /// One for each tenant.
    PerTenant,
    /// One for each fairness key of a tenant; tasks without a key share one.
    PerFairnessKey,
}

impl Purses {
    const ALL: [(Self, &'static str); 2] =
        [(Self::PerTenant, "tenant"), (Self::PerFairnessKey, "fairness_key")];

    /// The name in configurations, where there are several.
    pub fn as_str(self) -> Option<&'static str> {
        Self::ALL.iter().find(|(purses, _)| *purses == self).map(|(_, name)| *name)
    }

    /// Reads a name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, name)| *name == text).map(|(purses, _)| *purses)
    }

    /// Whose purse pays for this one, where it is not everybody's.
    pub fn owner(self, payer: &Payer) -> Option<String> {
        match (self, &payer.fairness_key) {
            (Self::One, _) => None,
            (Self::PerFairnessKey, Some(key)) => Some(format!("{}/{key}", payer.tenant)),
            (Self::PerTenant, _) | (Self::PerFairnessKey, None) => Some(payer.tenant.to_string()),
        }
    }
}

/// For whom a call is made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Payer {
    /// Whose task it is.
    pub tenant: Tenant,
    /// The task's fairness key.
    pub fairness_key: Option<FairnessKey>,
}

/// How long a budget lasts before it is whole again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    /// From midnight to midnight.
    Day,
    /// From the first to the first.
    Month,
}

impl Period {
    /// The name in configurations.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Month => "month",
        }
    }

    /// Reads a name.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Day, Self::Month].into_iter().find(|period| period.as_str() == text)
    }

    /// Its first day.
    fn begins(self, now: Timestamp) -> NaiveDate {
        let today = now.date_naive();
        match self {
            Self::Day => today,
            Self::Month => today.with_day(1).unwrap_or(today),
        }
    }
}

/// What may be spent. Money is in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Within this time…
    pub period: Period,
    /// … this much.
    pub limit: u64,
    /// From here on, somebody is told.
    pub warn_at: u64,
}

/// What is kept of a budget.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Purse {
    /// The first day of the period.
    period: Option<NaiveDate>,
    spent: u64,
    /// Whether somebody was told in this period.
    warned: bool,
}

/// What became of a wish to spend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spend {
    /// It may be spent.
    May {
        /// Where somebody is to be told of it: what has been spent with it.
        warn: Option<u64>,
    },
    /// It may not.
    MayNot {
        /// What has been spent.
        spent: u64,
        /// The first day of the period.
        period: NaiveDate,
    },
}

impl Purse {
    /// Takes out what a call costs at most.
    pub fn spend(&mut self, budget: &Budget, cost: u64, now: Timestamp) -> Spend {
        let period = self.turn_over(budget, now);
        let spent = self.spent.saturating_add(cost);
        // What costs nothing is not let through either once all is spent: it only seems to cost nothing.
        if spent > budget.limit || self.spent >= budget.limit {
            return Spend::MayNot { spent: self.spent, period };
        }
        self.spent = spent;
        let warn = spent >= budget.warn_at && !self.warned;
        self.warned |= warn;
        Spend::May { warn: warn.then_some(spent) }
    }

    /// Puts back what a call did not cost, or takes out what it cost beyond.
    pub fn settle(&mut self, budget: &Budget, reserved: u64, cost: u64, now: Timestamp) {
        let before = self.period;
        let period = self.turn_over(budget, now);
        // What was taken out of the last period's purse is not put back into this one's.
        let reserved = if before == Some(period) { reserved } else { 0 };
        self.spent = self.spent.saturating_sub(reserved).saturating_add(cost);
    }

    /// What has been spent in the period that is now, and its first day.
    pub fn spent(&self, budget: &Budget, now: Timestamp) -> (u64, NaiveDate) {
        let mut purse = self.clone();
        let period = purse.turn_over(budget, now);
        (purse.spent, period)
    }

    /// With a new period the purse is full. A clock that was set back does not fill it.
    fn turn_over(&mut self, budget: &Budget, now: Timestamp) -> NaiveDate {
        let begins = budget.period.begins(now);
        match self.period {
            Some(known) if known >= begins => known,
            _ => {
                *self = Self { period: Some(begins), ..Self::default() };
                begins
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BUDGET: Budget = Budget { period: Period::Day, limit: 100, warn_at: 80 };

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a moment")
    }

    #[test]
    fn each_pays_out_of_their_own_purse_where_there_are_several() {
        let payer = |key: Option<&str>| Payer {
            fairness_key: key.map(|key| FairnessKey::new(key).expect("a key")),
            ..Payer::default()
        };
        for (purses, key, owner) in [
            (Purses::One, Some("a"), None),
            (Purses::PerTenant, Some("a"), Some("default")),
            (Purses::PerFairnessKey, Some("a"), Some("default/a")),
            (Purses::PerFairnessKey, None, Some("default")),
        ] {
            assert_eq!(purses.owner(&payer(key)).as_deref(), owner, "{purses:?} {key:?}");
        }
        for purses in [Purses::PerTenant, Purses::PerFairnessKey] {
            assert_eq!(purses.as_str().and_then(Purses::parse), Some(purses));
        }
        assert_eq!((Purses::One.as_str(), Purses::parse("one")), (None, None));
    }

    #[test]
    fn no_more_is_spent_than_there_is_and_one_is_told_once() {
        let (mut purse, now) = (Purse::default(), at("2026-11-29T10:00:00Z"));
        assert_eq!(purse.spend(&BUDGET, 60, now), Spend::May { warn: None });
        assert_eq!(purse.spend(&BUDGET, 30, now), Spend::May { warn: Some(90) });
        let period = now.date_naive();
        assert_eq!(purse.spend(&BUDGET, 20, now), Spend::MayNot { spent: 90, period });
        assert_eq!(purse.spend(&BUDGET, 10, now), Spend::May { warn: None });
        assert_eq!(purse.spend(&BUDGET, 0, now), Spend::MayNot { spent: 100, period });
        purse.settle(&BUDGET, 60, 15, now);
        assert_eq!(purse.spent(&BUDGET, now), (55, period));
        assert_eq!(purse.spent(&BUDGET, at("2026-11-30T10:00:00Z")).0, 0, "a new day");
        assert_eq!(purse.spend(&BUDGET, 45, now), Spend::May { warn: None });
    }

    #[test]
    fn a_new_period_has_a_full_purse_and_gets_nothing_back_from_the_last() {
        let mut purse = Purse::default();
        purse.spend(&BUDGET, 100, at("2026-11-29T23:59:59Z"));
        let next = at("2026-11-30T00:00:00Z");
        purse.settle(&BUDGET, 100, 40, next);
        assert_eq!(
            purse.spend(&BUDGET, 60, next),
            Spend::May { warn: Some(100) },
            "it was paid in the new one"
        );
        assert!(
            matches!(purse.spend(&BUDGET, 1, at("2026-11-29T12:00:00Z")), Spend::MayNot { .. }),
            "set back"
        );
        let month = Budget { period: Period::Month, ..BUDGET };
        let mut purse = Purse::default();
        purse.spend(&month, 100, at("2026-11-01T00:00:00Z"));
        assert!(matches!(purse.spend(&month, 1, at("2026-11-30T23:59:59Z")), Spend::MayNot { .. }));
        assert_eq!(purse.spend(&month, 100, at("2026-12-01T00:00:00Z")), Spend::May { warn: Some(100) });
    }

    proptest! {
        /// However calls overlap: as long as none costs more than it was let through by, the limit is never passed.
        #[test]
        fn what_runs_side_by_side_never_passes_the_limit(
            calls in prop::collection::vec((1_u64..40, 0_u64..=100, any::<bool>()), 1..100),
        ) {
            let (mut purse, now) = (Purse::default(), at("2026-11-29T10:00:00Z"));
            let (mut open, mut spent) = (Vec::new(), 0);
            for (most, share, end_one) in calls {
                if matches!(purse.spend(&BUDGET, most, now), Spend::May { .. }) {
                    open.push((most, most * share / 100));
                }
                if end_one && let Some((reserved, cost)) = open.pop() {
                    purse.settle(&BUDGET, reserved, cost, now);
                    spent += cost;
                }
                let held: u64 = open.iter().map(|(most, _)| most).sum();
                prop_assert!(spent + held <= BUDGET.limit);
            }
        }
    }
}
