//! What may be called outside, and how: which addresses ([`address`]), which URLs ([`target`]) and headers ([`headers`]), how a message is signed
//! ([`signature`]), what is told of a task's end ([`event`]), and what an unsuccessful call means for another try ([`verdict`]).

pub mod address;
pub mod event;
pub mod headers;
pub mod signature;
pub mod target;
pub mod verdict;

pub use address::{AddressClass, Allowed, Block, InvalidAllowed, classify};
pub use event::{CallbackEvent, callback_key};
pub use headers::check_headers;
pub use signature::{InvalidSecret, MessageId, SigningKeys, SigningSecret};
pub use target::{InvalidTarget, OutboundRules, Ports, Target};
pub use verdict::{Missed, RetryMode, WEBHOOK_ATTEMPTS, webhook_wait};
