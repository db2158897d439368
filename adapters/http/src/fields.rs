//! Bodies are read field by field, so that every mistake is named at once.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};
use domain::Json;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::problem::{ApiError, FieldError};

/// A list with more mistakes is not read on.
pub(crate) const MOST_ERRORS: usize = 50;

/// The fields of a JSON object, taken one by one. A field that is null counts as absent.
pub(crate) struct Fields<'a> {
    fields: BTreeMap<String, &'a RawValue>,
    /// Where the object stands in the body, such as `task.`.
    prefix: String,
    pub(crate) errors: Vec<FieldError>,
}

/// Reads a body: `read` takes the fields that it knows, and what is left is refused.
pub(crate) fn read_body<T>(
    text: &str,
    read: impl FnOnce(&mut Fields<'_>) -> Option<T>,
) -> Result<T, ApiError> {
    let fields: BTreeMap<String, &RawValue> =
        serde_json::from_str(text).map_err(|error| match error.classify() {
            serde_json::error::Category::Data => {
                ApiError::invalid(vec![FieldError::new("body", "it is not a JSON object")])
            }
            _ => ApiError::bad_request(format!("the body is not valid JSON: {error}")),
        })?;
    let mut fields = Fields { fields, prefix: String::new(), errors: Vec::new() };
    let value = read(&mut fields);
    fields.refuse_the_rest();
    match value {
        Some(value) if fields.errors.is_empty() => Ok(value),
        _ => Err(ApiError::invalid(fields.errors)),
    }
}

/// Reads an object that stands by itself at a place with this name, under the same rules. What it does not say, `defaults`
/// say.
pub(crate) fn read_object<'a, T>(
    text: &'a str,
    at: &str,
    defaults: &'a BTreeMap<String, Box<RawValue>>,
    read: impl FnOnce(&mut Fields<'a>) -> Option<T>,
) -> Result<T, Vec<FieldError>> {
    let mut fields: BTreeMap<String, &'a RawValue> = serde_json::from_str(text).map_err(|error| {
        let message = match error.classify() {
            serde_json::error::Category::Data => "it is not a JSON object".to_owned(),
            _ => format!("it is not valid JSON: {error}"),
        };
        vec![FieldError::new(at, message)]
    })?;
    for (name, value) in defaults {
        fields.entry(name.clone()).or_insert(value);
    }
    let mut fields = Fields { fields, prefix: format!("{at}."), errors: Vec::new() };
    let value = read(&mut fields);
    fields.refuse_the_rest();
    match value {
        Some(value) if fields.errors.is_empty() => Ok(value),
        _ => Err(fields.errors),
    }
}

impl<'a> Fields<'a> {
    /// Whether the body has this field, null or not.
    pub(crate) fn has(&self, field: &str) -> bool {
        self.fields.contains_key(field)
    }

    /// Whether nothing is wrong with this field so far.
    pub(crate) fn is_fine(&self, field: &str) -> bool {
        let field = format!("{}{field}", self.prefix);
        self.errors.iter().all(|error| error.field != field)
    }

    /// Reads an object inside this one, under the same rules; `prefix` is its name and a dot.
    pub(crate) fn object<T>(
        &mut self,
        field: &str,
        prefix: &str,
        read: impl FnOnce(&mut Fields<'a>) -> Option<T>,
    ) -> Option<T> {
        let value = self.raw(field)?;
        let Ok(fields) = serde_json::from_str(value.get()) else {
            self.refuse(field, "it is not a JSON object");
            return None;
        };
        let prefix = format!("{}{prefix}", self.prefix);
        let mut inner = Fields { fields, prefix, errors: Vec::new() };
        let value = read(&mut inner);
        inner.refuse_the_rest();
        self.errors.append(&mut inner.errors);
        value
    }

    /// Reads a list of objects inside this one, under the same rules. What one does not say, `defaults` say. It stops when
    /// there are more mistakes than anybody reads.
    pub(crate) fn objects<T>(
        &mut self,
        field: &str,
        defaults: &BTreeMap<String, &'a RawValue>,
        mut read: impl FnMut(&mut Fields<'a>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let value = self.raw(field)?;
        let Ok(list) = serde_json::from_str::<Vec<&'a RawValue>>(value.get()) else {
            self.refuse(field, "it is not a list");
            return None;
        };
        let mut all = Vec::with_capacity(list.len());
        for (place, value) in list.into_iter().enumerate() {
            let Ok(mut fields) = serde_json::from_str::<BTreeMap<String, &'a RawValue>>(value.get()) else {
                self.refuse(&format!("{field}[{place}]"), "it is not a JSON object");
                continue;
            };
            for (name, value) in defaults {
                fields.entry(name.clone()).or_insert(value);
            }
            let prefix = format!("{}{field}[{place}].", self.prefix);
            let mut inner = Fields { fields, prefix, errors: Vec::new() };
            all.extend(read(&mut inner));
            inner.refuse_the_rest();
            self.errors.append(&mut inner.errors);
            if self.errors.len() > MOST_ERRORS {
                break;
            }
        }
        Some(all)
    }

