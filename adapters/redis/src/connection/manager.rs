//! Makes, tests and discards connections for the pool.

use std::{
    sync::LazyLock,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use bb8_redis::{RedisConnectionManager, bb8::ManageConnection};
use redis::{RedisError, Script, aio::MultiplexedConnection};
use tokio::time::{Instant, timeout};

use crate::{RedisOptions, keys::Keys};

static ADOPT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("adopt.lua")));

/// A connection that knows whether it may go back into the pool.
pub(super) struct Connection {
    pub(super) redis: MultiplexedConnection,
    /// Set while a call is under way, and left so when it failed or was dropped.
    pub(super) broken: bool,
    /// When the server last answered on it.
    pub(super) answered: Instant,
}

/// A connection that was answered this recently is taken to be alive: to ask first would double each call's way.
const FRESH: Duration = Duration::from_millis(500);

/// bb8-redis's manager, with our waits and with a look at the server behind each new connection.
pub(super) struct Manager {
    inner: RedisConnectionManager,
    keys: Keys,
    response_timeout: Duration,
    /// Shorter than the wait for a checkout: else a mute connection would be put back and met again for ever.
    test_timeout: Duration,
    warned_of_eviction: AtomicBool,
}

impl Manager {
    pub(super) fn new(options: &RedisOptions, keys: &Keys) -> Result<Self, RedisError> {
        Ok(Self {
            inner: RedisConnectionManager::new(options.url.as_str())?,
            keys: keys.clone(),
            response_timeout: options.response_timeout,
            test_timeout: options.response_timeout.min(options.connect_timeout / 2),
            warned_of_eviction: AtomicBool::new(false),
        })
    }

    /// Forgets the order if this server process is not the one that it was written to.
    async fn adopt(&self, connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
        let info: String = match redis::cmd("INFO").query_async(connection).await {
            Ok(info) => info,
            Err(error) if error.code() == Some("NOPERM") => {
                tracing::debug!(%error, "this Redis user may not run INFO: a restart with old data goes unnoticed");
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if let Some(policy) =
            info_field(&info, "maxmemory_policy").filter(|policy| policy.starts_with("allkeys-"))
            && !self.warned_of_eviction.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(
                policy,
                "this Redis may evict any key, so tasks could wait until the store is swept; \
                 set maxmemory-policy to noeviction"
            );
        }
        if let Some(run) = info_field(&info, "run_id") {
            let mut script = ADOPT.prepare_invoke();
            script.key(self.keys.server()).key(self.keys.queues()).arg(run).arg(&self.keys.base);
            let forgotten: u64 = script.invoke_async(connection).await?;
            if forgotten > 0 {
                tracing::info!(
                    queues = forgotten,
                    "this Redis has been restarted: the order is filled again"
                );
            }
        }
        Ok(())
    }
}

impl ManageConnection for Manager {
    type Connection = Connection;
    type Error = RedisError;

    async fn connect(&self) -> Result<Connection, RedisError> {
        let mut redis = self.inner.connect().await?;
        redis.set_response_timeout(self.response_timeout);
        self.adopt(&mut redis).await?;
        Ok(Connection { redis, broken: false, answered: Instant::now() })
    }

    async fn is_valid(&self, connection: &mut Connection) -> Result<(), RedisError> {
        if connection.answered.elapsed() < FRESH {
            return Ok(());
        }
        connection.broken = true;
        match timeout(self.test_timeout, self.inner.is_valid(&mut connection.redis)).await {
            Ok(answer) => answer?,
            Err(late) => return Err(std::io::Error::new(std::io::ErrorKind::TimedOut, late).into()),
        }
        connection.broken = false;
        connection.answered = Instant::now();
        Ok(())
    }

    fn has_broken(&self, connection: &mut Connection) -> bool {
        connection.broken
    }
}

/// One `name:value` line of INFO.
fn info_field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_info_are_found_by_their_whole_name() {
        let info = "# Server\r\nrun_id_x:no\r\nrun_id:abc\r\n# Memory\r\nmaxmemory_policy:noeviction\r\n";
        assert_eq!(info_field(info, "run_id"), Some("abc"));
        assert_eq!(info_field(info, "maxmemory_policy"), Some("noeviction"));
        assert_eq!(info_field(info, "run"), None);
    }
}
