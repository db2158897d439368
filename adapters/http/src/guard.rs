//! What is checked before a request reaches an operation, and what every answer looks like after it.

use std::{
    io,
    panic::AssertUnwindSafe,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, Stream, StreamExt};
use poem::{
    Body, Endpoint, IntoResponse, Request, Response, Result,
    error::{MethodNotAllowedError, NotFoundError},
    http::{HeaderValue, Method, StatusCode, header},
};
use poem_openapi::error::{
    ContentTypeError, ParseMultipartError, ParseParamError, ParsePathError, ParseRequestPayloadError,
};

use tokio::sync::Semaphore;

use crate::{
    ApiConfig, Description, batch_lines,
    problem::{FieldError, PROBLEM_JSON, Problem, ProblemJson},
};

/// How much of a body that is too large is read, and for how long, so that its sender comes to see the answer.
const MOST_DISCARDED: usize = 64 * 1024 * 1024;
const PATIENCE_WITH_THE_REST: Duration = Duration::from_secs(3);

/// The checks of one server.
#[derive(Clone)]
pub(crate) struct Guard(Arc<Rules>);

struct Rules {
    /// Places of requests under way, and of those that wait for a task's end.
    places: Semaphore,
    waiting_places: Semaphore,
    body_limit: usize,
    batches: (String, usize),
    /// Where a body is read as it arrives.
    lines: String,
    body_timeout: Duration,
    hosts: Vec<String>,
    description: Description,
    /// Each route of it with its methods, for `Allow`; read when it is first needed.
    routes: OnceLock<Vec<(String, String)>>,
}

impl Guard {
    pub(crate) fn new(config: &ApiConfig, description: Description) -> Self {
        let hosts = config.allowed_hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
        Self(Arc::new(Rules {
            places: Semaphore::new(config.max_requests),
            waiting_places: Semaphore::new(config.max_waiting_requests),
            body_limit: config.body_limit,
            batches: (format!("{}/batches", config.prefix), config.batch_body_limit),
            lines: format!("{}{}", config.prefix, batch_lines::ROUTE),
            body_timeout: config.body_timeout,
            hosts,
            description,
            routes: OnceLock::new(),
        }))
    }

    /// Checks, serves, and turns every failure into problem details. A panic is a 500 of this request alone.
    pub(crate) async fn pass(&self, endpoint: impl Endpoint, mut request: Request) -> Result<Response> {
        let started = tokio::time::Instant::now();
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        // Held until the answer starts; the events of a stream follow after that.
        let Ok(_place) = self.places(&request).try_acquire() else {
            tracing::warn!(%method, path, "too many requests are under way");
            return Ok(overloaded());
        };
        let answer = match self.check(&mut request).await {
            Err(problem) => problem.into_response(),
            Ok(()) => match AssertUnwindSafe(endpoint.get_response(request)).catch_unwind().await {
                Ok(response) => response,
                Err(_) => {
                    tracing::error!(%method, path, "a request panicked");
                    Response::builder().status(StatusCode::INTERNAL_SERVER_ERROR).finish()
                }
            },
        };
        let mut answer = if is_bare_failure(&answer) { self.explain(answer, &method, &path) } else { answer };
        if matches!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT) {
            // What is left of the body would be read as the next request.
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        answer.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        let (status, millis) = (answer.status().as_u16(), started.elapsed().as_millis() as u64);
        tracing::debug!(%method, path, status, millis, "answered");
        Ok(answer)
    }

    fn places(&self, request: &Request) -> &Semaphore {
        let waits = request.uri().query().is_some_and(|query| {
            query.split('&').any(|parameter| parameter.split('=').next() == Some("wait"))
        });
        if waits { &self.0.waiting_places } else { &self.0.places }
    }

