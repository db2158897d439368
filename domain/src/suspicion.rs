//! Finding the task that kills its worker, and sparing the others.
//!
//! When a worker dies, any task that it ran may be the cause. The search narrows in three steps: all that were in flight
//! at the first crash run again in groups of [`Suspicion::SHARED_AT_ONCE`]; the group that was in flight at the second
//! runs one by one; who is in flight alone among its kind at the third is the cause. A crash is charged only to the
//! heaviest suspects in flight, so a group's crash costs the others nothing.

/// How likely it is that a task kills its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Suspicion {
    /// It was never charged with a crash.
    #[default]
    None,
    /// It was one of many in flight at a crash.
    Shared,
    /// It was one of a few: it runs as the only one of its kind in a worker process.
    Alone,
}

impl Suspicion {
    /// Every degree, lightest first.
    pub const ALL: [Self; 3] = [Self::None, Self::Shared, Self::Alone];
    /// How many suspects of the first degree one worker process runs at once. After a crash of a worker with a thousand
    /// tasks in flight, at most some 30 rounds pass until all have run again, and at most this many run one by one.
    pub const SHARED_AT_ONCE: usize = 32;

    /// The degree after so many charged crashes.
    pub fn after(crashes: u32) -> Self {
        match crashes {
            0 => Self::None,
            1 => Self::Shared,
            _ => Self::Alone,
        }
    }

    /// How many of this degree one worker process may run at once; `None` for no limit but its slots.
    pub fn at_once(self) -> Option<usize> {
        match self {
            Self::None => None,
            Self::Shared => Some(Self::SHARED_AT_ONCE),
            Self::Alone => Some(1),
        }
    }

    /// As stores keep it: 0, 1, 2.
    pub fn level(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Shared => 1,
            Self::Alone => 2,
        }
    }

    /// Reads [`Suspicion::level`]; what is beyond counts as the heaviest.
    pub fn from_level(level: u8) -> Self {
        Self::after(u32::from(level))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_kept() {
        for suspicion in Suspicion::ALL {
            assert_eq!(Suspicion::from_level(suspicion.level()), suspicion);
        }
    }

    #[test]
    fn heavier_suspects_run_in_smaller_company() {
        let company = Suspicion::ALL.map(|suspicion| suspicion.at_once().unwrap_or(usize::MAX));
        assert!(company.is_sorted_by(|wider, narrower| wider > narrower), "{company:?}");
        assert_eq!(Suspicion::after(crate::Counters::CRASH_LIMIT - 1), Suspicion::Alone);
    }
}
