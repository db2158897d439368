//! What a provider needs to know, given by whoever reads the configuration.

use std::{fmt, time::Duration};

/// A value that is never shown: its `Debug` is redacted and it has no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Drops white space around it, as key files and `.env` lines leave some.
    pub fn new(value: impl AsRef<str>) -> Self {
        Self(value.as_ref().trim().to_owned())
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// `text` without this secret.
    pub(crate) fn redact(&self, text: &str) -> String {
        if self.0.is_empty() { text.to_owned() } else { text.replace(&self.0, "[redacted]") }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl From<String> for Secret {
    fn from(value: String) -> Self {
        Self::new(value)
    }
}

/// Where the provider is and how long it may take.
#[derive(Debug, Clone)]
pub struct OpenAiConfig {
    /// Such as `https://api.openai.com/v1`; `/chat/completions` is added. Azure is known by its host or by
    /// `?api-version=…`, and gets its own header and paths.
    pub base_url: String,
    /// Servers of one's own often need none.
    pub api_key: Option<Secret>,
    /// The four time-outs.
    pub timeouts: ProviderTimeouts,
    /// Whether it is Azure although its URL does not say so.
    pub azure: bool,
}

impl OpenAiConfig {
    /// OpenAI's own servers.
    pub const DEFAULT_BASE_URL: &'static str = "https://api.openai.com/v1";
}

/// How long each phase of a call may take; none may be zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProviderTimeouts {
    /// Name look-up, TCP and TLS (`connect_timeout`).
    pub connect: Duration,
    /// From the call to the first token, connecting included (`first_token_timeout`).
    pub first_token: Duration,
    /// From one token to the next; comments and pings do not count as tokens (`idle_timeout`).
    pub idle: Duration,
    /// The whole call (`total_timeout`).
    pub total: Duration,
}

impl Default for ProviderTimeouts {
    /// 10 s, 2 min, 1 min and 15 min: long enough for a model that is loaded on demand or thinks before it speaks.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            first_token: Duration::from_secs(120),
            idle: Duration::from_secs(60),
            total: Duration::from_secs(900),
        }
    }
}

/// Why a provider cannot be set up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenAiConfigError {
    /// The base URL is not usable. User information and the query are left out of the text: they may be secrets.
    #[error("the base URL {url:?} of the openai provider {problem}")]
    BaseUrl {
        /// What was given.
        url: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The key would not fit into an HTTP header.
    #[error("the API key of the openai provider is {0}; set it to the key alone, on one line")]
    ApiKey(&'static str),
    /// A zero time-out would fail every call.
    #[error("the {0} time-out of the openai provider is zero; set it to the longest time that is acceptable")]
    Timeout(&'static str),
    /// The HTTP client could not be built; most often no root certificates are installed.
    #[error(
        "the openai provider's HTTP client cannot start: {0}; for https, root certificates must be installed (ca-certificates)"
    )]
    Client(String),
}

impl ProviderTimeouts {
    pub(crate) fn check(&self) -> Result<(), OpenAiConfigError> {
        let named = [
            ("connect", self.connect),
            ("first_token", self.first_token),
            ("idle", self.idle),
            ("total", self.total),
        ];
        match named.into_iter().find(|(_, timeout)| timeout.is_zero()) {
            Some((name, _)) => Err(OpenAiConfigError::Timeout(name)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_shown() {
        let config = OpenAiConfig {
            base_url: OpenAiConfig::DEFAULT_BASE_URL.to_owned(),
            api_key: Some(Secret::new(" sk-12345\n")),
            timeouts: ProviderTimeouts::default(),
            azure: false,
        };
        assert!(!format!("{config:?}").contains("12345"), "{config:?}");
        let key = config.api_key.unwrap();
        assert_eq!(key.expose(), "sk-12345");
        assert_eq!(key.redact("bad key sk-12345."), "bad key [redacted].");
        assert_eq!(Secret::new("").redact("unchanged"), "unchanged");
    }

    #[test]
    fn zero_timeouts_are_refused_by_name() {
        let good = ProviderTimeouts::default();
        assert_eq!(good.check(), Ok(()));
        for (bad, name) in [
            (ProviderTimeouts { connect: Duration::ZERO, ..good }, "connect"),
            (ProviderTimeouts { first_token: Duration::ZERO, ..good }, "first_token"),
            (ProviderTimeouts { idle: Duration::ZERO, ..good }, "idle"),
            (ProviderTimeouts { total: Duration::ZERO, ..good }, "total"),
        ] {
            assert_eq!(bad.check(), Err(OpenAiConfigError::Timeout(name)));
        }
    }
}
