//! How far a running task has come.

/// What a handler last reported.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Progress {
    /// Steps done.
    pub current: u64,
    /// Steps in all; 0 when unknown.
    pub total: u64,
    /// A line for people, at most [`Progress::MAX_MESSAGE`] characters.
    pub message: Option<String>,
}

impl Progress {
    /// Longer messages are cut.
    pub const MAX_MESSAGE: usize = 500;

    /// Cuts the message to its limit and drops U+0000.
    pub fn new(current: u64, total: u64, message: Option<&str>) -> Self {
        let clean = |text: &str| text.chars().filter(|c| *c != '\0').take(Self::MAX_MESSAGE).collect();
        Self { current, total, message: message.map(clean) }
    }

    /// 0–100, rounded down, so that 100 means done.
    pub fn percent(&self) -> u8 {
        match self.total {
            0 => 0,
            total => (u128::from(self.current.min(total)) * 100 / u128::from(total)) as u8,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_is_between_zero_and_a_hundred_and_rounds_down() {
        for (current, total, expected) in
            [(0, 0, 0), (5, 0, 0), (1, 3, 33), (999, 1000, 99), (7, 5, 100), (u64::MAX, u64::MAX, 100)]
        {
            assert_eq!(Progress::new(current, total, None).percent(), expected, "{current}/{total}");
        }
    }
}
