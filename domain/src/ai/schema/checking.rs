//! Whether a document fits a schema that could be read.

use std::collections::HashMap;

use regex::Regex;
use serde_json::{Map, Number, Value};

use super::{super::Misfit, target};

/// How many steps a check may take: parts looked at, values compared.
const MOST_STEPS: u64 = 1_000_000;
/// How deep a check may go; a document alone has at most 128 levels.
const DEEPEST: usize = 400;
/// How many things wrong with a document are told, and how much of each value.
const SHOWN: usize = 5;
const SHOWN_CHARS: usize = 100;

pub(super) fn check(root: &Value, patterns: &HashMap<String, Regex>, document: &Value) -> Result<(), Misfit> {
    let mut check = Check { root, patterns, steps: MOST_STEPS, depth: 0, quiet: 0, told: Vec::new() };
    let fits = check.fits(root, document, &Place::Top);
    if check.steps == 0 {
        return Err(Misfit("checking it against the JSON schema takes too long; simplify the schema".into()));
    }
    if fits {
        Ok(())
    } else {
        Err(Misfit(format!("it does not fit the JSON schema: {}", check.told.join("; "))))
    }
}

/// Where in the document.
enum Place<'a> {
    Top,
    Field(&'a Place<'a>, &'a str),
    Item(&'a Place<'a>, usize),
}

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Top => Ok(()),
            Self::Field(above, name) => write!(f, "{above}/{}", name.chars().take(80).collect::<String>()),
            Self::Item(above, index) => write!(f, "{above}/{index}"),
        }
    }
}

struct Check<'a> {
    root: &'a Value,
    patterns: &'a HashMap<String, Regex>,
    steps: u64,
    depth: usize,
    /// Above 0 while a part is tried that need not fit.
    quiet: usize,
    told: Vec<String>,
}

impl<'a> Check<'a> {
    /// `false` where there are no steps left.
    fn spend(&mut self, steps: u64) -> bool {
        self.steps = self.steps.saturating_sub(steps);
        self.steps > 0
    }

    /// Notes what is wrong; answers that it does not fit.
    fn wrong(&mut self, place: &Place<'_>, why: impl FnOnce() -> String) -> bool {
        if self.quiet == 0 && self.told.len() < SHOWN {
            let at = place.to_string();
            let at = if at.is_empty() { "the top" } else { at.as_str() };
            self.told.push(format!("at {at}: {}", why()));
        }
        false
    }

    /// Whether it fits, without a word about it.
    fn would_fit(&mut self, part: &'a Value, value: &Value, place: &Place<'_>) -> bool {
        self.quiet += 1;
        let fits = self.fits(part, value, place);
        self.quiet -= 1;
        fits
    }

    fn fits(&mut self, part: &'a Value, value: &Value, place: &Place<'_>) -> bool {
        if !self.spend(1) {
            return false;
        }
        let keywords = match part {
            Value::Bool(true) => return true,
            Value::Object(keywords) => keywords,
            _ => return self.wrong(place, || "nothing may stand here".to_owned()),
        };
        if self.depth >= DEEPEST {
            return self.wrong(place, || "it is nested too deep to be checked".to_owned());
        }
        self.depth += 1;
        let mut fits = self.itself(keywords, value, place);
        fits &= self.combined(keywords, value, place);
        fits &= match value {
            Value::Number(number) => self.number(keywords, number, place),
            Value::String(text) => self.text(keywords, text, place),
            Value::Array(items) => self.items(keywords, items, place),
            Value::Object(fields) => self.fields(keywords, fields, value, place),
            Value::Null | Value::Bool(_) => true,
        };
        self.depth -= 1;
        fits
    }

    /// What is said of any value.
    fn itself(&mut self, keywords: &Map<String, Value>, value: &Value, place: &Place<'_>) -> bool {
        let mut fits = true;
        if let Some(types) = keywords.get("type") {
            let named = types.as_array().map_or(std::slice::from_ref(types), Vec::as_slice);
            if !named.iter().filter_map(Value::as_str).any(|name| is_of_type(value, name)) {
                fits = self.wrong(place, || format!("{} is not of type {}", shown(value), shown(types)));
            }
        }
        if let Some(wanted) = keywords.get("const")
            && !self.same(wanted, value)
        {
            fits = self.wrong(place, || format!("{} is not {}", shown(value), shown(wanted)));
        }
        if let Some(choices @ Value::Array(values)) = keywords.get("enum")
            && !values.iter().any(|choice| self.same(choice, value))
        {
            fits = self.wrong(place, || format!("{} is none of {}", shown(value), shown(choices)));
        }
        fits
    }

