//! What an attempt has used, kept however it ends.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use domain::ai::ModelCall;

/// The books of one attempt: its calls of models, in order. Opened with the first call, since thousands of attempts run
/// at once and most make none.
#[derive(Debug, Default)]
pub(crate) struct Account(OnceLock<Box<Mutex<Vec<ModelCall>>>>);

impl Account {
    /// Enters a call that begins, or that has ended already.
    pub(crate) fn enter(&self, call: ModelCall) {
        open(self.0.get_or_init(Box::default)).push(call);
    }

    /// Puts down what is known of the last call by now.
    pub(crate) fn update_last(&self, update: impl FnOnce(&mut ModelCall)) {
        if let Some(calls) = self.0.get()
            && let Some(last) = open(calls).last_mut()
        {
            update(last);
        }
    }

    /// Closes the books: a call that has no end yet ended with this.
    pub(crate) fn close(&self, code: &str) {
        self.update_last(|last| {
            if last.finish_reason.is_none() && last.error.is_none() {
                last.error = Some(code.to_owned());
            }
        });
    }

    /// Every call so far.
    pub(crate) fn calls(&self) -> Vec<ModelCall> {
        self.0.get().map(|calls| open(calls).clone()).unwrap_or_default()
    }
}

fn open(calls: &Mutex<Vec<ModelCall>>) -> MutexGuard<'_, Vec<ModelCall>> {
    calls.lock().unwrap_or_else(PoisonError::into_inner)
}
