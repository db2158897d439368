//! Connections, and the one way to use them: [`Connections::run`].
//!
//! A call's work is done to its end: where its caller is dropped half way, the rest runs in a task of its own, so that no
//! statement is left half read on a connection. Every wait has a limit, after which the connection is dropped and its place is free again.
//!
//! Why not sqlx's pool: it asks the server for a sign of life each time a connection comes back, which is a second round
//! trip per statement, and waits for the answer without limit while the place counts as taken.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{self, Poll},
    time::Duration,
};

use application::ports::StoreError;
use sqlx::{ConnectOptions, Connection, PgConnection, postgres::PgConnectOptions};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout, timeout_at},
};

use crate::{PostgresOptions, error::Fault};

/// A connection that was used this recently, and since when nothing went wrong, is taken to be alive.
const FRESH: Duration = Duration::from_secs(1);
/// How long a sign of life may take.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);
/// How much longer than the server we wait for the end of a statement.
const GRACE: Duration = Duration::from_secs(2);
/// How often a call is tried when it collides with others.
const TRIES: usize = 5;

/// One call's work on one connection. It may be tried more than once, and owns all that it needs.
pub(crate) trait Operation: Send + Sync + 'static {
    type Output: Send + 'static;

    fn run(&self, connection: &mut PgConnection) -> impl Future<Output = Result<Self::Output, Fault>> + Send;
}

/// A future that goes on when it is dropped before its end. As long as its caller waits, it runs in the caller's own
/// task: each further task between a request and the database can be one more processor to wake.
struct ToItsEnd<T: Send + 'static>(Option<Pin<Box<dyn Future<Output = T> + Send>>>);

impl<T: Send + 'static> Future for ToItsEnd<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<T> {
        // A future that has ended, also by a panic, is not polled again: then it is not here any more.
        let Some(mut work) = self.0.take() else { return Poll::Pending };
        let answer = work.as_mut().poll(context);
        if answer.is_pending() {
            self.0 = Some(work);
        }
        answer
    }
}

impl<T: Send + 'static> Drop for ToItsEnd<T> {
    fn drop(&mut self) {
        // Without a runtime, the process ends.
        if let (Some(work), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(work);
        }
    }
}

/// A bounded set of connections. Clones share it.
#[derive(Clone)]
pub(crate) struct Connections {
    shared: Arc<Shared>,
}

struct Shared {
    target: PgConnectOptions,
    limits: PostgresOptions,
    places: Arc<Semaphore>,
    idle: Mutex<Idle>,
}

#[derive(Default)]
struct Idle {
    /// The most recently used at the back.
    connections: VecDeque<Resting>,
    /// When a connection last broke: older ones prove themselves before they are used again.
    last_break: Option<Instant>,
}

struct Resting {
    connection: PgConnection,
    opened: Instant,
    since: Instant,
}

/// A connection in use. Dropped without [`Lent::give_back`], it is closed.
struct Lent {
    connection: PgConnection,
    opened: Instant,
    _place: OwnedSemaphorePermit,
}

impl Connections {
    pub(crate) fn new(target: PgConnectOptions, limits: PostgresOptions) -> Self {
        let places = Arc::new(Semaphore::new(limits.max_connections.max(1) as usize));
        Self { shared: Arc::new(Shared { target, limits, places, idle: Mutex::default() }) }
    }

    /// The longest that a statement may still take effect after its call failed.
    pub(crate) fn doubt(&self) -> Duration {
        self.shared.limits.statement_timeout + GRACE
    }

    /// Does the work to its end, whether or not the caller waits for it.
    pub(crate) async fn run<O: Operation>(&self, operation: O) -> Result<O::Output, StoreError> {
        self.attempt(operation).await?.map_err(StoreError::from)
    }

    /// As [`Self::run`]; the inner error is what the database said of the work.
    pub(crate) async fn attempt<O: Operation>(
        &self,
        operation: O,
    ) -> Result<Result<O::Output, Fault>, StoreError> {
        ToItsEnd(Some(Box::pin(self.shared.clone().run(operation)))).await
    }
}

impl Shared {
    async fn run<O: Operation>(
        self: Arc<Self>,
        operation: O,
    ) -> Result<Result<O::Output, Fault>, StoreError> {
        let mut lent = self.acquire().await?;
        let limit = self.limits.statement_timeout + GRACE;
        let mut tries = 0;
        loop {
            tries += 1;
            let fault = match timeout(limit, operation.run(&mut lent.connection)).await {
                Ok(Ok(output)) => {
                    self.give_back(lent);
                    return Ok(Ok(output));
                }
                Ok(Err(fault)) => fault,
                Err(_) => {
                    self.note_break();
                    return Err(StoreError::Unavailable(format!(
                        "no answer from PostgreSQL within {limit:?}"
                    )));
                }
            };
            if fault.spares_connection() {
                // Also ends a transaction that the work has left open.
                if matches!(timeout(SIGN_OF_LIFE, lent.connection.ping()).await, Ok(Ok(()))) {
                    if fault.is_collision() && tries < TRIES {
                        continue;
                    }
                    self.give_back(lent);
                }
            } else {
                self.note_break();
            }
            return Ok(Err(fault));
        }
    }