    /// What other parts say of the same value.
    fn combined(&mut self, keywords: &'a Map<String, Value>, value: &Value, place: &Place<'_>) -> bool {
        let mut fits = true;
        let list = |name: &str| keywords.get(name).and_then(Value::as_array).map(Vec::as_slice);
        let reference = keywords.get("$ref").and_then(Value::as_str);
        if let Some(part) = reference.and_then(|path| target(self.root, path)) {
            fits &= self.fits(part, value, place);
        }
        for part in list("allOf").unwrap_or_default() {
            fits &= self.fits(part, value, place);
        }
        if let Some(choices) = list("anyOf")
            && !choices.iter().any(|part| self.would_fit(part, value, place))
        {
            fits = self.no_choice(choices, value, place);
        }
        if let Some(choices) = list("oneOf") {
            let met = choices.iter().filter(|part| self.would_fit(part, value, place)).count();
            fits &= match met {
                1 => true,
                0 => self.no_choice(choices, value, place),
                _ => self.wrong(place, || format!("{} fits {met} of oneOf, and may fit one", shown(value))),
            };
        }
        if let Some(part) = keywords.get("not")
            && self.would_fit(part, value, place)
        {
            fits = self.wrong(place, || format!("{} is what it must not be", shown(value)));
        }
        if let Some(part) = keywords.get("if") {
            let then = if self.would_fit(part, value, place) { "then" } else { "else" };
            if let Some(part) = keywords.get(then) {
                fits &= self.fits(part, value, place);
            }
        }
        fits
    }

    /// None of the choices fits. Where all but one are null, the reason is what is wrong with that one.
    fn no_choice(&mut self, choices: &'a [Value], value: &Value, place: &Place<'_>) -> bool {
        if self.quiet > 0 {
            return false;
        }
        let is_null = |part: &&Value| part.get("type").and_then(Value::as_str) == Some("null");
        let mut others = choices.iter().filter(|part| !is_null(part));
        match (others.next(), others.next()) {
            (Some(only), None) => {
                self.fits(only, value, place);
                false
            }
            _ => self.wrong(place, || format!("{} fits none of the {} choices", shown(value), choices.len())),
        }
    }

    fn number(&mut self, keywords: &Map<String, Value>, number: &Number, place: &Place<'_>) -> bool {
        let value = number.as_f64().unwrap_or(f64::NAN);
        let mut fits = true;
        type Holds = fn(f64, f64) -> bool;
        let bounds: [(&str, Holds, &str); 4] = [
            ("minimum", |value, bound| value >= bound, "at least"),
            ("maximum", |value, bound| value <= bound, "at most"),
            ("exclusiveMinimum", |value, bound| value > bound, "above"),
            ("exclusiveMaximum", |value, bound| value < bound, "below"),
        ];
        for (keyword, holds, words) in bounds {
            if let Some(bound) = keywords.get(keyword)
                && !holds(value, bound.as_f64().unwrap_or(f64::NAN))
            {
                fits = self.wrong(place, || format!("{number} is not {words} {bound}"));
            }
        }
        if let Some(factor) = keywords.get("multipleOf")
            && !is_multiple(number, factor)
        {
            fits = self.wrong(place, || format!("{number} is not a multiple of {factor}"));
        }
        fits
    }

    fn text(&mut self, keywords: &Map<String, Value>, text: &str, place: &Place<'_>) -> bool {
        self.spend(text.len() as u64 / 16);
        let mut fits = true;
        if keywords.contains_key("minLength") || keywords.contains_key("maxLength") {
            let length = text.chars().count();
            fits = self.count(keywords, ("minLength", "maxLength"), length, "characters", place);
        }
        if let Some(pattern) = keywords.get("pattern").and_then(Value::as_str)
            && !self.patterns.get(pattern).is_some_and(|compiled| compiled.is_match(text))
        {
            fits = self.wrong(place, || format!("{} does not match {pattern:?}", shown(&Value::from(text))));
        }
        fits
    }

    fn items(&mut self, keywords: &'a Map<String, Value>, items: &[Value], place: &Place<'_>) -> bool {
        let mut fits = self.count(keywords, ("minItems", "maxItems"), items.len(), "items", place);
        let first =
            keywords.get("prefixItems").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let rest = keywords.get("items");
        for (index, item) in items.iter().enumerate() {
            if let Some(part) = first.get(index).or(rest) {
                fits &= self.fits(part, item, &Place::Item(place, index));
            }
        }
        if let Some(part) = keywords.get("contains") {
            let met = items.iter().filter(|item| self.would_fit(part, item, place)).count() as u64;
            let bound =
                |name: &str, otherwise| keywords.get(name).and_then(Value::as_u64).unwrap_or(otherwise);
            if met < bound("minContains", 1) || met > bound("maxContains", u64::MAX) {
                fits = self.wrong(place, || format!("{met} of its items are what contains asks for"));
            }
        }
        if keywords.get("uniqueItems") == Some(&Value::Bool(true)) {
            let mut twins = false;
            for (index, item) in items.iter().enumerate() {
                twins |= items[..index].iter().any(|other| self.same(item, other));
                if twins || self.steps == 0 {
                    break;
                }
            }
            if twins {
                fits = self.wrong(place, || "two of its items are the same".to_owned());
            }
        }
        fits
    }

