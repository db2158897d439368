//! The form that an answer has to have, checked here: what a provider promises about it differs from one to the next.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{InvalidSchema, Schema};
use crate::Json;

/// How often a model may be shown that its answer does not fit, at most.
pub const MAX_REPAIRS: u32 = 5;

/// What an answer has to be, as OpenAI's API has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum ResponseFormat {
    /// Any text.
    Text,
    /// A JSON object.
    JsonObject,
    /// JSON that fits a schema.
    JsonSchema {
        /// The schema.
        json_schema: NamedSchema,
    },
}

/// A schema with what providers want to know beside it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedSchema {
    /// 1 to 64 letters, digits, `_` or `-`.
    pub name: String,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The JSON schema.
    pub schema: Value,
    /// Whether the provider is to hold the model to it; the answer is checked here in any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strict: Option<bool>,
}

/// An answer that does not have the form that was asked for, in words for the model and for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Misfit(pub String);

impl Misfit {
    /// What the model is told, so that it may put it right.
    pub fn request(&self) -> String {
        format!(
            "Your answer cannot be used: {self}. Answer again, with the corrected JSON alone: no explanation, no code fence."
        )
    }
}

impl ResponseFormat {
    /// Whether an answer has to be JSON.
    pub fn is_json(&self) -> bool {
        !matches!(self, Self::Text)
    }

    /// Whether it can be asked for; the error names what is wrong with the schema.
    pub fn check(&self) -> Result<(), InvalidSchema> {
        if let Self::JsonSchema { json_schema } = self {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
            let name = &json_schema.name;
            if name.is_empty() || name.len() > 64 || !name.bytes().all(allowed) {
                return Err(InvalidSchema("its name is not 1 to 64 letters, digits, '_' or '-'".into()));
            }
            Schema::new(&json_schema.schema)?;
        }
        Ok(())
    }

    /// The document that an answer is. A code fence around it, which many models write, is no part of it.
    pub fn read(&self, answer: &str) -> Result<Json, Misfit> {
        let text = without_fence(answer);
        let json = Json::parse(text).map_err(|error| Misfit(format!("it is {error}")))?;
        let value: Value = json.to().map_err(|error| Misfit(format!("it cannot be read: {error}")))?;
        match self {
            Self::Text => {}
            Self::JsonObject if value.is_object() => {}
            Self::JsonObject => return Err(Misfit("it is JSON, but not an object".into())),
            Self::JsonSchema { json_schema } => {
                let schema = Schema::new(&json_schema.schema).map_err(|error| Misfit(error.to_string()))?;
                schema.check(&value)?;
            }
        }
        Ok(json)
    }
}

/// What stands in a code fence that is all of the answer; else the answer without white space around it.
fn without_fence(answer: &str) -> &str {
    let text = answer.trim();
    let inside = text.strip_prefix("```").and_then(|rest| rest.strip_suffix("```"));
    match inside.and_then(|inside| inside.split_once('\n')) {
        Some((language, inside)) if language.trim().chars().all(char::is_alphanumeric) => inside.trim(),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn format(value: Value) -> ResponseFormat {
        serde_json::from_value(value).expect("a format")
    }

    fn city() -> ResponseFormat {
        format(json!({ "type": "json_schema", "json_schema": { "name": "city", "strict": true, "schema": {
            "type": "object",
            "properties": { "name": { "type": "string" }, "people": { "type": "integer", "minimum": 0 } },
            "required": ["name", "people"],
            "additionalProperties": false,
        } } }))
    }

    #[test]
    fn an_answer_that_fits_is_kept_byte_for_byte() {
        let answer = "{ \"people\": 1e6,\n  \"name\": \"Köln\" }";
        assert_eq!(city().read(answer).expect("it fits").as_str(), answer);
        for fenced in
            [format!("```json\n{answer}\n```\n"), format!("```\n{answer}\n```"), format!(" {answer} ")]
        {
            assert_eq!(city().read(&fenced).expect("it fits").as_str(), answer, "{fenced}");
        }
    }

    #[test]
    fn what_does_not_fit_is_said_with_its_place() {
        for (answer, parts) in [
            ("Sure! Here it is: {}", &["not valid JSON"][..]),
            ("{\"name\":\"Köln\"}", &["people"]),
            ("{\"name\":7,\"people\":-1}", &["/name", "/people"]),
            ("{\"name\":\"Köln\",\"people\":1,\"mayor\":\"?\"}", &["mayor"]),
            ("{\"name\":\"\\u0000\",\"people\":1}", &["U+0000"]),
        ] {
            let misfit = city().read(answer).expect_err("it does not fit").to_string();
            assert!(parts.iter().all(|part| misfit.contains(part)), "{answer}: {misfit}");
        }
        let object = format(json!({ "type": "json_object" }));
        assert!(object.read("{}").is_ok());
        assert!(object.read("[1]").expect_err("a list").to_string().contains("not an object"));
    }

    #[test]
    fn names_and_unknown_fields_are_checked() {
        for bad in [
            json!({ "type": "xml" }),
            json!({ "type": "json_schema" }),
            json!({ "type": "json_schema", "json_schema": { "name": "a" } }),
            json!({ "type": "json_schema", "json_schema": { "name": "a", "schema": {}, "stict": true } }),
        ] {
            assert!(serde_json::from_value::<ResponseFormat>(bad.clone()).is_err(), "{bad}");
        }
        let unnamed =
            format(json!({ "type": "json_schema", "json_schema": { "name": "a b", "schema": {} } }));
        assert!(unnamed.check().expect_err("a name").to_string().contains("name"));
    }
}
