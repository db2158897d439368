//! Whether a schema can be used: its size, its keywords, its references and its patterns.

use std::collections::{HashMap, HashSet};

use regex::{Regex, RegexBuilder};
use serde_json::{Map, Value};

use super::target;

/// Longer schemas are refused, in bytes.
const MAX_BYTES: usize = 64 * 1024;
/// How deep parts may stand in one another, and how many references may follow one another.
const MAX_DEPTH: usize = 40;
const MAX_PATTERNS: usize = 100;
/// What one compiled pattern may take, in bytes.
const PATTERN_BYTES: usize = 256 * 1024;
const TYPES: [&str; 7] = ["array", "boolean", "integer", "null", "number", "object", "string"];

/// Reads a schema; answers its patterns, compiled, or what is wrong.
pub(super) fn read(schema: &Value) -> Result<HashMap<String, Regex>, String> {
    let bytes = schema.to_string().len();
    if bytes > MAX_BYTES {
        return Err(format!("{bytes} bytes are more than {MAX_BYTES}"));
    }
    let mut reader =
        Reader { root: schema, patterns: HashMap::new(), way: Vec::new(), ended: HashSet::new() };
    reader.part(schema, 0)?;
    Ok(reader.patterns)
}

struct Reader<'a> {
    root: &'a Value,
    patterns: HashMap<String, Regex>,
    /// Parts that speak of one and the same place of a document, each for the one before.
    way: Vec<*const Value>,
    /// Those that were found to come to an end.
    ended: HashSet<*const Value>,
}

