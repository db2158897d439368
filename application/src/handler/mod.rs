//! The handlers' side: what one knows of its task, and the way of what it reports.

mod account;
mod context;
mod recorder;
mod running;

pub use context::{TaskContext, TaskInfo};
pub(crate) use recorder::{Leftover, Recorder};
pub(crate) use running::{RunningAttempt, Stop, Terms};
