//! The HTTP API: OpenAPI document, Swagger UI, problem details, server-sent events.
