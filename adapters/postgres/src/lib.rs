//! The task store on PostgreSQL.
