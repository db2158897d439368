//! The order of waiting tasks and the news between processes on Redis.
//!
//! **Architecture invariant:** everything here can be thrown away. The order is a window on what the store holds and
//! is filled from there again; news are best effort. With Redis down, each call fails fast with
//! [`StoreError::Unavailable`](application::ports::StoreError::Unavailable), and recovery needs no restart.
//!
//! [`Redis`] is one process's way to the server: a pool and its circuit breaker. [`RedisOrder`] and [`RedisSignals`]
//! implement the ports over it. What the keys hold is told at the head of each script under `src/order`.
//!
//! All keys and channels begin with `{prefix}:v1:`, braces included: one hash slot, so that scripts may touch several
//! keys on a cluster. A new layout gets a new version number and fills itself from the store; old keys may be deleted.
//!
//! The server should not evict keys (`maxmemory-policy noeviction`, or any `volatile-` policy): see
//! [`Redis::open`].

mod connection;
mod keys;
mod options;
mod order;
mod signals;

pub use connection::Redis;
pub use options::{InvalidOptions, RedisOptions};
pub use order::RedisOrder;
pub use signals::RedisSignals;
