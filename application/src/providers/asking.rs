//! One request on its way from provider to provider.

use std::collections::VecDeque;

use domain::{
    ErrorClass,
    ai::{Candidate, ModelCall, Operation, Trouble, Usage, gravest},
};

use super::{
    Provider, Shared,
    gate::{Estimate, Gate, Place},
};
use crate::ports::{Answering, Books, GeneratorError};

pub(super) struct Asking<'a> {
    shared: &'a Shared,
    operation: Operation,
    model: String,
    /// What a call may use.
    estimate: Estimate,
    candidates: VecDeque<Candidate>,
    fall_back_on: Vec<Trouble>,
    errors: Vec<(Candidate, GeneratorError)>,
    books: Books,
}

/// Whose turn it is.
pub(super) struct Turn<'a> {
    pub(super) provider: &'a Provider,
    pub(super) model: String,
    pub(super) gate: &'a Gate,
    place: Place,
}

impl<'a> Asking<'a> {
    pub(super) fn new(
        shared: &'a Shared,
        operation: Operation,
        model: &str,
        estimate: Estimate,
        books: Books,
    ) -> Self {
        let (candidates, fall_back_on) = shared.rules.candidates(model);
        Self {
            shared,
            operation,
            model: model.to_owned(),
            estimate,
            candidates: candidates.into(),
            fall_back_on: fall_back_on.to_vec(),
            errors: Vec::new(),
            books,
        }
    }

    /// Who is to be asked next; `None` when nobody is.
    pub(super) async fn next(&mut self) -> Option<Turn<'a>> {
        while let Some(candidate) = self.candidates.pop_front() {
            let named = |(provider, _): &&(Provider, Gate)| provider.name == candidate.provider;
            let Some((provider, gate)) = self.shared.providers.iter().find(named) else { continue };
            match gate.enter(&candidate.model, self.estimate, &self.books).await {
                Ok(place) => {
                    let turn = Turn { provider, model: candidate.model, gate, place };
                    self.enter(&turn);
                    return Some(turn);
                }
                Err(error) => self.take(candidate, error),
            }
        }
        None
    }

    /// The call begins. Until somebody answers it counts with what there is to read.
    fn enter(&self, turn: &Turn<'_>) {
        let mut call = ModelCall::new(self.operation, turn.provider.name.clone(), &turn.model);
        let usage = Usage { input_tokens: self.estimate.input, output_tokens: 0, estimated: true };
        call.charge(usage, turn.provider.prices.of(&turn.model));
        self.books.enter(call);
    }

    /// The call failed before anything was written.
    pub(super) fn failed(&mut self, mut turn: Turn<'a>, error: GeneratorError) {
        turn.place.failed(&error);
        turn.gate.note(&turn.model, &error);
        self.books.update_last(|call| {
            call.error = Some(error.code.clone());
            if !error.billed {
                call.charge(Usage::default(), turn.provider.prices.of(&turn.model));
            }
            super::log_call(call);
        });
        self.take(Candidate { provider: turn.provider.name.clone(), model: turn.model }, error);
    }

    fn take(&mut self, candidate: Candidate, error: GeneratorError) {
        if !self.fall_back_on.contains(&error.trouble) {
            self.candidates.clear();
        }
        self.errors.push((candidate, error));
    }

    /// Somebody answers.
    pub(super) fn answered(self, turn: Turn<'a>) -> (Answering, Place) {
        let price = turn.provider.prices.of(&turn.model);
        let by = Answering { provider: turn.provider.name.clone(), model: turn.model, price };
        (by, turn.place)
    }

    /// What all of them came to.
    pub(super) fn gave_up(self) -> GeneratorError {
        let judged: Vec<_> = self.errors.iter().map(|(_, error)| (error.class, error.retry_after)).collect();
        let Some((place, retry_after)) = gravest(&judged) else {
            let message = format!(
                "no provider serves the model {:?}; the configuration names those that there are",
                self.model
            );
            return GeneratorError {
                class: ErrorClass::Permanent,
                trouble: Trouble::UnknownModel,
                code: "no_provider".to_owned(),
                message,
                retry_after: None,
                billed: false,
            };
        };
        let billed = self.errors.iter().any(|(_, error)| error.billed);
        let others = self.errors.iter().enumerate().filter(|(at, _)| *at != place);
        let others: Vec<_> =
            others.map(|(_, (other, error))| format!("{}: {}", other.provider, error.code)).collect();
        let mut error = self.errors.into_iter().nth(place).map(|(_, error)| error).unwrap_or_else(super::cut);
        if !others.is_empty() {
            error.message.push_str(&format!(" (others did not answer either: {})", others.join(", ")));
        }
        GeneratorError { retry_after, billed, ..error }
    }
}
