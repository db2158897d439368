//! The whole product in one process.

fn main() {}
