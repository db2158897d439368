//! Text generation: simulated, and any OpenAI-compatible server.
