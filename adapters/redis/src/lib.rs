//! The order of waiting tasks and the news between processes on Redis.
