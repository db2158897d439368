//! Priorities: 0 is first, 9 is last.

use std::fmt;

/// 0–9, 0 first, 5 unless said otherwise. Inside one priority, older tasks go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Priority(u8);

impl Priority {
    /// Runs before everything else.
    pub const FIRST: Self = Self(0);
    /// Runs when nothing else waits.
    pub const LAST: Self = Self(9);

    /// `None` outside 0–9.
    pub fn new(value: i64) -> Option<Self> {
        u8::try_from(value).ok().filter(|v| *v <= 9).map(Self)
    }

    /// 0–9.
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl Default for Priority {
    fn default() -> Self {
        Self(5)
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_zero_to_nine_exist() {
        assert_eq!((0..=9).filter_map(Priority::new).count(), 10);
        assert!([-1, 10, i64::MAX, i64::MIN].into_iter().all(|v| Priority::new(v).is_none()));
    }
}
