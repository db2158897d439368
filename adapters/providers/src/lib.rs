//! Text generation: simulated, and any OpenAI-compatible server. Both implement
//! [`application::ports::TextGenerator`]; which one answers is decided where the configuration is read.

mod latency;
mod openai;
mod simulated;

pub use latency::{LatencyRange, LatencyRangeError};
pub use openai::{OpenAiConfig, OpenAiConfigError, OpenAiGenerator, ProviderTimeouts, Secret};
pub use simulated::SimulatedGenerator;