    /// Writes the framework's failure again, in our words: its own echo what the client sent and name parameters that
    /// the client never saw.
    fn explain(&self, answer: Response, method: &Method, path: &str) -> Response {
        let status = answer.status();
        let shown: String = path.chars().take(200).collect();
        let (status, detail, errors) = match (status, answer.data::<FieldError>().cloned()) {
            (StatusCode::NOT_FOUND, _) => {
                (status, format!("there is no {shown}; the API is described at /openapi.json"), vec![])
            }
            (StatusCode::METHOD_NOT_ALLOWED, _) => {
                (status, format!("{method} is not allowed on {shown}"), vec![])
            }
            (_, Some(error)) => {
                (StatusCode::UNPROCESSABLE_ENTITY, format!("{}: {}", error.field, error.message), vec![error])
            }
            (_, None) if status.is_client_error() => {
                (StatusCode::BAD_REQUEST, "the request cannot be read".to_owned(), vec![])
            }
            (_, None) => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "a defect of the server; its log says more".to_owned(),
                vec![],
            ),
        };
        let mut response = ProblemJson(Problem::new(status, detail).with_errors(errors)).into_response();
        if status == StatusCode::METHOD_NOT_ALLOWED
            && let Some((_, methods)) = self.routes().iter().find(|(route, _)| route_matches(route, path))
            && let Ok(allow) = HeaderValue::from_str(methods)
        {
            response.headers_mut().insert(header::ALLOW, allow);
        }
        response
    }

    fn routes(&self) -> &[(String, String)] {
        self.0.routes.get_or_init(|| methods_by_route(self.0.description.document()))
    }

    async fn check(&self, request: &mut Request) -> Result<(), ProblemJson> {
        self.check_host(request)?;
        check_query(request)?;
        if *request.method() == Method::POST && request.uri().path() == self.0.lines {
            return check_lines(request);
        }
        if matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH) {
            self.read_body(request).await?;
        }
        Ok(())
    }

    /// A page on another site can make a browser send requests here under a name of its own (DNS rebinding); such a
    /// name is not one of ours.
    fn check_host(&self, request: &Request) -> Result<(), ProblemJson> {
        if self.0.hosts.iter().any(|host| host == "*") {
            return Ok(());
        }
        let host = host_of(request).unwrap_or_default();
        let name = without_port(&host).to_ascii_lowercase();
        let local = request.local_addr().as_socket_addr().map(|address| address.ip());
        let address: Option<std::net::IpAddr> = name.trim_matches(['[', ']']).parse().ok();
        let known = name == "localhost"
            || name.ends_with(".localhost")
            || self.0.hosts.contains(&name)
            || address.is_some_and(|address| address.is_loopback() || Some(address) == local);
        // Outside the loopback a server has names that it cannot know.
        if known || host.is_empty() || local.is_some_and(|local| !local.is_loopback()) {
            return Ok(());
        }
        let name: String = name.chars().take(80).collect();
        let detail =
            format!("the host {name:?} is not served here; allowed_hosts in the configuration adds names");
        Err(ProblemJson(Problem::new(StatusCode::FORBIDDEN, detail)))
    }

    /// Reads the body within its limits and decides about its media type.
    async fn read_body(&self, request: &mut Request) -> Result<(), ProblemJson> {
        let (batches, batch_limit) = &self.0.batches;
        let limit = if request.uri().path() == batches { *batch_limit } else { self.0.body_limit };
        let patience = self.0.body_timeout;
        let mut pieces = request.take_body().into_bytes_stream();
        let bytes = match tokio::time::timeout(patience, collect(&mut pieces, limit)).await {
            Ok(Ok(Some(bytes))) => bytes,
            Ok(Ok(None)) => {
                // Most clients write their whole body before they read: let them, within reason, or they never see why.
                let _ = tokio::time::timeout(PATIENCE_WITH_THE_REST, discard(&mut pieces)).await;
                let detail = format!("the body is larger than {limit} bytes");
                return Err(ProblemJson(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)));
            }
            Ok(Err(error)) => {
                let detail = format!("the body could not be read: {error}");
                return Err(ProblemJson(Problem::new(StatusCode::BAD_REQUEST, detail)));
            }
            Err(_) => {
                let detail = format!("the body did not arrive within {} s", patience.as_secs());
                return Err(ProblemJson(Problem::new(StatusCode::REQUEST_TIMEOUT, detail)));
            }
        };
        if !bytes.is_empty() {
            check_media_type(request)?;
        }
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        request.set_body(Body::from(bytes));
        Ok(())
    }
}

/// The answer when every place is taken.
fn overloaded() -> Response {
    let detail = "too many requests are under way; try again in a second";
    let mut answer = ProblemJson(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)).into_response();
    answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    answer
}

/// The whole body; `None` when it is longer than `limit`.
async fn collect(
    pieces: &mut (impl Stream<Item = io::Result<Bytes>> + Unpin),
    limit: usize,
) -> io::Result<Option<Vec<u8>>> {
    let mut whole = Vec::new();
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        if whole.len() + piece.len() > limit {
            return Ok(None);
        }
        whole.extend_from_slice(&piece);
    }
    Ok(Some(whole))
}

async fn discard(pieces: &mut (impl Stream<Item = io::Result<Bytes>> + Unpin)) {
    let mut left = MOST_DISCARDED;
    while let Some(Ok(piece)) = pieces.next().await {
        left = left.saturating_sub(piece.len());
        if left == 0 {
            return;
        }
    }
}

