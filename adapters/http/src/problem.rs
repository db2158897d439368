//! Every failure, as problem details (RFC 9457).

use application::{ports::StoreError, tasks::SubmitError};
use poem::{IntoResponse, Response, http::StatusCode};
use poem_openapi::{
    ApiResponse, Object,
    payload::Payload,
    registry::{MetaSchemaRef, Registry},
    types::Type,
};
use serde::Serialize;

/// The media type of every failure.
pub(crate) const PROBLEM_JSON: &str = "application/problem+json";
/// How long a client should wait before it tries again when the store is away, in seconds.
const RETRY_AFTER: i32 = 2;

/// What went wrong, and what to do (RFC 9457).
#[derive(Debug, Clone, PartialEq, Eq, Object, Serialize)]
#[oai(rename = "Problem")]
pub(crate) struct Problem {
    /// `about:blank`: the status says what kind of problem it is.
    #[serde(rename = "type")]
    #[oai(rename = "type")]
    pub(crate) kind: String,
    /// The status in words.
    pub(crate) title: String,
    /// The HTTP status.
    pub(crate) status: i32,
    /// What happened, with which value, and what to do.
    pub(crate) detail: String,
    /// The fields at fault, if any.
    pub(crate) errors: Vec<FieldError>,
}

/// One field at fault.
#[derive(Debug, Clone, PartialEq, Eq, Object, Serialize)]
#[oai(rename = "FieldError")]
pub(crate) struct FieldError {
    /// Its name in the request.
    pub(crate) field: String,
    /// What is wrong with it.
    pub(crate) message: String,
}

impl FieldError {
    pub(crate) fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

impl Problem {
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            kind: "about:blank".to_owned(),
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            status: i32::from(status.as_u16()),
            detail: detail.into(),
            errors: Vec::new(),
        }
    }

    pub(crate) fn with_errors(mut self, errors: Vec<FieldError>) -> Self {
        self.errors = errors;
        self
    }
}

/// A problem as a payload of its own media type.
pub(crate) struct ProblemJson(pub(crate) Problem);

impl Payload for ProblemJson {
    const CONTENT_TYPE: &'static str = PROBLEM_JSON;

    fn schema_ref() -> MetaSchemaRef {
        Problem::schema_ref()
    }

    fn register(registry: &mut Registry) {
        Problem::register(registry);
    }
}

impl IntoResponse for ProblemJson {
    fn into_response(self) -> Response {
        let status = u16::try_from(self.0.status).ok().and_then(|status| StatusCode::from_u16(status).ok());
        let body = serde_json::to_vec(&self.0).unwrap_or_default();
        Response::builder()
            .status(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR))
            .content_type(PROBLEM_JSON)
            .body(body)
    }
}

/// The failures that operations answer. Some come from the guard before an operation is reached; they stand here so that
/// the document has them.
#[derive(ApiResponse)]
#[allow(dead_code, reason = "answered by the guard, documented here")]
pub(crate) enum ApiError {
    /// The request cannot be read: malformed JSON or a malformed header.
    #[oai(status = 400)]
    BadRequest(ProblemJson),
    /// The request's Host is not served here, or the request comes from another site.
    #[oai(status = 403)]
    Forbidden(ProblemJson),
    /// There is no such task, schedule, worker or route.
    #[oai(status = 404)]
    NotFound(ProblemJson),
    /// The client took too long to send its request.
    #[oai(status = 408)]
    TooSlow(ProblemJson),
    /// The state of the task, or of the worker, does not allow it.
    #[oai(status = 409)]
    Conflict(ProblemJson),
    /// The body is too large.
    #[oai(status = 413)]
    TooLarge(ProblemJson),
    /// The body's media type is not JSON.
    #[oai(status = 415)]
    NotJson(ProblemJson),
    /// Something in the request is not valid; `errors` names the fields.
    #[oai(status = 422)]
    Invalid(ProblemJson),
    /// As many tasks wait as may; try again when some have been taken.
    #[oai(status = 429)]
    TooManyWaiting(
        ProblemJson,
        /// Seconds to wait before trying again.
        #[oai(header = "Retry-After")]
        i32,
    ),
    /// A defect of the server.
    #[oai(status = 500)]
    Internal(ProblemJson),
    /// The store cannot be reached, or too many requests are under way; nothing was changed that was not acknowledged.
    #[oai(status = 503)]
    Unavailable(
        ProblemJson,
        /// Seconds to wait before trying again.
        #[oai(header = "Retry-After")]
        i32,
    ),
}

impl ApiError {
    pub(crate) fn bad_request(detail: impl Into<String>) -> Self {
        Self::BadRequest(ProblemJson(Problem::new(StatusCode::BAD_REQUEST, detail)))
    }

    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::NotFound(ProblemJson(Problem::new(StatusCode::NOT_FOUND, detail)))
    }

    pub(crate) fn unknown_task(id: i64) -> Self {
        Self::not_found(format!("there is no task {id}"))
    }

    pub(crate) fn conflict(detail: impl Into<String>) -> Self {
        Self::Conflict(ProblemJson(Problem::new(StatusCode::CONFLICT, detail)))
    }

    pub(crate) fn invalid(errors: Vec<FieldError>) -> Self {
        let detail = match errors.as_slice() {
            [one] => format!("{}: {}", one.field, one.message),
            all => format!("{} fields are not valid", all.len()),
        };
        Self::Invalid(ProblemJson(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail).with_errors(errors)))
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) => {
                tracing::warn!(%error, "a request failed");
                let detail = "the task store cannot be reached at the moment; try again";
                Self::Unavailable(
                    ProblemJson(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)),
                    RETRY_AFTER,
                )
            }
            StoreError::Corrupt(_) => {
                tracing::error!(%error, "a request failed");
                let detail =
                    "the task store holds data that this version cannot read; the server's log says more";
                Self::Internal(ProblemJson(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail)))
            }
        }
    }
}

impl From<SubmitError> for ApiError {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Store(error) => error.into(),
            SubmitError::TooManyWaiting { .. } => {
                let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, error.to_string());
                Self::TooManyWaiting(ProblemJson(problem), RETRY_AFTER)
            }
            SubmitError::Invalid(fields) => Self::invalid(
                fields.into_iter().map(|field| FieldError::new(field.field, field.message)).collect(),
            ),
        }
    }
}
