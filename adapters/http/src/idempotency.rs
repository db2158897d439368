//! The `Idempotency-Key` header (draft-ietf-httpapi-idempotency-key-header).

use domain::{Idempotency, IdempotencyKey};
use sha2::{Digest, Sha256};

use crate::problem::{ApiError, FieldError};

/// What the header is called.
pub(crate) const HEADER: &str = "Idempotency-Key";

/// Reads the header: a key as it is, or in quotes as the draft writes it. The body's bytes tell one request from
/// another: whoever asks again sends the same ones.
pub(crate) fn read(
    header: Option<&str>,
    operation: &str,
    body: &str,
) -> Result<Option<Idempotency>, ApiError> {
    let Some(text) = header else { return Ok(None) };
    let text = text.trim();
    let bare = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text);
    let key = IdempotencyKey::new(bare)
        .map_err(|error| ApiError::invalid(vec![FieldError::new(HEADER, error.to_string())]))?;
    let mut digest = Sha256::new();
    digest.update(operation.as_bytes());
    digest.update([0]);
    digest.update(body.as_bytes());
    Ok(Some(Idempotency { key, fingerprint: digest.finalize().into() }))
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
