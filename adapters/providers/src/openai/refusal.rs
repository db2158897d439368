//! What a provider's error means: read out of whatever shape it has, and judged by one table.

use application::ports::GeneratorError;
use domain::{ErrorClass, ai::Trouble};
use serde_json::Value;

/// An error as a provider put it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Complaint {
    /// The HTTP status, or the one that an error inside a stream names.
    pub(super) status: Option<u16>,
    /// Its `code`, where that is a name and not a status again.
    pub(super) code: Option<String>,
    /// Its `type`.
    pub(super) kind: Option<String>,
    /// Its words; may be empty.
    pub(super) message: String,
}

/// Longer names are no identifiers.
const LONGEST_NAME: usize = 64;

/// No retry helps until somebody pays.
const QUOTA: [&str; 4] =
    ["insufficient_quota", "credit_balance_exhausted", "billing_hard_limit_reached", "billing_not_active"];
const RATE: [&str; 7] = [
    "rate_limit_exceeded",
    "rate_limit_error",
    "rate_limited",
    "RateLimitError",
    "RateLimitReached",
    "too_many_requests",
    "RESOURCE_EXHAUSTED",
];
const FILTER: [&str; 4] =
    ["content_filter", "content_policy_violation", "ResponsibleAIPolicyViolation", "refusal"];
const CONTEXT: [&str; 2] = ["context_length_exceeded", "exceed_context_size_error"];
/// Gateways pass on the words and lose the code. Lower case.
const CONTEXT_PHRASES: [&str; 7] = [
    "context_length_exceeded",
    "maximum context length",
    "contextwindowexceeded",
    "context window",
    "available context size",
    "prompt is too long",
    "input is too long",
];
/// Names of errors about the model's name, and about the key.
const STRANGERS: [&str; 3] = ["model_not_found", "not_found_error", "DeploymentNotFound"];
const KEYS: [&str; 5] = [
    "authentication_error",
    "permission_error",
    "permission_denied",
    "invalid_api_key",
    "AuthenticationError",
];
/// Names of final errors, for errors inside a stream, which may come without a status.
const FINAL: [&str; 16] = [
    "invalid_request_error",
    "authentication_error",
    "permission_error",
    "permission_denied",
    "not_found_error",
    "invalid_api_key",
    "model_not_found",
    "request_too_large",
    "billing_error",
    "BadRequestError",
    "AuthenticationError",
    "PermissionDeniedError",
    "NotFoundError",
    "UnprocessableEntityError",
    "INVALID_ARGUMENT",
    "PERMISSION_DENIED",
];

impl Complaint {
    /// The body of an answer with an error status.
    pub(super) fn from_body(status: u16, body: &[u8]) -> Self {
        let value = serde_json::from_slice(body).unwrap_or(Value::Null);
        let mut complaint = Self::from_value(&value).unwrap_or_else(|| {
            // A page of a proxy, a plain text, or JSON of another shape.
            let text = String::from_utf8_lossy(body);
            let words: Vec<&str> = text.split_whitespace().collect();
            Self { message: words.join(" "), ..Self::default() }
        });
        complaint.status = Some(status);
        complaint
    }

    /// An event named `error`, whatever it holds.
    pub(super) fn from_error_event(data: &str) -> Self {
        let value = serde_json::from_str(data).unwrap_or(Value::Null);
        Self::in_stream(&value)
            .or_else(|| Self::from_object(&value))
            .unwrap_or_else(|| Self { message: data.to_owned(), ..Self::default() })
    }

    /// An error inside a stream or a 200 answer, if `value` is one; a numeric code is its status.
    pub(super) fn in_stream(value: &Value) -> Option<Self> {
        let is_error = value.get("object").and_then(Value::as_str) == Some("error")
            || value.get("type").and_then(Value::as_str) == Some("error");
        let in_choice = || value.get("choices")?.as_array()?.iter().find_map(Self::nested);
        let flat = || if is_error { Self::from_object(value) } else { None };
        Self::nested(value)
            .or_else(|| value.as_array()?.iter().find_map(Self::nested))
            .or_else(in_choice)
            .or_else(flat)
    }

