//! In which order one worker serves its queues.

use std::collections::HashMap;

use crate::QueueName;

/// The order across the queues of one worker. Inside a queue it is always priority, then age.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum QueueOrder {
    /// The most urgent task of all queues first; among equals, queues take turns.
    #[default]
    Priority,
    /// The first queue first, whatever waits in the others; those that are not named come last.
    Strict(Vec<QueueName>),
    /// Each queue by its weight, as long as there is something in it; 1 for those that are not named.
    Weighted(Vec<(QueueName, u32)>),
}

impl QueueOrder {
    /// The largest weight.
    pub const LARGEST_WEIGHT: u32 = 1_000;
}

/// Queues, each with the most that may be taken from it.
pub type Shares = Vec<(QueueName, usize)>;

/// Whose turn it is. Weights are kept by stride scheduling (Waldspurger and Weihl, 1995): each task moves its queue on by
/// a stride that is the shorter the heavier the queue, and the queue that is the least far on is next. A queue in which
/// nothing waits saves up no more than one turn.
#[derive(Debug, Clone, Default)]
pub struct Turns {
    order: QueueOrder,
    /// How far on each queue is.
    places: HashMap<QueueName, u64>,
}

impl Turns {
    /// Strides are this long at a weight of one.
    const STRIDE: u64 = 1 << 20;

    /// Nobody was served yet.
    pub fn new(order: QueueOrder) -> Self {
        Self { order, ..Self::default() }
    }

    /// How to ask for at most `limit` tasks: one request after the other, each for what the ones before have left, until the
    /// limit is reached. `allowed` says the most that may be taken from each queue in all.
    pub fn requests(&mut self, allowed: &[(QueueName, usize)], limit: usize) -> Vec<Shares> {
        match &self.order {
            QueueOrder::Priority => vec![allowed.to_vec()],
            QueueOrder::Strict(first) => {
                let place = |queue: &QueueName| first.iter().position(|named| named == queue);
                let mut ordered = allowed.to_vec();
                ordered.sort_by_key(|(queue, _)| place(queue).unwrap_or(first.len()));
                ordered.into_iter().map(|share| vec![share]).collect()
            }
            QueueOrder::Weighted(_) => {
                self.catch_up(allowed);
                vec![self.shares(allowed, limit), allowed.to_vec()]
            }
        }
    }

    /// A task of this queue was taken.
    pub fn took(&mut self, queue: &QueueName) {
        if let QueueOrder::Weighted(_) = self.order {
            let place = self.place(queue) + self.stride(queue);
            self.places.insert(queue.clone(), place);
        }
    }

    /// As if each of these queues had as much as it may give.
    fn shares(&self, allowed: &[(QueueName, usize)], limit: usize) -> Shares {
        let mut ahead = self.clone();
        let mut shares: Shares = allowed.iter().map(|(queue, _)| (queue.clone(), 0)).collect();
        for _ in 0..limit {
            let open = (0..allowed.len()).filter(|at| shares[*at].1 < allowed[*at].1);
            let Some(next) = open.min_by_key(|at| ahead.place(&allowed[*at].0)) else { break };
            shares[next].1 += 1;
            ahead.took(&allowed[next].0);
        }
        shares.retain(|(_, share)| *share > 0);
        shares
    }

    /// Queues that are served by their weights are never further apart than the longest stride; one that is further behind
    /// had nothing to give, and what it did not take is gone.
    fn catch_up(&mut self, allowed: &[(QueueName, usize)]) {
        let queues = || allowed.iter().map(|(queue, _)| queue);
        let first = queues().map(|queue| self.place(queue)).max().unwrap_or(0);
        let apart = queues().map(|queue| self.stride(queue)).max().unwrap_or(0);
        for queue in queues() {
            let place = self.place(queue).max(first.saturating_sub(apart));
            self.places.insert(queue.clone(), place);
        }
    }

    fn place(&self, queue: &QueueName) -> u64 {
        self.places.get(queue).copied().unwrap_or(0)
    }