    async fn acquire(&self) -> Result<Lent, StoreError> {
        let limit = self.limits.acquire_timeout;
        let deadline = Instant::now() + limit;
        let Ok(place) = timeout_at(deadline, self.places.clone().acquire_owned()).await else {
            let most = self.limits.max_connections;
            return Err(StoreError::Unavailable(format!(
                "all {most} connections to PostgreSQL were busy for {limit:?}"
            )));
        };
        let place = place.map_err(|_| StoreError::Unavailable("the store is closed".into()))?;
        while let Some((mut resting, trusted)) = self.take_idle() {
            let asked = Instant::now();
            let lives =
                if trusted { Ok(Ok(())) } else { timeout(SIGN_OF_LIFE, resting.connection.ping()).await };
            match lives {
                Ok(Ok(())) => {
                    return Ok(Lent {
                        connection: resting.connection,
                        opened: resting.opened,
                        _place: place,
                    });
                }
                // It was closed, which says so at once: the next one may be asked.
                Ok(Err(_)) => {}
                Err(_) => self.give_up_all_since(asked),
            }
            if Instant::now() >= deadline {
                return Err(StoreError::Unavailable(format!(
                    "PostgreSQL gave no sign of life for {limit:?}"
                )));
            }
        }
        let connection = self.connect(deadline).await?;
        Ok(Lent { connection, opened: Instant::now(), _place: place })
    }

    async fn connect(&self, deadline: Instant) -> Result<PgConnection, StoreError> {
        loop {
            let limit = deadline.min(Instant::now() + self.limits.connect_timeout);
            let error = match timeout_at(limit, self.target.connect()).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => error,
                Err(_) => {
                    return Err(StoreError::Unavailable("connecting to PostgreSQL took too long".into()));
                }
            };
            // "The database system is starting up" and "too many clients" pass soon.
            let code = error.as_database_error().and_then(|error| error.code());
            let soon = matches!(code.as_deref(), Some("57P03" | "53300"));
            if !soon || Instant::now() + FRESH / 10 >= deadline {
                return Err(StoreError::Unavailable(error.to_string()));
            }
            tokio::time::sleep(FRESH / 10).await;
        }
    }

    /// The most recently used connection, and whether it needs no test.
    fn take_idle(&self) -> Option<(Resting, bool)> {
        let mut idle = self.idle();
        let resting = idle.connections.pop_back()?;
        let broke_since = idle.last_break.is_some_and(|at| at >= resting.since);
        let trusted = !broke_since && resting.since.elapsed() < FRESH;
        Some((resting, trusted))
    }

    fn give_back(&self, lent: Lent) {
        let Lent { connection, opened, _place } = lent;
        let mut old = Vec::new();
        let mut idle = self.idle();
        if opened.elapsed() < self.limits.max_lifetime {
            idle.connections.push_back(Resting { connection, opened, since: Instant::now() });
        } else {
            old.push(connection);
        }
        while idle
            .connections
            .front()
            .is_some_and(|resting| resting.since.elapsed() > self.limits.idle_timeout)
        {
            old.extend(idle.connections.pop_front().map(|resting| resting.connection));
        }
        drop(idle);
        for connection in old {
            tokio::spawn(timeout(SIGN_OF_LIFE, connection.close()));
        }
    }

    /// A connection was mute: what has swallowed it has likely swallowed those that rested beside it. To wait for each
    /// in turn would take longer than a caller has.
    fn give_up_all_since(&self, asked: Instant) {
        let mut idle = self.idle();
        idle.last_break = Some(Instant::now());
        idle.connections.retain(|resting| resting.since > asked);
    }

    fn note_break(&self) {
        self.idle().last_break = Some(Instant::now());
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn work_goes_on_when_its_caller_is_dropped_half_way() {
        let ((answer, end), (done, is_done)) = (oneshot::channel::<()>(), oneshot::channel());
        let mut work = ToItsEnd(Some(Box::pin(async move {
            end.await.expect("an answer");
            done.send(()).expect("somebody waits");
        })));
        let begun = std::future::poll_fn(|context| Poll::Ready(Pin::new(&mut work).poll(context)));
        assert!(begun.await.is_pending());
        drop(work);
        answer.send(()).expect("the work waits");
        timeout(Duration::from_secs(5), is_done).await.expect("in time").expect("done");
    }

    #[tokio::test]
    async fn work_that_is_awaited_gives_its_answer() {
        assert_eq!(ToItsEnd(Some(Box::pin(async { 7 }))).await, 7);
    }
}
