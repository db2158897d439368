//! Products that break one rule each: the checker has to find every one of them.
//!
//! The product knows nothing of this. A mutant stands between the product and its store
//! (`task_runner::process::Process::with_store`) and spoils what goes through (`store`), or writes to the database past
//! it what no port would (`breakage`).

mod breakage;
mod lane;
mod store;

use std::sync::Arc;

use application::ports::Store;
use clap::ValueEnum as _;

macro_rules! mutants {
    ($($(#[doc = $what:literal])+ $variant:ident => $run:literal $promise:literal),+ $(,)?) => {
        /// A rule that is broken.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
        pub enum Mutant {
            $($(#[doc = $what])+ $variant),+
        }

        impl Mutant {
            /// The run whose small count has to find it.
            pub fn caught_by(self) -> &'static str {
                match self { $(Self::$variant => $run),+ }
            }

            /// How a violation begins that shows that it was found for what it is.
            pub fn shows_as(self) -> &'static str {
                match self { $(Self::$variant => $promise),+ }
            }

            /// What it does.
            pub fn what(self) -> &'static str {
                match self { $(Self::$variant => concat!($($what),+).trim_ascii()),+ }
            }
        }
    };
}

mutants! {
    /// Nobody takes over from the dead.
    NoTakeOver => "T1" "I8",
    /// Workers go on beating, and claim nothing after a while.
    DeafWorker => "T1" "I8",
    /// One settlement in twenty is answered Yes and not applied.
    LyingSettle => "T1" "I8",
    /// What waits for a moment is never made ready.
    NoPromotion => "T1" "I8",
    /// An attempt that is to be tried again loses its task.
    LostRetry => "T1" "I2",
    /// The attempt number does not rise when a task is taken again.
    FlatAttempts => "T1" "I3",
    /// Now and then a claim takes a task out of another worker's hands.
    StolenTask => "T1" "I3",
    /// A task's end is never shown.
    SilentEnd => "T1" "I7",
    /// A late outcome is applied whatever attempt and worker it comes from.
    ZombieSettle => "T2" "I4",
    /// Workers are declared dead at the first pause.
    HastyBurial => "T2" "I3",
    /// A submission is answered before it is stored.
    EarlyAnswer => "T3" "I1",
    /// Idempotency keys are ignored.
    ForgottenKeys => "T3" "I5",
    /// Who comes second fires a tick all the same.
    FiredTwice => "T12" "I6",
    /// A cancellation overwrites how a task ended.
    CancelOverwrites => "T13" "I2",
    /// Crashes have no limit.
    EndlessCrashes => "T14" "I8",
    /// A drain counts as a failure of what it gives back.
    ChargedDrain => "T15" "T15",
}

impl Mutant {
    /// Its name on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Every mutant.
    pub fn all() -> &'static [Self] {
        Self::value_variants()
    }
}

/// The store with a broken rule. `database` is the URL of PostgreSQL, for what no port can break.
pub fn break_rule(mutant: Mutant, store: Arc<dyn Store>, database: Option<&str>) -> Arc<dyn Store> {
    Arc::new(store::BrokenStore::new(mutant, store, database))
}
