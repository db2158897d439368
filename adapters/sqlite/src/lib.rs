//! The task store on SQLite, for one process.
