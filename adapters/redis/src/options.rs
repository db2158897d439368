//! What can be set about the way to Redis.

use std::{fmt, time::Duration};

/// Where Redis is and how long to wait for it.
#[derive(Clone)]
pub struct RedisOptions {
    /// `redis://[user:password@]host[:port][/database]`; `rediss://` for TLS, `redis+unix://` for a socket.
    pub url: String,
    /// Begins every key and channel: 1 to 64 letters, digits, `_`, `-` or `.`. Installations that share a server need
    /// different ones.
    pub prefix: String,
    /// The most connections for commands, at least 1; one more listens for news.
    pub pool_size: u32,
    /// The most time that a call waits for a connection, at least 10 ms. A checkout tests the connection, for at most
    /// half of this.
    pub connect_timeout: Duration,
    /// The most time that a call waits for an answer, at least 10 ms.
    pub response_timeout: Duration,
    /// How often the listening connection is tested, at least 10 ms. It counts as dead when a test is not answered
    /// within the same time.
    pub ping_every: Duration,
}

impl RedisOptions {
    /// The defaults: prefix `task-runner`, 8 connections, half a second for a connection and for an answer, a test of
    /// the listening connection every 2 s.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            prefix: "task-runner".into(),
            pool_size: 8,
            connect_timeout: Duration::from_millis(500),
            response_timeout: Duration::from_millis(500),
            ping_every: Duration::from_secs(2),
        }
    }

    /// Checks the ranges that are promised above, except the URL.
    pub(crate) fn check(&self) -> Result<(), InvalidOptions> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if !(1..=64).contains(&self.prefix.len()) || !self.prefix.chars().all(plain) {
            return Err(InvalidOptions::Prefix(self.prefix.chars().take(80).collect()));
        }
        if self.pool_size == 0 {
            return Err(InvalidOptions::PoolSize);
        }
        let waits = [
            ("connect timeout", self.connect_timeout),
            ("response timeout", self.response_timeout),
            ("ping interval", self.ping_every),
        ];
        match waits.into_iter().find(|(_, wait)| *wait < Duration::from_millis(10)) {
            Some((what, wait)) => Err(InvalidOptions::TooShort { what, wait }),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for RedisOptions {
    /// Leaves out the URL, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisOptions")
            .field("prefix", &self.prefix)
            .field("pool_size", &self.pool_size)
            .field("connect_timeout", &self.connect_timeout)
            .field("response_timeout", &self.response_timeout)
            .field("ping_every", &self.ping_every)
            .finish_non_exhaustive()
    }
}

/// Why options cannot be used. Never shows the URL, which may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOptions {
    /// Not a URL that names a Redis server.
    #[error(
        "the Redis URL cannot be used ({0}); it should read redis://[user:password@]host[:port][/database], with \
         rediss:// for TLS (its value is not shown, as it may hold a password)"
    )]
    Url(String),
    /// Not usable inside key names.
    #[error("{0:?} is not a valid Redis prefix: 1 to 64 letters, digits, '_', '-' or '.'")]
    Prefix(String),
    /// No connection at all.
    #[error("the Redis pool needs at least 1 connection")]
    PoolSize,
    /// A wait so short that a healthy server would count as dead.
    #[error("the Redis {what} of {wait:?} is too short: at least 10ms")]
    TooShort {
        /// Which.
        what: &'static str,
        /// As given.
        wait: Duration,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_holds_no_password() {
        let options = RedisOptions::new("redis://user:hunter2@localhost");
        assert!(!format!("{options:?}").contains("hunter2"));
    }

    #[test]
    fn values_out_of_range_are_named() {
        let good = RedisOptions::new("redis://localhost");
        assert_eq!(good.check(), Ok(()));
        for prefix in ["", "a{b}", "a:b", "ä", &"a".repeat(65)] {
            let bad = RedisOptions { prefix: prefix.into(), ..good.clone() };
            assert_eq!(bad.check(), Err(InvalidOptions::Prefix(prefix.into())));
        }
        assert_eq!(RedisOptions { pool_size: 0, ..good.clone() }.check(), Err(InvalidOptions::PoolSize));
        let hasty = RedisOptions { ping_every: Duration::from_millis(1), ..good };
        assert!(hasty.check().expect_err("1 ms is too short").to_string().contains("ping interval of 1ms"));
    }
}
