//! What an attempt has used, kept however it ends.

use domain::ai::ModelCall;

/// The books of one attempt.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Account {
    /// Calls of models, in order.
    pub(crate) calls: Vec<ModelCall>,
}

impl Account {
    /// Closes the books: a call that has no end yet ended with this.
    pub(crate) fn close(&mut self, code: &str) {
        let is_open = |call: &&mut ModelCall| call.finish_reason.is_none() && call.error.is_none();
        if let Some(open) = self.calls.last_mut().filter(is_open) {
            open.error = Some(code.to_owned());
        }
    }
}
