//! One suite of promises for every store.