    /// The fields of an object inside this one, as they are.
    pub(crate) fn raw_object(&mut self, field: &str) -> BTreeMap<String, &'a RawValue> {
        let Some(value) = self.raw(field) else { return BTreeMap::new() };
        serde_json::from_str(value.get()).unwrap_or_else(|_| {
            self.refuse(field, "it is not a JSON object");
            BTreeMap::new()
        })
    }

    fn refuse_the_rest(&mut self) {
        for unknown in std::mem::take(&mut self.fields).into_keys() {
            let unknown: String = unknown.chars().take(80).collect();
            self.refuse(&unknown, "there is no such field");
        }
    }

    pub(crate) fn refuse(&mut self, field: &str, message: impl Into<String>) {
        self.errors.push(FieldError::new(format!("{}{field}", self.prefix), message));
    }

    fn raw(&mut self, field: &str) -> Option<&'a RawValue> {
        self.fields.remove(field).filter(|value| value.get() != "null")
    }

    pub(crate) fn take<T: DeserializeOwned>(&mut self, field: &str, what: &str) -> Option<T> {
        let value = self.raw(field)?;
        let read = serde_json::from_str(value.get()).ok();
        if read.is_none() {
            self.refuse(field, format!("{} is not {what}", shorten(value.get())));
        }
        read
    }

    pub(crate) fn name<T, E: std::fmt::Display>(
        &mut self,
        field: &str,
        new: impl Fn(String) -> Result<T, E>,
    ) -> Option<T> {
        let text = self.take::<String>(field, "a text")?;
        new(text).map_err(|error| self.refuse(field, error.to_string())).ok()
    }

    pub(crate) fn json(&mut self, field: &str) -> Option<Json> {
        let value = self.raw(field)?;
        Json::parse(value.get()).map_err(|error| self.refuse(field, error.to_string())).ok()
    }

    pub(crate) fn whole(&mut self, field: &str, least: i64, most: i64) -> Option<i64> {
        let number = self.take::<serde_json::Number>(field, "a whole number")?;
        let whole = number
            .as_i64()
            .or_else(|| number.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 1e15).map(|f| f as i64));
        let good = whole.filter(|whole| (least..=most).contains(whole));
        if good.is_none() {
            self.refuse(
                field,
                format!("{} is not a whole number from {least} to {most}", shorten(&number.to_string())),
            );
        }
        good
    }

    pub(crate) fn seconds(&mut self, field: &str, most: f64) -> Option<Duration> {
        let seconds = self.take::<f64>(field, "a number of seconds")?;
        let good = Duration::try_from_secs_f64(seconds).ok().filter(|d| !d.is_zero() && seconds <= most);
        if good.is_none() {
            self.refuse(field, format!("{seconds} is not a number of seconds above 0 and at most {most}"));
        }
        good
    }

    pub(crate) fn moment(&mut self, field: &str) -> Option<domain::Timestamp> {
        let text = self.take::<String>(field, "a time such as 2030-01-31T12:00:00Z")?;
        let moment = DateTime::parse_from_rfc3339(&text).ok().map(|moment| moment.with_timezone(&Utc));
        // What both stores and every client can represent.
        let good = moment.filter(|moment| (1970..=9999).contains(&chrono::Datelike::year(moment)));
        if good.is_none() {
            self.refuse(field, format!("{} is not a time such as 2030-01-31T12:00:00Z", shorten(&text)));
        }
        good
    }
}

/// At most 80 characters of what a client sent.
pub(crate) fn shorten(text: &str) -> String {
    if text.chars().count() <= 80 {
        text.to_owned()
    } else {
        text.chars().take(77).chain("...".chars()).collect()
    }
}
