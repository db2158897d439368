//! Configuration and wiring of the task runner, for its three binaries and for the main() of Rust users.
