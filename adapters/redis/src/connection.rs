//! One process's way to Redis: a pool of connections behind a circuit breaker.

mod breaker;
mod manager;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use application::ports::StoreError;
use bb8_redis::bb8::{ErrorSink, Pool, RunError};
use redis::{
    Client, Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, RedisResult, ScriptInvocation,
    ServerErrorKind,
};
use tokio::time::Instant;

use self::{
    breaker::Breaker,
    manager::{Connection, Manager},
};
use crate::{InvalidOptions, RedisOptions, keys::Keys};

/// A handle on the pool, cheap to clone; all clones share one circuit breaker.
///
/// The first failure to reach Redis opens the breaker: from then on every call fails at once, while a background task
/// tries a connection, first soon and then each second, and closes the breaker when it is answered.
#[derive(Clone)]
pub struct Redis {
    shared: Arc<Shared>,
}

struct Shared {
    pool: Pool<Manager>,
    client: Client,
    keys: Keys,
    options: RedisOptions,
    address: String,
    breaker: Breaker,
    connect_error: ConnectError,
}

/// What is sent in one go.
pub(crate) enum Ask<'a> {
    Script(&'a ScriptInvocation<'a>),
    Command(&'a Cmd),
    Pipeline(&'a Pipeline),
}

/// Why nothing came back.
enum Trouble {
    NoConnection(String),
    /// No place in the pool for so long: many calls, not an outage.
    Busy(Duration),
    Answer(RedisError),
}

impl Redis {
    /// Prepares the pool; connects when it is first used, so Redis may be down. Must be called inside a tokio runtime.
    ///
    /// Each new connection looks at the server: when it is not the process that the order was last written to (a
    /// restart with an old dump, a failover to a replica that lagged behind), the order is forgotten, to be filled
    /// from the store. A policy that evicts keys at will is warned of, because it could drop a window unseen.
    pub fn open(options: RedisOptions) -> Result<Self, InvalidOptions> {
        options.check()?;
        let invalid = |error: RedisError| InvalidOptions::Url(error.to_string());
        let client = Client::open(options.url.as_str()).map_err(invalid)?;
        let keys = Keys::new(&options.prefix);
        let manager = Manager::new(&options, &keys).map_err(invalid)?;
        let connect_error = ConnectError::default();
        let pool = Pool::builder()
            .max_size(options.pool_size)
            .connection_timeout(options.connect_timeout)
            // Without the test on checkout, connections that a restart has cut would stay in the pool for ever.
            .test_on_check_out(true)
            .error_sink(Box::new(connect_error.clone()))
            .build_unchecked(manager);
        let address = client.get_connection_info().addr().to_string();
        let breaker = Breaker::default();
        Ok(Self { shared: Arc::new(Shared { pool, client, keys, options, address, breaker, connect_error }) })
    }

    /// Where the server is, for people: host and port, no secrets.
    pub fn address(&self) -> &str {
        &self.shared.address
    }

    /// Whether the last attempt to reach the server failed.
    pub fn is_down(&self) -> bool {
        self.shared.breaker.error().is_some()
    }

    /// One round trip; answers how long it took.
    pub async fn ping(&self) -> Result<Duration, StoreError> {
        let start = Instant::now();
        let _: String = self.query(Ask::Command(&redis::cmd("PING"))).await?;
        Ok(start.elapsed())
    }

    pub(crate) fn keys(&self) -> &Keys {
        &self.shared.keys
    }

    pub(crate) fn options(&self) -> &RedisOptions {
        &self.shared.options
    }

    /// For connections outside of the pool.
    pub(crate) fn client(&self) -> &Client {
        &self.shared.client
    }

    /// Sends and waits for the answer, or fails at once during an outage.
    pub(crate) async fn query<T: FromRedisValue>(&self, ask: Ask<'_>) -> Result<T, StoreError> {
        if let Some(error) = self.shared.breaker.error() {
            let address = self.address();
            return Err(StoreError::Unavailable(format!("Redis at {address} is down: {error}")));
        }
        match self.shared.attempt(&ask).await {
            Ok(answer) => Ok(answer),
            Err(trouble) => {
                if trouble.is_outage() {
                    breaker::open(&self.shared, &trouble);
                }
                Err(trouble.for_caller(self.address()))
            }
        }
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("address", &self.shared.address).finish_non_exhaustive()
    }
}

impl Shared {
    async fn attempt<T: FromRedisValue>(&self, ask: &Ask<'_>) -> Result<T, Trouble> {
        let mut connection = match self.pool.get().await {
            Ok(connection) => connection,
            Err(RunError::User(error)) => return Err(Trouble::NoConnection(error.to_string())),
            // All are in use, and whoever uses them learns by the answers whether Redis is there.
            Err(RunError::TimedOut) if self.pool.state().connections >= self.options.pool_size => {
                return Err(Trouble::Busy(self.options.connect_timeout));
            }
            Err(RunError::TimedOut) => {
                let waited = self.options.connect_timeout;
                let cause = match self.connect_error.take() {
                    Some(error) => format!(": {error}"),
                    None => String::new(),
                };
                return Err(Trouble::NoConnection(format!("no connection within {waited:?}{cause}")));
            }
        };
        // Until an answer shows the contrary: if this future is dropped, the connection goes with it.
        connection.broken = true;
        let answer = ask.send(&mut connection).await;
        connection.broken = answer.as_ref().is_err_and(breaks_connection);
        connection.answered = Instant::now();
        answer.map_err(Trouble::Answer)
    }
}

impl Ask<'_> {
    async fn send<T: FromRedisValue>(&self, connection: &mut Connection) -> RedisResult<T> {
        match self {
            Self::Script(script) => script.invoke_async(&mut connection.redis).await,
            Self::Command(command) => command.query_async(&mut connection.redis).await,
            Self::Pipeline(pipeline) => pipeline.query_async(&mut connection.redis).await,
        }
    }
}

