//! JSON kept as the text it arrived in: what a client sent or a handler returned comes back byte for byte.

use std::{fmt, sync::Arc};

/// A valid JSON document without U+0000, which PostgreSQL could not keep.
#[derive(Clone, PartialEq, Eq)]
pub struct Json(Arc<str>);

/// Why a text is not a [`Json`].
#[derive(Debug, thiserror::Error)]
pub enum InvalidJson {
    /// Not JSON at all, or nested more than 128 deep.
    #[error("not valid JSON: {0}")]
    Malformed(#[from] serde_json::Error),
    /// Contains the character U+0000, as itself or as `\u0000`.
    #[error("contains the character U+0000, which cannot be stored")]
    Null,
}

impl Json {
    /// Checks and keeps the text as it is.
    pub fn parse(text: impl AsRef<str>) -> Result<Self, InvalidJson> {
        let text = text.as_ref();
        // A whole parse: it bounds the depth and rejects lone surrogates, which would fail each later reader.
        let _: serde_json::Value = serde_json::from_str(text)?;
        if holds_nul(text) {
            return Err(InvalidJson::Null);
        }
        Ok(Self(text.into()))
    }

    /// Serializes a value. Fails as [`Json::parse`] does.
    pub fn from_value<T: serde::Serialize + ?Sized>(value: &T) -> Result<Self, InvalidJson> {
        let text = serde_json::to_string(value)?;
        if holds_nul(&text) {
            return Err(InvalidJson::Null);
        }
        Ok(Self(text.into()))
    }

    /// Wraps a text that a store has kept; the store got it from a [`Json`].
    pub fn from_stored(text: String) -> Self {
        Self(text.into())
    }

    /// The document's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Reads it as a type of the caller's.
    pub fn to<T: serde::de::DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(&self.0)
    }
}

/// Whether a JSON text decodes to something that holds U+0000: `\u0000` behind an even number of backslashes.
fn holds_nul(text: &str) -> bool {
    let bytes = text.as_bytes();
    text.contains('\0')
        || text.match_indices("\\u0000").any(|(at, _)| {
            let slashes_before = bytes[..at].iter().rev().take_while(|b| **b == b'\\').count();
            slashes_before % 2 == 0
        })
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_kept_byte_for_byte() {
        let text = r#"{ "b":1.0, "a":[ 1e2 ] }"#;
        assert_eq!(Json::parse(text).expect("valid").as_str(), text);
    }

    #[test]
    fn what_a_store_could_refuse_is_refused_here() {
        assert!(matches!(Json::parse(r#""\u0000""#), Err(InvalidJson::Null)));
        assert!(matches!(Json::parse(r#""\\\u0000""#), Err(InvalidJson::Null)));
        assert!(Json::parse(r#""\\u0000""#).is_ok(), "an escaped backslash followed by u0000 is only text");
        assert!(matches!(Json::parse("{"), Err(InvalidJson::Malformed(_))));
        assert!(Json::parse("[".repeat(200) + &"]".repeat(200)).is_err(), "depth is bounded");
    }
}
