//! Where the database is and how it is spoken to.

use std::{borrow::Cow, time::Duration};

use sqlx::postgres::PgConnectOptions;

use crate::PostgresError;

/// Limits of the connections to the database. The defaults suit one process with up to a few thousand tasks at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PostgresOptions {
    /// The most connections at once, at least 1.
    pub max_connections: u32,
    /// How long a call waits for a connection before it answers that the store is unavailable.
    pub acquire_timeout: Duration,
    /// How long opening a connection may take.
    pub connect_timeout: Duration,
    /// How long one statement may run on the server. The adapter itself gives up two seconds later and drops the
    /// connection, in case the server cannot be heard any more.
    pub statement_timeout: Duration,
    /// A connection is replaced when it is this old, so that a fail-over or a new address is noticed.
    pub max_lifetime: Duration,
    /// A connection that was not used for this long is closed.
    pub idle_timeout: Duration,
    /// A scan of all waiting tasks that takes this long is not repeated each time: until the next one, who comes in
    /// before those that were found (a retry, a commit that was overtaken) waits for some seconds at most.
    pub slow_scan: Duration,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self {
            max_connections: 20,
            acquire_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(10),
            max_lifetime: Duration::from_secs(30 * 60),
            idle_timeout: Duration::from_secs(5 * 60),
            slow_scan: Duration::from_millis(100),
        }
    }
}

/// Settings of each session of the store. Every statement here is written for one plan: it is driven by keys and reads
/// through indexes. The planner is kept to that plan whatever it believes about the size of the tables, which are
/// never analysed at first and then change from empty to millions of rows within minutes.
const SESSION: [(&str, &str); 9] = [
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"), // reads in the order of the index instead: rows are locked in the order of their ids
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("plan_cache_mode", "force_generic_plan"),
    ("jit", "off"),
    ("synchronous_commit", "on"),
    ("default_transaction_isolation", "read committed"),
    ("idle_in_transaction_session_timeout", "10s"),
];

impl PostgresOptions {
    pub(crate) fn session(&self, url: &str) -> Result<PgConnectOptions, PostgresError> {
        let statement_timeout = self.statement_timeout.as_millis().to_string();
        Ok(parse_url(url)?.options(SESSION).options([("statement_timeout", statement_timeout)]))
    }
}

/// Reads a database URL; errors never hold it, since it may hold a password.
pub(crate) fn parse_url(url: &str) -> Result<PgConnectOptions, PostgresError> {
    let normalised = normalise_url(url).ok_or(PostgresError::NotPostgres)?;
    let options: PgConnectOptions =
        normalised.parse().map_err(|error: sqlx::Error| PostgresError::InvalidUrl(error.to_string()))?;
    Ok(match options.get_application_name() {
        Some(_) => options,
        None => options.application_name("task-runner"),
    })
}

/// A URL as other tools write it (`postgresql://`, `postgresql+asyncpg://`, `postgres+asyncpg://`, …) as
/// `postgres://`, with asyncpg's parameter `ssl` as `sslmode`. `None` when it is not a PostgreSQL URL at all.
pub fn normalise_url(url: &str) -> Option<Cow<'_, str>> {
    let (scheme, rest) = url.split_once("://")?;
    let (base, driver) = match scheme.split_once('+') {
        Some((base, driver)) => (base, Some(driver)),
        None => (scheme, None),
    };
    if !["postgres", "postgresql"].iter().any(|name| base.eq_ignore_ascii_case(name)) {
        return None;
    }
    if driver.is_none() {
        return Some(if scheme == "postgres" { url.into() } else { format!("postgres://{rest}").into() });
    }
    let (place, query) = match rest.split_once('?') {
        Some((place, query)) => (place, query),
        None => (rest, ""),
    };
    let parameters: Vec<_> =
        query.split('&').filter(|parameter| !parameter.is_empty()).map(known_parameter).collect();
    let mark = if parameters.is_empty() { "" } else { "?" };
    Some(format!("postgres://{place}{mark}{}", parameters.join("&")).into())
}

fn known_parameter(parameter: &str) -> Cow<'_, str> {
    match parameter.split_once('=') {
        Some(("ssl", "true" | "True" | "1")) => "sslmode=require".into(),
        Some(("ssl", "false" | "False" | "0")) => "sslmode=disable".into(),
        Some(("ssl", mode)) => format!("sslmode={mode}").into(),
        _ => parameter.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_other_tools_are_understood() {
        for (given, expected) in [
            ("postgres://u:p@h:1/d", "postgres://u:p@h:1/d"),
            ("postgresql://h/d?sslmode=require", "postgres://h/d?sslmode=require"),
            ("postgresql+asyncpg://u@h/d", "postgres://u@h/d"),
            ("postgres+asyncpg://u@h/d?ssl=require", "postgres://u@h/d?sslmode=require"),
            ("postgresql+psycopg2://h/d?ssl=true&port=7", "postgres://h/d?sslmode=require&port=7"),
        ] {
            assert_eq!(normalise_url(given).as_deref(), Some(expected), "{given}");
        }
        for other in ["sqlite://data/x.db", "mysql://h/d", "h/d", ""] {
            assert_eq!(normalise_url(other), None, "{other}");
        }
    }

    #[test]
    fn a_refused_url_is_not_repeated() {
        for url in [
            "postgres://user:secret@host:notaport/d",
            "mysql://user:secret@host/d",
            "postgres://u:secret@h/d?sslmode=odd",
        ] {
            let error = parse_url(url).expect_err("not a usable URL").to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