/// Whether a new connection could do better: this one is cut or mute, or leads to a server that no longer leads.
fn breaks_connection(error: &RedisError) -> bool {
    error.is_io_error()
        || matches!(
            error.kind(),
            ErrorKind::Parse | ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown)
        )
}

impl Trouble {
    /// Whether every other call would meet the same. A refusal (out of memory, no permission) comes fast anyway.
    fn is_outage(&self) -> bool {
        match self {
            Self::NoConnection(_) => true,
            Self::Busy(_) => false,
            Self::Answer(error) => {
                error.is_io_error() || error.kind() == ErrorKind::Server(ServerErrorKind::BusyLoading)
            }
        }
    }

    fn for_caller(&self, address: &str) -> StoreError {
        match self {
            Self::Answer(error)
                if error.kind() == ErrorKind::UnexpectedReturnType || error.code() == Some("WRONGTYPE") =>
            {
                StoreError::Corrupt(format!("Redis at {address}: {error}"))
            }
            Self::NoConnection(_) | Self::Busy(_) | Self::Answer(_) => {
                StoreError::Unavailable(format!("Redis at {address}: {self}"))
            }
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoConnection(reason) => f.write_str(reason),
            Self::Busy(waited) => write!(f, "all connections were busy for {waited:?}"),
            Self::Answer(error) => error.fmt(f),
        }
    }
}

/// Keeps the pool's last error, which a caller whose wait for a connection ran out is not told.
#[derive(Debug, Clone, Default)]
struct ConnectError(Arc<Mutex<Option<String>>>);

impl ConnectError {
    fn take(&self) -> Option<String> {
        lock(&self.0).take()
    }
}

impl ErrorSink<RedisError> for ConnectError {
    fn sink(&self, error: RedisError) {
        *lock(&self.0) = Some(error.to_string());
    }

    fn boxed_clone(&self) -> Box<dyn ErrorSink<RedisError>> {
        Box::new(self.clone())
    }
}

/// No critical section of this crate panics half-way, so a poisoned lock holds sound data.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
