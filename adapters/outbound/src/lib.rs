//! Calls to HTTP endpoints of users'. [`client`] makes one, [`resolve`] sees to it that it goes nowhere forbidden,
//! [`trouble`] says how far a call came that did not succeed.

mod client;
mod resolve;
mod trouble;

pub use client::{HttpOutbound, OutboundConfig};
pub use resolve::{Lookup, Resolved, SystemLookup};