/// JSON without a JSON media type, as plain `curl -d` and `fetch` send it, is read unless another site made a browser
/// send it: those media types need no permission of ours.
fn check_media_type(request: &Request) -> Result<(), ProblemJson> {
    let media_type = request.header(header::CONTENT_TYPE).unwrap_or_default();
    let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json")) {
        return Ok(());
    }
    let same_site = match request.header("sec-fetch-site") {
        Some(site) => matches!(site, "same-origin" | "none"),
        None => true,
    };
    let own = host_of(request).unwrap_or_default();
    let same_origin = request.header(header::ORIGIN).is_none_or(|origin| {
        origin
            .split_once("://")
            .is_some_and(|(_, authority)| !own.is_empty() && authority.eq_ignore_ascii_case(&own))
    });
    let simple = matches!(essence.as_str(), "" | "text/plain" | "application/x-www-form-urlencoded");
    if simple && same_site && same_origin {
        return Ok(());
    }
    let shown: String = media_type.chars().take(80).collect();
    let detail = format!("Content-Type is {shown:?}; send Content-Type: application/json");
    let errors = vec![FieldError::new("Content-Type", "it is not application/json")];
    Err(ProblemJson(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail).with_errors(errors)))
}

/// Lines come under a media type of their own, for which another site's page has to ask.
fn check_lines(request: &Request) -> Result<(), ProblemJson> {
    let media_type = request.header(header::CONTENT_TYPE).unwrap_or_default();
    let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if matches!(essence.as_str(), batch_lines::MEDIA_TYPE | "application/ndjson" | "application/jsonl") {
        return Ok(());
    }
    let shown: String = media_type.chars().take(80).collect();
    let detail = format!("Content-Type is {shown:?}; send Content-Type: {}", batch_lines::MEDIA_TYPE);
    let errors = vec![FieldError::new("Content-Type", format!("it is not {}", batch_lines::MEDIA_TYPE))];
    Err(ProblemJson(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail).with_errors(errors)))
}

/// A query that is not percent-encoded text would be read as empty.
fn check_query(request: &Request) -> Result<(), ProblemJson> {
    let query = request.uri().query().unwrap_or_default();
    if query.len() > 8_192 {
        return Err(ProblemJson(Problem::new(
            StatusCode::BAD_REQUEST,
            "the query is longer than 8192 bytes",
        )));
    }
    Ok(())
}

/// Host, or the authority of HTTP/2.
fn host_of(request: &Request) -> Option<String> {
    request
        .header(header::HOST)
        .map(str::to_owned)
        .or_else(|| request.uri().authority().map(|authority| authority.to_string()))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    }
}

/// A failure that the framework has written: no problem details and no view of ours.
fn is_bare_failure(answer: &Response) -> bool {
    let status = answer.status();
    let media_type = answer.content_type().unwrap_or_default();
    (status.is_client_error() || status.is_server_error())
        && media_type != PROBLEM_JSON
        && !media_type.starts_with("application/json")
}

fn methods_by_route(document: &str) -> Vec<(String, String)> {
    let document: serde_json::Value = serde_json::from_str(document).unwrap_or_default();
    let routes = document["paths"].as_object().into_iter().flatten();
    let mut all: Vec<(String, String)> = routes
        .map(|(route, operations)| {
            let methods =
                operations.as_object().into_iter().flatten().map(|(method, _)| method.to_uppercase());
            (route.clone(), methods.collect::<Vec<_>>().join(", "))
        })
        .collect();
    all.extend(["/", "/docs", "/openapi.json"].map(|route| (route.to_owned(), "GET".to_owned())));
    all
}

fn route_matches(route: &str, path: &str) -> bool {
    let (mut route, mut path) = (route.split('/'), path.split('/'));
    loop {
        match (route.next(), path.next()) {
            (None, None) => return true,
            (Some(expected), Some(found)) if expected == found || expected.starts_with('{') => {}
            _ => return false,
        }
    }
}

/// Keeps what an error was about before the framework turns it into text.
pub(crate) async fn name_the_field(error: poem::Error) -> Response {
    let field = if error.is::<ParsePathError>() {
        Some(FieldError::new("id", "it is not the number of a task"))
    } else if let Some(refused) = error.downcast_ref::<ParseParamError>() {
        Some(FieldError::new(refused.name, "its value is not valid; see /openapi.json"))
    } else if error.is::<ParseRequestPayloadError>() || error.is::<ParseMultipartError>() {
        Some(FieldError::new("body", "it cannot be read"))
    } else {
        None
    };
    let known =
        error.is::<NotFoundError>() || error.is::<MethodNotAllowedError>() || error.is::<ContentTypeError>();
    if field.is_none() && !known && error.status().is_server_error() {
        tracing::error!(%error, "a request failed");
    }
    let mut response = error.into_response();
    if let Some(field) = field {
        response.set_data(field);
    }
    response
}
