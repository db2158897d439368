//! What a call holds of the meters that let it through.

use std::time::Duration;

use domain::ai::{Budget, Caller, InFlight, Price, Quota, Refusal, Step, Trouble, Verdict, estimate_tokens};
use tokio::time::Instant;

use super::{Estimate, Meters, money, own::OwnCall};
use crate::ports::{GenerationEvent, GeneratorError, Metered, StoreError, Usage};

/// A call that was let through. When it is dropped, its meters are told what it used.
pub(in crate::providers) struct Place {
    pub(super) _own: Option<OwnCall>,
    /// None where nobody counts.
    pub(super) reserved: Option<Reserved>,
}

/// What is held for a call until it is known what it used.
pub(super) struct Reserved {
    meters: Meters,
    held: Vec<Held>,
    estimate: Estimate,
    price: Price,
    began: Instant,
    /// Characters that it wrote so far.
    written: u64,
    /// What it used, once that is known; `Some(None)` where it was not made at all.
    used: Option<Option<Usage>>,
}

/// Why nothing is held.
pub(super) enum NotReserved {
    /// A meter refuses.
    Refused(String, Refusal),
    /// The meters cannot be read.
    Unknown(StoreError),
}

/// What one meter let a call through by.
pub(super) struct Held {
    pub(super) meter: String,
    pub(super) of: Of,
}

/// Which kind of meter that is, and how much of it.
pub(super) enum Of {
    Tokens(Quota, u64),
    Money(Budget, u64),
    Place(InFlight, Caller),
}

impl Held {
    /// How it is asked for.
    fn wish(&self, again: bool) -> Metered {
        self.step(match &self.of {
            Of::Tokens(_, tokens) => Step::Reserve { tokens: *tokens, again },
            Of::Money(budget, most) => Step::Spend { budget: *budget, most: *most },
            Of::Place(terms, caller) => Step::Enter { terms: *terms, caller: *caller },
        })
    }

    /// How it is settled: by what was used, and how long it took; by nothing where the call was not made.
    fn settlement(&self, used: Option<Usage>, price: Price, lasted: Option<Duration>) -> Metered {
        self.step(match &self.of {
            Of::Tokens(_, reserved) => {
                let used = used.map(|used| used.input_tokens.saturating_add(used.output_tokens));
                Step::Settle { reserved: *reserved, used }
            }
            Of::Money(budget, reserved) => {
                let cost = price.of(used.unwrap_or_default());
                Step::Pay { budget: *budget, reserved: *reserved, cost }
            }
            Of::Place(_, caller) => Step::Leave { caller: *caller, lasted },
        })
    }

    fn step(&self, step: Step) -> Metered {
        let quota = match &self.of {
            Of::Tokens(quota, _) => *quota,
            Of::Money(..) | Of::Place(..) => Quota::NONE,
        };
        Metered { meter: self.meter.clone(), quota, step }
    }
}

impl Place {
    /// Listens to what comes.
    pub(in crate::providers) fn hear(&mut self, event: &Result<GenerationEvent, GeneratorError>) {
        let Some(reserved) = &mut self.reserved else { return };
        match event {
            Ok(GenerationEvent::Chunk(chunk)) => reserved.written += chunk.text.chars().count() as u64,
            Ok(GenerationEvent::ToolCalls(_)) => {}
            Ok(GenerationEvent::Finished { usage, .. }) => self.used(*usage),
            Err(error) => self.failed(error),
        }
    }

    /// It is known what was used.
    pub(in crate::providers) fn used(&mut self, usage: Usage) {
        if let Some(reserved) = &mut self.reserved {
            reserved.used = Some(Some(usage.plausible()));
        }
    }

    /// The call failed: nothing was asked, or nothing used, or what was read and written so far.
    pub(in crate::providers) fn failed(&mut self, error: &GeneratorError) {
        if let Some(reserved) = &mut self.reserved {
            reserved.used = Some(match error.trouble {
                Trouble::Unreachable => None,
                _ if error.billed => Some(reserved.so_far()),
                _ => Some(Usage::default()),
            });
        }
    }
}

impl Reserved {
    /// Asks all meters at once. Where one of them refuses, or the caller has left, what the others let through goes back.
    pub(super) async fn of(
        meters: Meters,
        wishes: Vec<Held>,
        estimate: Estimate,
        price: Price,
    ) -> Result<Self, NotReserved> {
        let steps = wishes.iter().map(|held| held.wish(estimate.again)).collect();
        let verdicts = meters.call(steps).await.map_err(NotReserved::Unknown)?;
        let (held, began, used) = (Vec::new(), Instant::now(), Some(None));
        let mut reserved = Self { meters, held, estimate, price, began, written: 0, used };
        let mut refusal = None;
        for (held, verdict) in wishes.into_iter().zip(verdicts) {
            match verdict {
                Verdict::Pass => reserved.held.push(held),
                Verdict::Warn { spent, limit } => {
                    let (spent, limit) = (money(spent), money(limit));
                    tracing::warn!(spent, limit, "the {} is nearly spent", held.meter);
                    reserved.held.push(held);
                }
                Verdict::Refused(why) => refusal = refusal.or(Some((held.meter, why))),
            }
        }
        match refusal {
            Some((meter, why)) => Err(NotReserved::Refused(meter, why)),
            None => Ok(reserved),
        }
    }

    /// The call begins: from now on it counts with what it does.
    pub(super) fn begin(mut self) -> Self {
        (self.began, self.used) = (Instant::now(), None);
        self
    }

    fn so_far(&self) -> Usage {
        let output_tokens = estimate_tokens(self.written);
        Usage { input_tokens: self.estimate.input, output_tokens, estimated: true }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        // A call that is let go half way has used what came until then.
        let used = self.used.unwrap_or_else(|| Some(self.so_far()));
        if !self.held.is_empty() && tokio::runtime::Handle::try_current().is_ok() {
            let lasted = used.map(|_| self.began.elapsed());
            self.meters
                .leave(self.held.iter().map(|held| held.settlement(used, self.price, lasted)).collect());
        }
    }
}
