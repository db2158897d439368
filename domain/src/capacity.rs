//! How a worker shares its slots among its queues, so that a slow queue never blocks a fast one.

use std::collections::HashMap;

use crate::QueueName;

/// What runs on one worker. A slot is taken from claim to the handler's end.
///
/// Each queue always finds a few slots of its own: together they are 1/(2·queues) of all, shared out evenly, at least
/// one each where there are that many. A queue takes what is left beyond the others' own slots, and no more.
#[derive(Debug, Clone)]
pub struct Slots {
    concurrency: usize,
    running: HashMap<QueueName, usize>,
    total: usize,
}

impl Slots {
    /// A worker that runs at most `concurrency` tasks at once.
    pub fn new(concurrency: usize) -> Self {
        Self { concurrency, running: HashMap::new(), total: 0 }
    }

    /// Has so many slots from now on; what runs beyond them goes on.
    pub fn resize(&mut self, concurrency: usize) {
        self.concurrency = concurrency;
    }

    /// Slots that nobody uses.
    pub fn free(&self) -> usize {
        self.concurrency.saturating_sub(self.total)
    }

    /// Tasks that run now.
    pub fn in_use(&self) -> usize {
        self.total
    }

    /// A task of this queue starts.
    pub fn take(&mut self, queue: &QueueName) {
        *self.running.entry(queue.clone()).or_default() += 1;
        self.total += 1;
    }

    /// A task of this queue has ended.
    pub fn give_back(&mut self, queue: &QueueName) {
        if let Some(running) = self.running.get_mut(queue) {
            *running -= 1;
            self.total -= 1;
            if *running == 0 {
                self.running.remove(queue);
            }
        }
    }

    /// How many more tasks each of these queues may start now. `others` says how many further queues the worker must
    /// expect: one for a worker that serves every queue, also later ones; none for a worker with a fixed list. The
    /// sum may exceed [`Slots::free`], which bounds a claim as a whole.
    pub fn allowance(&self, queues: &[QueueName], others: usize) -> Vec<usize> {
        let own = own_slots(self.concurrency, queues.len() + others);
        let unused_own =
            |queue: &QueueName| own.saturating_sub(self.running.get(queue).copied().unwrap_or(0));
        let kept_for_all = queues.iter().map(unused_own).sum::<usize>() + own * others;
        queues.iter().map(|queue| self.free().saturating_sub(kept_for_all - unused_own(queue))).collect()
    }
}

/// The slots that each queue can count on.
fn own_slots(concurrency: usize, queues: usize) -> usize {
    match queues {
        0 | 1 => 0,
        queues => (concurrency / (2 * queues * queues)).max(usize::from(concurrency > queues)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn queues(n: usize) -> Vec<QueueName> {
        (0..n).map(|i| QueueName::new(format!("q{i}")).expect("a valid name")).collect()
    }

    #[test]
    fn a_single_queue_takes_every_slot() {
        assert_eq!(Slots::new(1000).allowance(&queues(1), 0), [1000]);
    }

    #[test]
    fn a_flood_in_one_queue_leaves_room_for_the_others() {
        let queues = queues(6);
        let mut slots = Slots::new(1000);
        let flood = slots.allowance(&queues, 1)[0];
        assert!((900..1000).contains(&flood), "one queue may use nearly all of them: {flood}");
        (0..flood).for_each(|_| slots.take(&queues[0]));
        let left = slots.allowance(&queues, 1);
        assert_eq!(left[0], 0);
        assert!(left[1..].iter().all(|n| *n >= 1), "{left:?}");
    }

    #[test]
    fn fewer_slots_end_nothing_and_let_nothing_start() {
        let queue = &queues(1)[0];
        let mut slots = Slots::new(3);
        (0..3).for_each(|_| slots.take(queue));
        slots.resize(1);
        assert_eq!((slots.free(), slots.in_use()), (0, 3));
        (0..2).for_each(|_| slots.give_back(queue));
        assert_eq!(slots.free(), 0);
        slots.give_back(queue);
        assert_eq!(slots.allowance(&queues(1), 0), [1]);
    }

    proptest! {
        #[test]
        fn whatever_is_taken_each_idle_queue_finds_a_slot(
            concurrency in 1_usize..500, count in 2_usize..8, demand in proptest::collection::vec(0_usize..8, 0..600)
        ) {
            let queues = queues(count);
            let mut slots = Slots::new(concurrency);
            for pick in demand {
                let pick = pick % (count - 1); // the last queue stays idle
                if slots.free() > 0 && slots.allowance(&queues, 0)[pick] > 0 {
                    slots.take(&queues[pick]);
                }
            }
            prop_assert!(slots.in_use() <= concurrency);
            if concurrency > count {
                prop_assert!(slots.allowance(&queues, 0)[count - 1] >= 1);
            }
        }
    }
}