    fn from_value(value: &Value) -> Option<Self> {
        Self::in_stream(value).or_else(|| Self::from_object(value)).or_else(|| {
            let detail = value.get("detail")?;
            let message = detail.as_str().map_or_else(|| detail.to_string(), str::to_owned);
            Some(Self { message, ..Self::default() })
        })
    }

    /// `{"error": …}`, whose value is an object or a text.
    fn nested(value: &Value) -> Option<Self> {
        match value.get("error")? {
            Value::String(message) => Some(Self {
                code: name(value.get("code")),
                kind: name(value.get("type")),
                status: status(value.get("code")).or_else(|| status(value.get("status"))),
                message: message.clone(),
            }),
            error @ Value::Object(_) => Self::from_object(error)
                .or_else(|| Some(Self { message: error.to_string(), ..Self::default() })),
            _ => None,
        }
    }

    /// `{"message", "type", "code", "status"}`; Azure puts the real reason of a filter into `innererror`.
    fn from_object(error: &Value) -> Option<Self> {
        let message = error.get("message").and_then(Value::as_str);
        let code = name(error.get("code"));
        let kind = name(error.get("type")).or_else(|| name(error.get("status")));
        let status = status(error.get("code")).or_else(|| status(error.get("status")));
        if message.is_none() && code.is_none() && kind.is_none() && status.is_none() {
            return None;
        }
        let inner = name(error.get("innererror").and_then(|inner| inner.get("code")));
        let code = match inner {
            Some(inner) if FILTER.contains(&inner.as_str()) => Some("content_filter".to_owned()),
            _ => code,
        };
        Some(Self { status, code, kind, message: message.unwrap_or_default().to_owned() })
    }

    fn is_one_of(&self, names: &[&str]) -> bool {
        [&self.code, &self.kind].into_iter().flatten().any(|name| names.contains(&name.as_str()))
    }

    /// Gateways may leave the code only inside the words.
    fn mentions(&self, phrases: &[&str]) -> bool {
        let message = self.message.to_lowercase();
        phrases.iter().any(|phrase| message.contains(phrase))
    }

    fn name_or(&self, otherwise: impl Into<String>) -> String {
        self.code.clone().or_else(|| self.kind.clone()).unwrap_or_else(|| otherwise.into())
    }

    /// The table. `started` says whether tokens had come before.
    pub(super) fn judge(self, retry_after: Option<std::time::Duration>, started: bool) -> GeneratorError {
        let (class, code, hint) = self.verdict();
        let trouble = self.trouble(class, &code);
        let billed = started || self.may_be_billed(class, &code);
        let retry_after = retry_after.filter(|_| class != ErrorClass::Permanent);
        let said = match (self.message.trim(), self.status) {
            ("", Some(status)) => format!("the provider answered {} without a word", describe(status)),
            ("", None) => format!("the provider broke off with {code}"),
            (words, Some(status)) => format!("the provider answered {}: {words}", describe(status)),
            (words, None) => format!("the provider broke off: {words}"),
        };
        let message = if hint.is_empty() { said } else { format!("{said} ({hint})") };
        GeneratorError { class, trouble, code, message, retry_after, billed }
    }

