//! References in a task's input to what others came to: `{"$result": "name or number", "path": "/json/pointer"}` stands for
//! that part of the result, and `{"$text": [ … ]}` for a text put together from texts and references.

use serde_json::{Map, Value};

use super::{NeedState, Needs, called};
use crate::{Failure, Json};

/// The longest input, in bytes, with what it refers to.
pub const LARGEST_INPUT: usize = 4 << 20;
const RESULT: &str = "$result";
const PATH: &str = "path";
const TEXT: &str = "$text";

/// Whether an input may hold references: cheap, and right where it says no.
pub fn may_hold(input: &Json) -> bool {
    input.as_str().contains("\"$result\"") || input.as_str().contains("\"$text\"")
}

/// What is wrong with the references of an input, as far as that can be told before anything has run.
pub fn check(input: &Json, needs: &Needs) -> Result<(), String> {
    if !may_hold(input) {
        return Ok(());
    }
    let value: Value = input.to().map_err(|error| error.to_string())?;
    walk(value, &mut |reference| {
        find(needs, &reference.of).map(|_| Value::Null).ok_or_else(|| {
            let known: Vec<_> = needs.after.iter().map(called).collect();
            let known = if known.is_empty() { "nothing".to_owned() } else { known.join(", ") };
            format!("{RESULT} names {:?}, and the task waits for {known}", reference.of)
        })
    })
    .map(drop)
}

/// The input with what it refers to.
pub(super) fn resolve(input: &Json, needs: &Needs, states: &[NeedState]) -> Result<Json, Failure> {
    let unreadable = |error: String| Failure::permanent("input_reference", format!("the input: {error}"));
    let value: Value = input.to().map_err(|error| unreadable(error.to_string()))?;
    let mut size = input.as_str().len();
    let resolved = walk(value, &mut |reference| {
        let place = find(needs, &reference.of)
            .ok_or_else(|| format!("{RESULT} names {:?}, which the task does not wait for", reference.of))?;
        let who = needs.after.get(place).map(called).unwrap_or_default();
        let result = match states.get(place) {
            Some(NeedState::Ended { result: Some(result), .. }) => result,
            Some(NeedState::Gone) => return Err(format!("{who} was deleted, and its result with it")),
            _ => return Err(format!("{who} has no result")),
        };
        let result: Value = result.to().map_err(|error| format!("{who}: {error}"))?;
        let part = result
            .pointer(&reference.path)
            .ok_or_else(|| format!("the result of {who} has nothing at {:?}", reference.path))?;
        // Counted before it is kept: a hundred references to one big result must not fill the memory.
        size = size.saturating_add(part.to_string().len());
        if size > LARGEST_INPUT {
            return Err(format!("with what it refers to it is longer than {LARGEST_INPUT} bytes"));
        }
        Ok(part.clone())
    })
    .map_err(unreadable)?;
    Json::from_value(&resolved).map_err(|error| unreadable(error.to_string()))
}

struct Reference {
    of: String,
    path: String,
}

fn find(needs: &Needs, of: &str) -> Option<usize> {
    let is_it = |need: &super::Need| {
        need.name.as_ref().is_some_and(|name| name.as_str() == of) || need.task.to_string() == of
    };
    needs.after.iter().position(is_it)
}

/// Replaces every reference by what `look_up` says.
fn walk(value: Value, look_up: &mut impl FnMut(Reference) -> Result<Value, String>) -> Result<Value, String> {
    Ok(match value {
        Value::Object(fields) if fields.contains_key(RESULT) => look_up(read(fields)?)?,
        Value::Object(fields) if fields.contains_key(TEXT) => Value::String(text(fields, look_up)?),
        Value::Object(fields) => {
            let fields = fields.into_iter().map(|(name, value)| Ok((name, walk(value, look_up)?)));
            Value::Object(fields.collect::<Result<Map<_, _>, String>>()?)
        }
        Value::Array(items) => {
            Value::Array(items.into_iter().map(|item| walk(item, look_up)).collect::<Result<_, _>>()?)
        }
        plain @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => plain,
    })
}

fn read(mut fields: Map<String, Value>) -> Result<Reference, String> {
    let of = match fields.remove(RESULT) {
        Some(Value::String(name)) => name,
        Some(Value::Number(number)) => number.to_string(),
        Some(_) | None => return Err(format!("{RESULT} is neither a name nor a number")),
    };
    let path = match fields.remove(PATH) {
        None => String::new(),
        Some(Value::String(path)) if path.is_empty() || path.starts_with('/') => path,
        Some(other) => return Err(format!("{PATH} is {other}, which is no JSON pointer such as \"/a/0\"")),
    };
    match fields.keys().next() {
        None => Ok(Reference { of, path }),
        Some(other) => Err(format!("a reference has {RESULT} and {PATH}, and no {other:?}")),
    }
}

fn text(
    mut fields: Map<String, Value>,
    look_up: &mut impl FnMut(Reference) -> Result<Value, String>,
) -> Result<String, String> {
    let parts = match fields.remove(TEXT) {
        Some(Value::Array(parts)) if fields.is_empty() => parts,
        _ => return Err(format!("{TEXT} is not a list of texts and references, or does not stand alone")),
    };
    let mut text = String::new();
    for part in parts {
        match walk(part, look_up)? {
            Value::String(part) => text.push_str(&part),
            other => text.push_str(&other.to_string()),
        }
    }
    Ok(text)
}