    fn stride(&self, queue: &QueueName) -> u64 {
        let weight = match &self.order {
            QueueOrder::Weighted(weights) => weights.iter().find(|(named, _)| named == queue),
            QueueOrder::Priority | QueueOrder::Strict(_) => None,
        };
        Self::STRIDE / u64::from(weight.map_or(1, |(_, weight)| *weight).max(1))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn queue(name: &str) -> QueueName {
        QueueName::new(name).expect("a valid name")
    }

    fn allowed(queues: &[(&str, usize)]) -> Shares {
        queues.iter().map(|(name, most)| (queue(name), *most)).collect()
    }

    fn weighted(weights: &[(&str, u32)]) -> Turns {
        Turns::new(QueueOrder::Weighted(
            weights.iter().map(|(name, weight)| (queue(name), *weight)).collect(),
        ))
    }

    /// Serves `rounds` claims of `limit` from backlogs; answers what each queue got.
    fn serve(turns: &mut Turns, backlog: &mut [(&str, usize)], limit: usize, rounds: usize) -> Vec<usize> {
        let mut served = vec![0; backlog.len()];
        for _ in 0..rounds {
            let all = allowed(&backlog.iter().map(|(name, _)| (*name, limit)).collect::<Vec<_>>());
            let mut left = limit;
            for request in turns.requests(&all, limit) {
                for (name, most) in request {
                    let at = backlog.iter().position(|(known, _)| queue(known) == name).expect("known");
                    let taken = most.min(left).min(backlog[at].1);
                    backlog[at].1 -= taken;
                    (served[at], left) = (served[at] + taken, left - taken);
                    (0..taken).for_each(|_| turns.took(&name));
                }
            }
        }
        served
    }

    #[test]
    fn by_priority_all_queues_are_asked_at_once() {
        let all = allowed(&[("a", 3), ("b", 2)]);
        assert_eq!(Turns::default().requests(&all, 4), vec![all]);
    }

    #[test]
    fn strictly_the_first_queue_is_emptied_first() {
        let mut turns = Turns::new(QueueOrder::Strict(vec![queue("urgent"), queue("normal")]));
        let asked = turns.requests(&allowed(&[("later", 5), ("normal", 5), ("urgent", 2)]), 5);
        assert_eq!(asked, [allowed(&[("urgent", 2)]), allowed(&[("normal", 5)]), allowed(&[("later", 5)])]);
        let mut backlog = [("later", 10), ("normal", 3), ("urgent", 4)];
        assert_eq!(serve(&mut turns, &mut backlog, 2, 2), [0, 0, 4]);
        assert_eq!(serve(&mut turns, &mut backlog, 2, 2), [1, 3, 0]);
    }

    #[test]
    fn by_weight_each_gets_its_part_also_one_at_a_time() {
        for limit in [1, 3, 4, 100] {
            let mut turns = weighted(&[("a", 3), ("b", 1)]);
            let served = serve(&mut turns, &mut [("a", 100_000), ("b", 100_000)], limit, 400 / limit);
            let expected = 400 / limit * limit / 4;
            assert!(served[1].abs_diff(expected) <= 1, "{served:?} in claims of {limit}");
        }
    }

    #[test]
    fn an_idle_queue_costs_nothing_and_saves_nothing_up() {
        let mut turns = weighted(&[("a", 3), ("b", 1)]);
        let mut backlog = [("a", 1_000), ("b", 0)];
        assert_eq!(serve(&mut turns, &mut backlog, 10, 10), [100, 0], "no slot stays empty for it");
        backlog[1].1 = 1_000;
        let served = serve(&mut turns, &mut backlog, 1, 40);
        assert!((9..=12).contains(&served[1]), "{served:?}");
    }

    proptest! {
        #[test]
        fn weights_hold_within_a_turn_or_two(
            weights in proptest::collection::vec(1_u32..20, 2..5), limit in 1_usize..40
        ) {
            let names = ["a", "b", "c", "d"];
            let named: Vec<_> = names.iter().copied().zip(weights.iter().copied()).collect();
            let mut backlog: Vec<_> = named.iter().map(|(name, _)| (*name, 1_000_000)).collect();
            let served = serve(&mut weighted(&named), &mut backlog, limit, 2_000 / limit);
            let (total, sum) = (served.iter().sum::<usize>() as f64, f64::from(weights.iter().sum::<u32>()));
            for (got, weight) in served.iter().zip(&weights) {
                let fair = total * f64::from(*weight) / sum;
                // One turn of the lightest is many of a heavy one.
                let lightest = weights.iter().min().copied().unwrap_or(1);
                let turn = f64::from(*weight) / f64::from(lightest) + weights.len() as f64;
                prop_assert!((*got as f64 - fair).abs() <= turn + 1.0, "{:?}: {:?}", weights, served);
            }
        }
    }
}
