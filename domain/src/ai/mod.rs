//! Work that a model does: what may be asked, what an answer has to be, who is asked, and what it costs.

mod budget;
mod format;
mod in_flight;
mod lane;
mod quota;
mod request;
mod routing;
mod schema;
mod usage;

pub use budget::{Budget, Payer, Period, Purse, Purses, Spend};
pub use format::{MAX_REPAIRS, Misfit, ResponseFormat};
pub use in_flight::{Caller, Crowd, InFlight};
pub use lane::LaneTerms;
pub use quota::{Meter, PerMinute, Quota, Refusal, Step, Verdict};
pub use request::{
    EmbeddingLimits, InvalidRequest, MAX_TEXT, Message, Role, Sampling, check_messages, text_of,
};
pub use routing::{
    Candidate, InvalidRule, MOST_CANDIDATES, ModelGlob, ModelRule, ModelRules, ProviderName, ServedModels,
    Trouble, gravest,
};
pub use schema::{InvalidSchema, Schema};
pub use usage::{
    ModelCall, OUTPUT_UNLESS_SAID, Operation, Price, PriceList, Spending, Usage, UsageGroup, UsageGrouping,
    estimate_tokens,
};