impl<'a> Reader<'a> {
    fn part(&mut self, part: &'a Value, depth: usize) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err(format!("its parts stand more than {MAX_DEPTH} deep in one another"));
        }
        let keywords = match part {
            Value::Bool(_) => return Ok(()),
            Value::Object(keywords) => keywords,
            other => return Err(format!("{} is no schema: write an object", shown(other))),
        };
        for (keyword, value) in keywords {
            self.keyword(part, keyword, value, depth)?;
        }
        self.ends(part)
    }

    fn keyword(
        &mut self,
        part: &'a Value,
        keyword: &str,
        value: &'a Value,
        depth: usize,
    ) -> Result<(), String> {
        let is = |holds: bool, what: &str| {
            if holds { Ok(()) } else { Err(format!("{keyword} is {}, and not {what}", shown(value))) }
        };
        match keyword {
            "title" | "description" | "default" | "examples" | "$comment" | "deprecated" | "readOnly"
            | "writeOnly" | "format" | "$schema" | "contentEncoding" | "contentMediaType" | "const" => Ok(()),
            "$id" if std::ptr::eq(part, self.root) => Ok(()),
            "$ref" => self.reference(value),
            "type" => {
                let known = |name: &Value| name.as_str().is_some_and(|name| TYPES.contains(&name));
                let listed = |names: &Vec<Value>| !names.is_empty() && names.iter().all(known);
                let names = TYPES.join(", ");
                is(
                    known(value) || value.as_array().is_some_and(listed),
                    &format!("one or several of {names}"),
                )
            }
            "enum" => is(value.as_array().is_some_and(|values| !values.is_empty()), "a list of values"),
            "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" => {
                is(value.is_number(), "a number")
            }
            "multipleOf" => is(value.as_f64().is_some_and(|number| number > 0.0), "a number above 0"),
            "minLength" | "maxLength" | "minItems" | "maxItems" | "minContains" | "maxContains"
            | "minProperties" | "maxProperties" => is(value.as_u64().is_some(), "a whole number from 0 on"),
            "uniqueItems" => is(value.is_boolean(), "true or false"),
            "required" => is(is_names(value), "a list of names"),
            "dependentRequired" => {
                let listed = value.as_object().is_some_and(|all| all.values().all(is_names));
                is(listed, "an object of lists of names")
            }
            "pattern" => {
                is(value.is_string(), "a text")?;
                self.pattern(value.as_str().unwrap_or_default())
            }
            "items"
            | "contains"
            | "additionalProperties"
            | "propertyNames"
            | "not"
            | "if"
            | "then"
            | "else" => self.part(value, depth + 1).map_err(|why| inside(keyword, &why)),
            "allOf" | "anyOf" | "oneOf" | "prefixItems" => {
                is(value.as_array().is_some_and(|parts| !parts.is_empty()), "a list of schemas")?;
                let mut parts = value.as_array().into_iter().flatten();
                parts.try_for_each(|part| self.part(part, depth + 1)).map_err(|why| inside(keyword, &why))
            }
            "properties" | "patternProperties" | "dependentSchemas" | "$defs" | "definitions" => {
                is(value.is_object(), "an object of schemas")?;
                for (name, part) in value.as_object().into_iter().flatten() {
                    if keyword == "patternProperties" {
                        self.pattern(name)?;
                    }
                    let place = format!("{keyword}/{}", name.chars().take(80).collect::<String>());
                    self.part(part, depth + 1).map_err(|why| inside(&place, &why))?;
                }
                Ok(())
            }
            extension if extension.starts_with("x-") => Ok(()),
            unknown => Err(format!("{:?} is not supported", unknown.chars().take(80).collect::<String>())),
        }
    }

    fn reference(&self, value: &Value) -> Result<(), String> {
        let shown = shown(value);
        let Some(reference) = value.as_str().filter(|text| *text == "#" || text.starts_with("#/")) else {
            return Err(format!("$ref: {shown} does not refer to a part of it, as \"#/$defs/name\" does"));
        };
        match target(self.root, reference) {
            Some(Value::Object(_) | Value::Bool(_)) => Ok(()),
            Some(_) => Err(format!("$ref: {shown} refers to something that is no schema")),
            None => Err(format!("$ref: {shown} refers to nothing")),
        }
    }

    fn pattern(&mut self, pattern: &str) -> Result<(), String> {
        if self.patterns.contains_key(pattern) {
            return Ok(());
        }
        if self.patterns.len() >= MAX_PATTERNS {
            return Err(format!("it has more than {MAX_PATTERNS} patterns"));
        }
        let built =
            RegexBuilder::new(pattern).size_limit(PATTERN_BYTES).dfa_size_limit(PATTERN_BYTES).build();
        let built = built.map_err(|_| {
            let shown: String = pattern.chars().take(80).collect();
            format!("the pattern {shown:?} cannot be used: it is malformed, too large, or looks around")
        })?;
        self.patterns.insert(pattern.to_owned(), built);
        Ok(())
    }

    /// Whether what a part says about one place of a document comes to an end: it does not where it leads back to itself
    /// without going a step into the document.
    fn ends(&mut self, part: &'a Value) -> Result<(), String> {
        let place = std::ptr::from_ref(part);
        if self.ended.contains(&place) {
            return Ok(());
        }
        if self.way.contains(&place) {
            return Err("a part refers to itself without an end".to_owned());
        }
        if self.way.len() > MAX_DEPTH {
            return Err(format!("its references lead more than {MAX_DEPTH} steps on"));
        }
        self.way.push(place);
        for (keyword, value) in part.as_object().into_iter().flatten() {
            match keyword.as_str() {
                "$ref" => {
                    let target = value.as_str().and_then(|reference| target(self.root, reference));
                    target.map_or(Ok(()), |target| self.ends(target))?;
                }
                "not" | "if" | "then" | "else" => self.ends(value)?,
                "allOf" | "anyOf" | "oneOf" => {
                    value.as_array().into_iter().flatten().try_for_each(|part| self.ends(part))?;
                }
                "dependentSchemas" => {
                    let parts = value.as_object().into_iter().flat_map(Map::values);
                    parts.into_iter().try_for_each(|part| self.ends(part))?;
                }
                _ => {}
            }
        }
        self.way.pop();
        self.ended.insert(place);
        Ok(())
    }
}

fn is_names(value: &Value) -> bool {
    value.as_array().is_some_and(|names| names.iter().all(Value::is_string))
}

fn inside(place: &str, why: &str) -> String {
    format!("{place}: {why}")
}

/// A value for a message.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
