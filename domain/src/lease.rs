//! A worker's lease: how long it counts as alive after its last heartbeat, and when it must give up by itself.

use std::time::Duration;

/// All waits that follow from one number, the length of the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseTerms {
    length: Duration,
}

impl LeaseTerms {
    /// Between 1 s and 1 h; `None` outside.
    pub fn new(length: Duration) -> Option<Self> {
        (Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&length).then_some(Self { length })
    }

    /// How long a worker counts as alive after a heartbeat, by the store's clock.
    pub fn length(self) -> Duration {
        self.length
    }

    /// A heartbeat is sent this often: four fit into a lease.
    pub fn heartbeat_every(self) -> Duration {
        self.length / 4
    }

    /// A worker that has had no heartbeat answered for this long, by its own monotonic clock, aborts its work: it is
    /// gone before anyone takes over.
    pub fn give_up_after(self) -> Duration {
        self.length * 2 / 3
    }

    /// A lease is only taken over by a replica that has watched it unchanged for this long on its own clock, so that
    /// an outage of the store does not end every lease at once.
    pub fn watch_before_take_over(self) -> Duration {
        self.length / 2
    }
}

impl Default for LeaseTerms {
    fn default() -> Self {
        Self { length: Duration::from_secs(12) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_worker_gives_up_before_it_can_be_taken_over(millis in 1_000_u64..3_600_000) {
            let terms = LeaseTerms::new(Duration::from_millis(millis)).expect("in range");
            prop_assert!(terms.heartbeat_every() * 3 <= terms.length(), "a lease is at least three heartbeats");
            prop_assert!(terms.give_up_after() < terms.length());
            prop_assert!(terms.heartbeat_every() * 2 < terms.give_up_after(), "one lost heartbeat is survived");
        }
    }

    #[test]
    fn leases_have_limits() {
        assert!(LeaseTerms::new(Duration::from_millis(999)).is_none());
        assert!(LeaseTerms::new(Duration::from_secs(3601)).is_none());
    }
}
