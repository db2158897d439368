//! The HTTP API: routes, views, problem details, server-sent events, and the OpenAPI document that describes them.
//!
//! [`api`] holds the operations, [`views`] what goes over the wire, [`problem`] every failure, [`guard`] what is checked
//! before a request reaches an operation, [`document`] the last touches to the generated document, [`server`] the
//! connections.

mod api;
mod batch_lines;
mod batching;
mod body;
mod callback;
mod document;
mod events;
mod examples;
mod fields;
mod guard;
mod idempotency;
mod problem;
mod scheduling;
mod server;
mod submission;
mod sweep;
mod views;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use poem::{
    EndpointExt, Response, Route,
    endpoint::BoxEndpoint,
    handler,
    web::{Data, Redirect},
};
use poem_openapi::OpenApiService;

pub use api::UseCases;
pub use scheduling::read_configured_schedule;
pub use server::serve;

/// How the API behaves.
#[derive(Debug, Clone)]
pub struct ApiConfig {
    /// What every route of the API starts with.
    pub prefix: String,
    /// The product's name in `/health` and in the document.
    pub app_name: String,
    /// The product's version.
    pub version: String,
    /// The largest request body, in bytes.
    pub body_limit: usize,
    /// The same, of a batch.
    pub batch_body_limit: usize,
    /// How long a client may take to send its headers.
    pub header_timeout: Duration,
    /// How long it may take to send its body.
    pub body_timeout: Duration,
    /// Connections beyond these wait to be accepted.
    pub max_connections: usize,
    /// Requests under way beyond these are answered with 503.
    pub max_requests: usize,
    /// Of these, so many may wait for a task's end (`?wait=`); they do not count among the others.
    pub max_waiting_requests: usize,
    /// Host names to answer to beside the loopback's and the listening address; `*` for any.
    pub allowed_hosts: Vec<String>,
    /// How long requests under way may take once the server stops.
    pub grace: Duration,
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            prefix: "/api/v1".to_owned(),
            app_name: "Async AI Task Runner".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            body_limit: 1_310_720,
            batch_body_limit: 16 << 20,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            max_connections: 10_000,
            max_requests: 2_000,
            max_waiting_requests: 8_000,
            allowed_hosts: Vec::new(),
            grace: Duration::from_secs(5),
        }
    }
}

/// The OpenAPI document of this configuration, as indented JSON. Needs nothing to run.
pub fn openapi_document(config: &ApiConfig) -> String {
    document::finish(&service_alone(config).spec())
}

/// The service without anything behind it.
fn service_alone(config: &ApiConfig) -> OpenApiService<Apis, ()> {
    service(config, api::Context::new(None, config.clone(), Default::default()))
}

type Apis = (
    api::TasksApi,
    api::BatchesApi,
    api::ManualApi,
    api::SchedulesApi,
    api::QueuesApi,
    api::WorkersApi,
    api::UsageApi,
    api::SystemApi,
);

fn service(config: &ApiConfig, context: api::Context) -> OpenApiService<Apis, ()> {
    let apis = (
        api::TasksApi(context.clone()),
        api::BatchesApi(context.clone()),
        api::ManualApi(context.clone()),
        api::SchedulesApi(context.clone()),
        api::QueuesApi(context.clone()),
        api::WorkersApi(context.clone()),
        api::UsageApi(context.clone()),
        api::SystemApi(context),
    );
    OpenApiService::new(apis, config.app_name.clone(), config.version.clone())
        .description(
            "Runs slow AI work: submit a task, get its id at once, watch it live, read the result later.\n\nEvery \
             failure is `application/problem+json` (RFC 9457). Times are RFC 3339 in UTC.",
        )
        .url_prefix(config.prefix.clone())
}

/// Everything that is served, behind the guards.
fn routes(config: &ApiConfig, context: api::Context) -> BoxEndpoint<'static, Response> {
    let service = service(config, context);
    let description = Description::of(config);
    let guard = guard::Guard::new(config, description.clone());
    let prefix = if config.prefix.is_empty() { "/" } else { &config.prefix };
    examples::add_to(Route::new(), &config.prefix)
        .nest(prefix, service)
        .at("/openapi.json", poem::get(openapi_json.data(description.clone())))
        .at("/docs", poem::get(docs.data(description)))
        .at("/", poem::get(root))
        .catch_all_error(guard::name_the_field)
        .around(move |endpoint, request| {
            let guard = guard.clone();
            async move { guard.pass(endpoint, request).await }
        })
        .boxed()
}

/// What describes the API, made when somebody asks for it: it is larger than all the rest of an idle server.
#[derive(Clone)]
pub(crate) struct Description(Arc<Descriptions>);

struct Descriptions {
    config: ApiConfig,
    document: OnceLock<String>,
    page: OnceLock<Bytes>,
}

impl Description {
    fn of(config: &ApiConfig) -> Self {
        let (document, page) = (OnceLock::new(), OnceLock::new());
        Self(Arc::new(Descriptions { config: config.clone(), document, page }))
    }

    /// The OpenAPI document.
    pub(crate) fn document(&self) -> &str {
        self.0.document.get_or_init(|| openapi_document(&self.0.config))
    }

    /// Swagger UI around it.
    fn page(&self) -> &Bytes {
        self.0.page.get_or_init(|| {
            let service = service_alone(&self.0.config);
            docs_page(&service.swagger_ui_html(), &service.spec(), self.document()).into()
        })
    }
}

#[handler]
fn openapi_json(description: Data<&Description>) -> Response {
    Response::builder().content_type("application/json").body(description.document().to_owned())
}

#[handler]
fn docs(description: Data<&Description>) -> Response {
    Response::builder().content_type("text/html; charset=utf-8").body(description.page().clone())
}

#[handler]
fn root() -> Redirect {
    Redirect::see_other("/docs")
}

/// Swagger UI comes with poem-openapi's own document inside; the page shows the finished one instead.
fn docs_page(html: &str, raw: &str, finished: &str) -> String {
    // `</script>` inside a description would end the script that holds the document.
    html.replace(raw, &finished.replace("</", "<\\/"))
}

#[cfg(test)]
mod tests;