    fn verdict(&self) -> (ErrorClass, String, &'static str) {
        use ErrorClass::{Permanent, RateLimited, Transient};
        let found = |names: &[&str], fallback: &str| {
            let own =
                [&self.code, &self.kind].into_iter().flatten().find(|name| names.contains(&name.as_str()));
            own.cloned().unwrap_or_else(|| fallback.to_owned())
        };
        if self.is_one_of(&QUOTA) || self.mentions(&QUOTA) {
            let mentioned = QUOTA.into_iter().find(|name| self.mentions(&[name])).unwrap_or(QUOTA[0]);
            return (Permanent, found(&QUOTA, mentioned), "the account needs credit; no retry helps");
        }
        if self.is_one_of(&FILTER) {
            return (Permanent, found(&FILTER, FILTER[0]), "");
        }
        let about_input = matches!(self.status, None | Some(400 | 413 | 422 | 500..));
        if self.is_one_of(&CONTEXT) || about_input && self.mentions(&CONTEXT_PHRASES) {
            return (
                Permanent,
                CONTEXT[0].to_owned(),
                "shorten the prompt or choose a model with a larger context",
            );
        }
        // What is larger than the whole limit never passes it, however long one waits.
        let limited =
            self.status == Some(429) || matches!(self.status, None | Some(500..)) && self.is_one_of(&RATE);
        if limited && self.message.trim_start().starts_with("Request too large") {
            return (
                Permanent,
                "request_too_large".to_owned(),
                "shorten the prompt or raise the account's limit",
            );
        }
        if limited {
            return (RateLimited, found(&RATE, RATE[0]), "");
        }
        match self.status {
            Some(status @ (408 | 409 | 500..)) => (Transient, self.name_or(format!("http_{status}")), ""),
            Some(status @ 300..=399) => (
                Permanent,
                format!("http_{status}"),
                "redirects are not followed: set the base URL to where it leads",
            ),
            Some(401) => (Permanent, self.name_or("http_401"), "check the API key"),
            Some(404) => (Permanent, self.name_or("http_404"), "check the model's name and the base URL"),
            Some(status) => (Permanent, self.name_or(format!("http_{status}")), ""),
            None if self.is_one_of(&FINAL) => (Permanent, self.name_or("provider_error"), ""),
            None => (Transient, self.name_or("provider_error"), ""),
        }
    }

    /// Whether somebody else may answer what this one does not.
    fn trouble(&self, class: ErrorClass, code: &str) -> Trouble {
        let named = |names: &[&str]| self.is_one_of(names);
        match (class, self.status) {
            (ErrorClass::RateLimited, _) => Trouble::RateLimited,
            (ErrorClass::Transient | ErrorClass::TimedOut | ErrorClass::Panicked, _) => Trouble::Overloaded,
            (ErrorClass::Permanent, _) if QUOTA.contains(&code) => Trouble::Quota,
            (ErrorClass::Permanent, _) if FILTER.contains(&code) || code == CONTEXT[0] => Trouble::Refused,
            (ErrorClass::Permanent, Some(401 | 403)) => Trouble::Unauthorized,
            (ErrorClass::Permanent, Some(404)) => Trouble::UnknownModel,
            (ErrorClass::Permanent, _) if named(&STRANGERS) => Trouble::UnknownModel,
            (ErrorClass::Permanent, None) if named(&KEYS) => Trouble::Unauthorized,
            (ErrorClass::Permanent, _) => Trouble::Refused,
        }
    }

    /// A refusal costs nothing, but work that was begun may: a gateway that gave up on a slow model, a crash, a filter
    /// that read the prompt (Azure charges for that one).
    fn may_be_billed(&self, class: ErrorClass, code: &str) -> bool {
        match class {
            ErrorClass::RateLimited => false,
            ErrorClass::Permanent => FILTER.contains(&code),
            _ => !matches!(self.status, Some(409 | 503 | 529)),
        }
    }
}

fn describe(status: u16) -> String {
    match reqwest::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()) {
        Some(reason) => format!("{status} {reason}"),
        None => status.to_string(),
    }
}

/// A code or type that is a name: not a number, not `"None"` (as Python gateways write), not a sentence.
fn name(value: Option<&Value>) -> Option<String> {
    let text = match value? {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    let is_name = !text.is_empty()
        && text.len() <= LONGEST_NAME
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b':'));
    let means_nothing = matches!(text.as_str(), "None" | "null" | "error");
    let is_status = text.parse::<u16>().is_ok_and(|number| (100..600).contains(&number));
    (is_name && !means_nothing && !is_status).then_some(text)
}

/// A code that is an error status, as a number or a text.
fn status(value: Option<&Value>) -> Option<u16> {
    let number = match value? {
        Value::Number(number) => number.as_u64().and_then(|number| u16::try_from(number).ok()),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    number.filter(|status| (300..600).contains(status))
}

#[cfg(test)]
#[path = "refusal_tests.rs"]
mod tests;
