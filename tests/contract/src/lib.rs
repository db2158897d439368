//! One suite of promises for every store.

pub mod servers;
