//! JSON in and out with its exact bytes: what a client sent and what a handler returned are not re-written on the way.

use std::borrow::Cow;

use poem::{IntoResponse, Request, RequestBody, Response, Result};
use poem_openapi::{
    ApiResponse,
    payload::{ParsePayload, Payload},
    registry::{MetaMediaType, MetaResponse, MetaResponses, MetaSchema, MetaSchemaRef, Registry},
    types::{ParseError, ParseFromJSON, ParseResult, ToJSON, Type},
};
use serde::Serialize;
use serde_json::{Value, value::RawValue};

/// A JSON answer, written by serde.
pub(crate) struct JsonAnswer<T>(pub(crate) T);

impl<T: Type> Payload for JsonAnswer<T> {
    const CONTENT_TYPE: &'static str = "application/json";

    fn schema_ref() -> MetaSchemaRef {
        T::schema_ref()
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

impl<T: Serialize + Send> IntoResponse for JsonAnswer<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(body) => Response::builder().content_type("application/json").body(body),
            Err(error) => {
                tracing::error!(%error, "an answer could not be written");
                Response::builder().status(poem::http::StatusCode::INTERNAL_SERVER_ERROR).finish()
            }
        }
    }
}

impl<T: Type + Serialize> ApiResponse for JsonAnswer<T> {
    fn meta() -> MetaResponses {
        MetaResponses {
            responses: vec![MetaResponse {
                description: "",
                status: Some(200),
                status_range: None,
                content: vec![MetaMediaType { content_type: Self::CONTENT_TYPE, schema: Self::schema_ref() }],
                headers: vec![],
            }],
        }
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

/// A JSON body as text, described by the schema of `T`; the operation reads it. Where it is not `REQUIRED`, the text may
/// be empty.
pub(crate) struct JsonBody<T, const REQUIRED: bool = true> {
    pub(crate) text: String,
    schema: std::marker::PhantomData<fn() -> T>,
}

impl<T: Type, const REQUIRED: bool> Payload for JsonBody<T, REQUIRED> {
    const CONTENT_TYPE: &'static str = "application/json";

    fn check_content_type(_: &str) -> bool {
        true // the guard has decided
    }

    fn schema_ref() -> MetaSchemaRef {
        T::schema_ref()
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

impl<T: Type, const REQUIRED: bool> ParsePayload for JsonBody<T, REQUIRED> {
    const IS_REQUIRED: bool = REQUIRED;

    async fn from_request(_: &Request, body: &mut RequestBody) -> Result<Self> {
        let bytes = body.take()?.into_bytes().await?;
        let text = String::from_utf8(bytes.into()).map_err(|_| {
            poem_openapi::error::ParseRequestPayloadError { reason: "the body is not UTF-8 text".to_owned() }
        })?;
        Ok(Self { text, schema: std::marker::PhantomData })
    }
}

impl<'a, T: Type, const REQUIRED: bool> poem_openapi::ApiExtractor<'a> for JsonBody<T, REQUIRED> {
    const TYPES: &'static [poem_openapi::ApiExtractorType] = &[poem_openapi::ApiExtractorType::RequestObject];
    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        <Self as Payload>::register(registry);
    }

    fn request_meta() -> Option<poem_openapi::registry::MetaRequest> {
        Some(poem_openapi::registry::MetaRequest {
            description: None,
            content: vec![MetaMediaType { content_type: Self::CONTENT_TYPE, schema: Self::schema_ref() }],
            required: REQUIRED,
        })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _: poem_openapi::ExtractParamOptions<Self::ParamType>,
    ) -> Result<Self> {
        <Self as ParsePayload>::from_request(request, body).await
    }
}

/// Any JSON value, kept as text.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub(crate) struct AnyJson(pub(crate) Box<RawValue>);

impl AnyJson {
    /// What a store has kept; it was JSON when it came in.
    pub(crate) fn stored(json: &domain::Json) -> Option<Self> {
        RawValue::from_string(json.as_str().to_owned()).ok().map(Self)
    }
}

impl Type for AnyJson {
    const IS_REQUIRED: bool = true;
    type RawValueType = Self;
    type RawElementValueType = Self;

    fn name() -> Cow<'static, str> {
        "any".into()
    }

    fn schema_ref() -> MetaSchemaRef {
        MetaSchemaRef::Inline(Box::new(MetaSchema::ANY))
    }

    fn as_raw_value(&self) -> Option<&Self::RawValueType> {
        Some(self)
    }

    fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self::RawElementValueType> + 'a> {
        Box::new(std::iter::once(self))
    }
}

impl ParseFromJSON for AnyJson {
    fn parse_from_json(value: Option<Value>) -> ParseResult<Self> {
        serde_json::value::to_raw_value(&value.unwrap_or(Value::Null)).map(Self).map_err(ParseError::custom)
    }
}

impl ToJSON for AnyJson {
    fn to_json(&self) -> Option<Value> {
        serde_json::from_str(self.0.get()).ok()
    }
}
