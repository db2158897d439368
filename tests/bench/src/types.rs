//! Task types that measure: a handler says itself when it began and ended.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use application::registry::{Output, TaskTypeSpec};
use domain::Failure;
use serde::Deserialize;

/// Takes its time; its result is [`Stamp`].
pub const STAMP: &str = "bench.stamp";
/// Tells live, piece by piece, with progress beside each piece.
pub const TALK: &str = "bench.talk";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StampInput {
    /// How long it takes.
    #[serde(default)]
    sleep_ms: u64,
}

/// When a handler ran, in microseconds since 1970 by this machine's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, Deserialize)]
pub struct Stamp {
    /// Its first instruction.
    pub began: i64,
    /// Its last one.
    pub ended: i64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TalkInput {
    /// How many pieces.
    pieces: u64,
    /// Between two of them.
    every_ms: u64,
    /// Of each piece.
    bytes: usize,
}

/// This machine's clock in microseconds since 1970, which the servers on it have as well.
pub fn wall() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_micros()).unwrap_or(i64::MAX)
}

/// Both types.
pub fn types() -> Vec<TaskTypeSpec> {
    let stamp =
        TaskTypeSpec::new(STAMP, "Says when it began and ended.", |_, input: StampInput| async move {
            let began = wall();
            if input.sleep_ms > 0 {
                tokio::time::sleep(Duration::from_millis(input.sleep_ms)).await;
            }
            Output::of(&Stamp { began, ended: wall() })
        });
    let talk =
        TaskTypeSpec::new(TALK, "Talks, and tells how far it is.", |context, input: TalkInput| async move {
            if input.every_ms == 0 {
                return Err(Failure::permanent("invalid_input", "every_ms is 0; give at least 1"));
            }
            let mut ticks = tokio::time::interval(Duration::from_millis(input.every_ms));
            let piece = "x".repeat(input.bytes);
            for number in 1..=input.pieces {
                ticks.tick().await;
                context.chunk(&piece);
                context.progress(number, input.pieces, None);
            }
            Output::of(&input.pieces)
        });
    vec![stamp, talk]
}
