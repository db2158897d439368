//! What the task runner does, over ports: the use cases, the worker loop and the built-in task types.
//!
//! **Architecture invariant:** nothing here knows SQL, Redis or HTTP, and nothing reads the environment or a wall clock.

pub mod ports;