    fn fields(
        &mut self,
        keywords: &'a Map<String, Value>,
        fields: &Map<String, Value>,
        whole: &Value,
        place: &Place<'_>,
    ) -> bool {
        let mut fits =
            self.count(keywords, ("minProperties", "maxProperties"), fields.len(), "fields", place);
        let named = |name: &str| keywords.get(name).and_then(Value::as_object).into_iter().flatten();
        let is_there = |(name, _): &(&String, &Value)| fields.contains_key(name.as_str());
        fits &= self.required(keywords.get("required"), fields, place);
        for (_, names) in named("dependentRequired").filter(is_there) {
            fits &= self.required(Some(names), fields, place);
        }
        for (_, part) in named("dependentSchemas").filter(is_there) {
            fits &= self.fits(part, whole, place);
        }
        for (name, value) in fields {
            let inner = Place::Field(place, name);
            let mut known = false;
            if let Some(part) = keywords.get("properties").and_then(|all| all.get(name)) {
                known = true;
                fits &= self.fits(part, value, &inner);
            }
            for (pattern, part) in named("patternProperties") {
                self.spend(1 + name.len() as u64 / 16);
                if self.patterns.get(pattern).is_some_and(|compiled| compiled.is_match(name)) {
                    known = true;
                    fits &= self.fits(part, value, &inner);
                }
            }
            match keywords.get("additionalProperties").filter(|_| !known) {
                Some(Value::Bool(false)) => fits = self.wrong(&inner, || "there is no such field".to_owned()),
                Some(part) => fits &= self.fits(part, value, &inner),
                None => {}
            }
            if let Some(part) = keywords.get("propertyNames")
                && !self.would_fit(part, &Value::from(name.as_str()), place)
            {
                fits = self.wrong(&inner, || "its name may not be used".to_owned());
            }
        }
        fits
    }

    fn required(&mut self, names: Option<&Value>, fields: &Map<String, Value>, place: &Place<'_>) -> bool {
        let mut fits = true;
        for name in names.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
            self.spend(1);
            if !fields.contains_key(name) {
                fits = self.wrong(place, || format!("the field {name:?} is missing"));
            }
        }
        fits
    }

    fn count(
        &mut self,
        keywords: &Map<String, Value>,
        (least, most): (&str, &str),
        count: usize,
        what: &str,
        place: &Place<'_>,
    ) -> bool {
        let bound = |name: &str| keywords.get(name).and_then(Value::as_u64);
        let (least, most, count) = (bound(least).unwrap_or(0), bound(most), count as u64);
        if count < least || most.is_some_and(|most| count > most) {
            let most = most.map_or(String::new(), |most| format!(" and at most {most}"));
            return self.wrong(place, || format!("{count} {what} are not at least {least}{most}"));
        }
        true
    }

    /// Whether two values are the same, numbers by their value.
    fn same(&mut self, one: &Value, other: &Value) -> bool {
        if !self.spend(1) {
            return false;
        }
        match (one, other) {
            (Value::Number(one), Value::Number(other)) => one == other || one.as_f64() == other.as_f64(),
            (Value::Array(one), Value::Array(other)) => {
                one.len() == other.len() && one.iter().zip(other).all(|(one, other)| self.same(one, other))
            }
            (Value::Object(one), Value::Object(other)) => {
                let same = |(name, value): (&String, &Value)| {
                    other.get(name).is_some_and(|other| self.same(value, other))
                };
                one.len() == other.len() && one.iter().all(same)
            }
            _ => one == other,
        }
    }
}

fn is_of_type(value: &Value, name: &str) -> bool {
    match name {
        "array" => value.is_array(),
        "boolean" => value.is_boolean(),
        // 1.0 is a whole number.
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        "null" => value.is_null(),
        "number" => value.is_number(),
        "object" => value.is_object(),
        "string" => value.is_string(),
        _ => false,
    }
}

fn is_multiple(number: &Number, factor: &Value) -> bool {
    if let (Some(number), Some(factor)) = (number.as_i64(), factor.as_i64()) {
        return factor != 0 && number % factor == 0;
    }
    let quotient = number.as_f64().unwrap_or(f64::NAN) / factor.as_f64().unwrap_or(f64::NAN);
    // 0.3 is a multiple of 0.1 for people, if not in binary.
    (quotient - quotient.round()).abs() <= 1e-9 * quotient.abs().max(1.0)
}

/// The beginning of a value, for a message.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
