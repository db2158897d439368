//! A document that fits a JSON schema, made up: what a model would be held to.

use rand::{RngExt, rngs::StdRng};
use serde_json::{Map, Value, json};

const WORDS: [&str; 8] = ["amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "harbor"];
/// Deeper parts are left out where they may be.
const DEEP: usize = 6;
/// Deeper ones are null.
const TOO_DEEP: usize = 24;
const LONGEST_LIST: u64 = 20;

/// Fits the usual schemas: types, properties, enumerations, bounds, references, and the first of several choices.
pub(super) fn sample(schema: &Value, rng: &mut StdRng) -> Value {
    Sampler { root: schema, rng }.of(schema, 0)
}

struct Sampler<'a> {
    root: &'a Value,
    rng: &'a mut StdRng,
}

impl Sampler<'_> {
    fn of(&mut self, schema: &Value, depth: usize) -> Value {
        if depth > TOO_DEEP {
            return Value::Null;
        }
        if let Some(target) =
            schema.get("$ref").and_then(Value::as_str).and_then(|path| path.strip_prefix('#'))
        {
            let root = self.root;
            return root.pointer(target).map_or(Value::Null, |target| self.of(target, depth + 1));
        }
        if let Some(value) = schema.get("const") {
            return value.clone();
        }
        if let Some(values) = schema.get("enum").and_then(Value::as_array).filter(|values| !values.is_empty())
        {
            return values[self.rng.random_range(0..values.len())].clone();
        }
        for choice in ["anyOf", "oneOf"] {
            let options = schema.get(choice).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            let is_null = |option: &&Value| option.get("type").and_then(Value::as_str) == Some("null");
            // A choice ends what would go on for ever.
            let chosen = options.iter().find(is_null).filter(|_| depth > DEEP).or(options.first());
            if let Some(chosen) = chosen {
                return self.of(chosen, depth + 1);
            }
        }
        if let Some(parts) = schema.get("allOf").and_then(Value::as_array) {
            let mut whole = self.of_type(schema, depth);
            for part in parts {
                match (self.of(part, depth + 1), &mut whole) {
                    (Value::Object(more), Value::Object(fields)) => fields.extend(more),
                    (part, whole) => *whole = part,
                }
            }
            return whole;
        }
        self.of_type(schema, depth)
    }

    fn of_type(&mut self, schema: &Value, depth: usize) -> Value {
        let named = match schema.get("type") {
            Some(Value::String(name)) => Some(name.as_str()),
            Some(Value::Array(names)) => names.first().and_then(Value::as_str),
            _ => None,
        };
        let implied = if schema.get("properties").is_some() { "object" } else { "string" };
        match named.unwrap_or(implied) {
            "object" => self.object(schema, depth),
            "array" => self.list(schema, depth),
            "integer" => json!(self.number(schema).round() as i64),
            "number" => json!(self.number(schema)),
            "boolean" => json!(self.rng.random_bool(0.5)),
            "null" => Value::Null,
            _ => self.text(schema),
        }
    }

    fn object(&mut self, schema: &Value, depth: usize) -> Value {
        let required: Vec<&str> = schema
            .get("required")
            .and_then(Value::as_array)
            .map(|names| names.iter().filter_map(Value::as_str).collect())
            .unwrap_or_default();
        let mut fields = Map::new();
        for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            if depth < DEEP || required.contains(&name.as_str()) {
                fields.insert(name.clone(), self.of(property, depth + 1));
            }
        }
        for name in required {
            if !fields.contains_key(name) {
                fields.insert(name.to_owned(), json!(self.word()));
            }
        }
        Value::Object(fields)
    }

    fn list(&mut self, schema: &Value, depth: usize) -> Value {
        let bound = |name: &str| schema.get(name).and_then(Value::as_u64);
        let least = bound("minItems").unwrap_or(if depth < DEEP { 1 } else { 0 });
        let length = least.min(bound("maxItems").unwrap_or(u64::MAX)).min(LONGEST_LIST);
        let any = json!({});
        let items = schema.get("items").unwrap_or(&any);
        Value::Array((0..length).map(|_| self.of(items, depth + 1)).collect())
    }

    fn number(&mut self, schema: &Value) -> f64 {
        let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
        let least = bound("minimum").or(bound("exclusiveMinimum").map(|least| least + 1.0));
        let most = bound("maximum").or(bound("exclusiveMaximum").map(|most| most - 1.0));
        let value = f64::from(self.rng.random_range(1..100_u8));
        match (least, most) {
            (Some(least), Some(most)) => value.clamp(least, most.max(least)),
            (Some(least), None) => value.max(least),
            (None, Some(most)) => value.min(most),
            (None, None) => value,
        }
    }

    fn text(&mut self, schema: &Value) -> Value {
        let bound = |name: &str| schema.get(name).and_then(Value::as_u64);
        let mut text = match schema.get("format").and_then(Value::as_str) {
            Some("date-time") => return json!("2026-01-31T12:00:00Z"),
            Some("date") => return json!("2026-01-31"),
            Some("email") => return json!("somebody@example.com"),
            Some("uri") => return json!("https://example.com/"),
            _ => self.word().to_owned(),
        };
        while (text.chars().count() as u64) < bound("minLength").unwrap_or(0).min(10_000) {
            text.push_str(self.word());
        }
        let most = bound("maxLength").and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
        json!(text.chars().take(most).collect::<String>())
    }

    fn word(&mut self) -> &'static str {
        WORDS[self.rng.random_range(0..WORDS.len())]
    }
}

#[cfg(test)]
mod tests {
    use domain::ai::Schema;
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn what_is_made_up_fits() {
        for schema in [
            json!({ "type": "object", "properties": { "name": { "type": "string" }, "age": { "type": "integer", "minimum": 200 } }, "required": ["name", "age"], "additionalProperties": false }),
            json!({ "type": "array", "minItems": 3, "items": { "enum": ["a", "b"] } }),
            json!({ "$defs": { "node": { "type": "object", "required": ["next"], "properties": { "next": { "anyOf": [{ "$ref": "#/$defs/node" }, { "type": "null" }] } } } }, "$ref": "#/$defs/node" }),
            json!({ "allOf": [{ "type": "object", "properties": { "a": { "const": 1 } }, "required": ["a"] }, { "type": "object", "required": ["b"] }] }),
            json!({ "type": ["string", "null"], "minLength": 30, "maxLength": 31 }),
            json!({ "type": "number", "exclusiveMinimum": 0, "maximum": 0.5 }),
            json!({}),
        ] {
            let compiled = Schema::new(&schema).unwrap();
            for seed in 0..20 {
                let made_up = sample(&schema, &mut StdRng::seed_from_u64(seed));
                // No whole number lies above 0 and at most 0.5: bounds as tight as that are not met.
                if schema.get("exclusiveMinimum").is_none() {
                    assert_eq!(compiled.check(&made_up), Ok(()), "{schema}: {made_up}");
                }
            }
        }
    }
}
