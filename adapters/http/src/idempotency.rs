//! The `Idempotency-Key` header (draft-ietf-httpapi-idempotency-key-header).

use domain::{Idempotency, IdempotencyKey};
use sha2::{Digest, Sha256};

use crate::problem::{ApiError, FieldError};

/// What the header is called.
pub(crate) const HEADER: &str = "Idempotency-Key";

/// Tells one request from another by the bytes of its body: whoever asks again sends the same ones.
pub(crate) struct Fingerprint(Sha256);

impl Fingerprint {
    /// Of a request of this operation, before its body.
    pub(crate) fn of(operation: &str) -> Self {
        let mut digest = Sha256::new();
        digest.update(operation.as_bytes());
        digest.update([0]);
        Self(digest)
    }

    /// More of its body.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// With its key, when its body has ended.
    pub(crate) fn with(self, key: IdempotencyKey) -> Idempotency {
        Idempotency { key, fingerprint: self.0.finalize().into() }
    }
}

/// Reads the header of a request whose body is known.
pub(crate) fn read(
    header: Option<&str>,
    operation: &str,
    body: &str,
) -> Result<Option<Idempotency>, ApiError> {
    let Some(key) = read_key(header)? else { return Ok(None) };
    let mut fingerprint = Fingerprint::of(operation);
    fingerprint.update(body.as_bytes());
    Ok(Some(fingerprint.with(key)))
}

/// Reads the header: a key as it is, or in quotes as the draft writes it.
pub(crate) fn read_key(header: Option<&str>) -> Result<Option<IdempotencyKey>, ApiError> {
    let Some(text) = header.map(str::trim) else { return Ok(None) };
    let bare = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text);
    let key = IdempotencyKey::new(bare);
    key.map(Some).map_err(|error| ApiError::invalid(vec![FieldError::new(HEADER, error.to_string())]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_make_no_difference_and_bodies_do() {
        let read = |header, body| read(Some(header), "submit_task", body).ok().flatten().expect("a key");
        assert_eq!(read("abc", "{}"), read("\"abc\"", "{}"));
        assert_ne!(read("abc", "{}").fingerprint, read("abc", "{ }").fingerprint);
        assert_ne!(read("abc", "{}").key, read("abd", "{}").key);
    }

    #[test]
    fn a_key_that_is_none_is_refused() {
        for bad in ["", "\"\"", "two words", "ä", &"x".repeat(256)] {
            assert!(read(Some(bad), "submit_task", "{}").is_err(), "{bad:?}");
        }
    }
}
