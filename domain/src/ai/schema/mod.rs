//! JSON schemas that users bring along (2020-12, without what no model is asked for). A schema is a program of its user's:
//! what reading one and checking against it may take is bounded, by size, depth and steps, and patterns are matched without
//! backtracking. Every keyword is either checked or refused; none is passed over in silence.
//!
//! [`reading`] decides whether a schema can be used, [`checking`] whether a document fits. Why this is no library:
//! `docs/adr/0008-schemas-of-users-are-bounded.md`.

mod checking;
mod reading;

use std::collections::HashMap;

use regex::Regex;
use serde_json::Value;

use super::Misfit;

/// A schema that can be used.
#[derive(Debug)]
pub struct Schema {
    root: Value,
    /// Every pattern in it, compiled.
    patterns: HashMap<String, Regex>,
}

/// What is wrong with a schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidSchema(pub String);

impl Schema {
    /// Reads a schema; the error names what cannot be used.
    pub fn new(schema: &Value) -> Result<Self, InvalidSchema> {
        let patterns = reading::read(schema)
            .map_err(|why| InvalidSchema(format!("it is not a JSON schema that can be used: {why}")))?;
        Ok(Self { root: schema.clone(), patterns })
    }

    /// Whether a document fits; the misfit names places and reasons.
    pub fn check(&self, document: &Value) -> Result<(), Misfit> {
        checking::check(&self.root, &self.patterns, document)
    }
}

/// The part that a reference leads to.
fn target<'a>(root: &'a Value, reference: &str) -> Option<&'a Value> {
    root.pointer(reference.strip_prefix('#')?)
}

#[cfg(test)]
mod tests;
