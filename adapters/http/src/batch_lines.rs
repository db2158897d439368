//! Batches as lines of JSON (NDJSON): each line is checked as it arrives and kept on the disk, and from there the store
//! reads it, piece by piece. A batch as large as this never lies in memory.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead as _, BufReader, BufWriter, Seek as _, SeekFrom, Write as _},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use application::{
    ports::{BatchItems, StoreError},
    task_types::Callback,
    tasks::{BatchSubmission, SubmitError, Tasks},
};
use domain::{NewTask, Tenant, flow::MOST_ITEMS};
use futures_util::StreamExt as _;
use poem::{Body, Request, RequestBody, Result as PoemResult, http::StatusCode};
use poem_openapi::{
    payload::{ParsePayload, Payload},
    registry::{MetaRequest, MetaSchemaRef, Registry},
    types::Type as _,
};
use serde_json::value::RawValue;

use crate::{
    batching,
    fields::{MOST_ERRORS, read_object},
    idempotency::Fingerprint,
    problem::{ApiError, FieldError, Problem, ProblemJson},
    submission::read_submission,
};

/// The media type of such a body.
pub(crate) const MEDIA_TYPE: &str = "application/x-ndjson";
/// Where such bodies go, behind the API's prefix.
pub(crate) const ROUTE: &str = "/batches/lines";
/// The largest of all.
const LARGEST: u64 = 1 << 30;
/// What the store is given at once: at most so many, and not many more bytes than this.
const PIECE: usize = 500;
const PIECE_BYTES: usize = 4 << 20;

/// A body that the operation reads as it arrives.
pub(crate) struct LinesBody(pub(crate) Body);

/// A batch that was read: what it is, who is told of its end, what it is made of, and what tells its request from others.
pub(crate) struct Batch {
    pub(crate) submission: BatchSubmission,
    pub(crate) callback: Option<Callback>,
    pub(crate) items: Items,
    pub(crate) fingerprint: Fingerprint,
}

/// How long a client may take, and how much it may send.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// The longest line, in bytes.
    pub(crate) line: usize,
    /// Between two pieces of the body.
    pub(crate) patience: Duration,
}

/// Reads and checks a batch to its end.
pub(crate) async fn read(
    body: Body,
    tasks: &Tasks,
    tenant: &Tenant,
    fingerprint: Fingerprint,
    bounds: Bounds,
) -> Result<Batch, ApiError> {
    let mut reader = Reader::new(tasks.clone(), tenant.clone(), fingerprint, bounds)?;
    let mut pieces = body.into_bytes_stream();
    loop {
        match tokio::time::timeout(bounds.patience, pieces.next()).await {
            Ok(Some(Ok(piece))) => reader.take(&piece)?,
            Ok(Some(Err(error))) => {
                return Err(ApiError::bad_request(format!("the body could not be read: {error}")));
            }
            Ok(None) => return reader.end(),
            Err(_) => {
                let detail = format!("nothing of the body arrived for {} s", bounds.patience.as_secs());
                let problem = Problem::new(StatusCode::REQUEST_TIMEOUT, detail);
                return Err(ApiError::TooSlow(ProblemJson(problem)));
            }
        }
    }
}

/// Takes a body apart.
struct Reader {
    bounds: Bounds,
    /// What has arrived of the current line.
    unfinished: Vec<u8>,
    arrived: u64,
    /// The number of the line before, for people.
    number: usize,
    head: Option<(BatchSubmission, Option<Callback>)>,
    /// What the file has; it goes through a buffer.
    items: Items,
    spool: BufWriter<File>,
    errors: Vec<FieldError>,
    fingerprint: Fingerprint,
}

impl Reader {
    fn new(tasks: Tasks, tenant: Tenant, fingerprint: Fingerprint, bounds: Bounds) -> Result<Self, ApiError> {
        // It has no name: nothing is left of it, however the process ends.
        let file = tempfile::tempfile().map_err(|error| no_disk(&error))?;
        let spool = BufWriter::new(file.try_clone().map_err(|error| no_disk(&error))?);
        let items = Items { tasks, tenant, defaults: BTreeMap::new(), count: 0, file: Mutex::new(file) };
        Ok(Self {
            bounds,
            unfinished: Vec::new(),
            arrived: 0,
            number: 0,
            head: None,
            items,
            spool,
            errors: Vec::new(),
            fingerprint,
        })
    }

    fn take(&mut self, mut piece: &[u8]) -> Result<(), ApiError> {
        self.fingerprint.update(piece);
        self.arrived += piece.len() as u64;
        if self.arrived > LARGEST {
            return Err(too_large(format!("the body is larger than {LARGEST} bytes")));
        }
        while let Some(end) = piece.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = piece.split_at(end);
            piece = &rest[1..];
            if self.unfinished.is_empty() {
                self.line(line)?;
            } else {
                let mut whole = std::mem::take(&mut self.unfinished);
                whole.extend_from_slice(line);
                self.line(&whole)?;
            }
        }
        self.unfinished.extend_from_slice(piece);
        self.check_length(self.unfinished.len())
    }

    fn check_length(&self, length: usize) -> Result<(), ApiError> {
        if length <= self.bounds.line {
            return Ok(());
        }
        let number = self.number + 1;
        Err(too_large(format!("line {number} is longer than {} bytes", self.bounds.line)))
    }

    fn line(&mut self, line: &[u8]) -> Result<(), ApiError> {
        self.check_length(line.len())?;
        self.number += 1;
        let line = line.trim_ascii();
        // Nobody reads more mistakes than this; the rest is let pass, so that the answer is seen.
        if line.is_empty() || self.errors.len() > MOST_ERRORS {
            return Ok(());
        }
        let Ok(text) = std::str::from_utf8(line) else {
            self.errors.push(FieldError::new(format!("line {}", self.number), "it is not UTF-8 text"));
            return Ok(());
        };
        if is_head(text) {
            if self.head.is_none() && self.items.count == 0 && self.errors.is_empty() {
                return self.take_head(text);
            }
            let message = "only the first line can say something of the batch itself";
            self.errors.push(FieldError::new(format!("line {}.batch", self.number), message));
            return Ok(());
        }
        match self.items.read(text, self.number) {
            Ok(_) if self.items.count == MOST_ITEMS => {
                let message = format!("it is one too many: a batch has 1 to {MOST_ITEMS} items");
                self.errors.push(FieldError::new(format!("line {}", self.number), message));
            }
            Ok(_) => {
                self.items.count += 1;
                let written = self.spool.write_all(line).and_then(|()| self.spool.write_all(b"\n"));
                written.map_err(|error| no_disk(&error))?;
            }
            Err(mut errors) => self.errors.append(&mut errors),
        }
        Ok(())
    }

    fn take_head(&mut self, text: &str) -> Result<(), ApiError> {
        let (submission, callback, defaults) = batching::read_head(text)?;
        self.items.defaults = defaults;
        self.head = Some((submission, callback));
        Ok(())
    }

    fn end(mut self) -> Result<Batch, ApiError> {
        let last = std::mem::take(&mut self.unfinished);
        if !last.is_empty() {
            self.line(&last)?;
        }
        if self.errors.is_empty() && self.items.count == 0 {
            let message = format!("there are no items: give 1 to {MOST_ITEMS}, one a line");
            self.errors.push(FieldError::new("body", message));
        }
        if !self.errors.is_empty() {
            return Err(ApiError::invalid(self.errors));
        }
        self.spool.flush().map_err(|error| no_disk(&error))?;
        let (submission, callback) = self.head.unwrap_or_else(|| (batching::nameless(), None));
        Ok(Batch { submission, callback, items: self.items, fingerprint: self.fingerprint })
    }
}

/// The first line may say something of the batch itself, as `{"batch": {…}}`; no submission has such a field.
fn is_head(text: &str) -> bool {
    let fields = || serde_json::from_str::<BTreeMap<String, &RawValue>>(text);
    text.contains("\"batch\"")
        && fields()
            .is_ok_and(|fields| fields.len() == 1 && fields.get("batch").is_some_and(|of| of.get() != "null"))
}

/// Items on the disk, a line each. They are read from it as often as a store wants them.
pub(crate) struct Items {
    tasks: Tasks,
    tenant: Tenant,
    /// What a line says that does not say otherwise.
    defaults: BTreeMap<String, Box<RawValue>>,
    count: usize,
    file: Mutex<File>,
}

impl Items {
    fn read(&self, text: &str, number: usize) -> Result<NewTask, Vec<FieldError>> {
        let at = format!("line {number}");
        let submission = read_object(text, &at, &self.defaults, read_submission)?;
        self.tasks.check_item(&self.tenant, submission).map_err(|error| match error {
            SubmitError::Invalid(fields) => fields
                .into_iter()
                .map(|wrong| FieldError::new(format!("{at}.{}", wrong.field), wrong.message))
                .collect(),
            other => vec![FieldError::new(at, other.to_string())],
        })
    }

    /// The next items from this place of the file on, and where those after them begin; `None` at its end.
    fn piece(&self, from: u64) -> Result<Option<(Vec<NewTask>, u64)>, StoreError> {
        let lost = |error: std::io::Error| {
            StoreError::Unavailable(format!("the items of a batch cannot be read from the disk: {error}"))
        };
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(from)).map_err(lost)?;
        let mut lines = BufReader::new(&mut *file);
        let (mut piece, mut bytes, mut line) = (Vec::new(), 0, String::new());
        while piece.len() < PIECE && bytes < PIECE_BYTES {
            line.clear();
            let length = lines.read_line(&mut line).map_err(lost)?;
            if length == 0 {
                break;
            }
            bytes += length;
            let item = self.read(&line, piece.len()).map_err(|errors| {
                StoreError::Corrupt(format!("an item of a batch was good and is not any more: {errors:?}"))
            })?;
            piece.push(item);
        }
        Ok((!piece.is_empty()).then_some((piece, from + bytes as u64)))
    }
}

impl BatchItems for Items {
    fn count(&self) -> usize {
        self.count
    }

    fn pieces(&self) -> Box<dyn Iterator<Item = Result<Vec<NewTask>, StoreError>> + Send + '_> {
        let mut from = Some(0);
        Box::new(std::iter::from_fn(move || match self.piece(from?) {
            Ok(found) => {
                let (piece, next) = found.map_or((None, None), |(piece, next)| (Some(piece), Some(next)));
                from = next;
                piece.map(Ok)
            }
            Err(error) => {
                from = None;
                Some(Err(error))
            }
        }))
    }
}

fn too_large(detail: String) -> ApiError {
    ApiError::TooLarge(ProblemJson(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)))
}

fn no_disk(error: &std::io::Error) -> ApiError {
    tracing::error!(%error, "the lines of a batch cannot be kept in the folder for temporary files");
    let detail = "the server has no room on its disk for a batch of lines at the moment; try again";
    ApiError::Unavailable(ProblemJson(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)), 5)
}

impl Payload for LinesBody {
    const CONTENT_TYPE: &'static str = MEDIA_TYPE;

    fn check_content_type(_: &str) -> bool {
        true // the guard has decided
    }

    fn schema_ref() -> MetaSchemaRef {
        String::schema_ref()
    }
}

impl ParsePayload for LinesBody {
    const IS_REQUIRED: bool = true;

    async fn from_request(_: &Request, body: &mut RequestBody) -> PoemResult<Self> {
        Ok(Self(body.take()?))
    }
}

impl<'a> poem_openapi::ApiExtractor<'a> for LinesBody {
    const TYPES: &'static [poem_openapi::ApiExtractorType] = &[poem_openapi::ApiExtractorType::RequestObject];
    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        <Self as Payload>::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        Some(MetaRequest {
            description: None,
            content: vec![poem_openapi::registry::MetaMediaType {
                content_type: Self::CONTENT_TYPE,
                schema: Self::schema_ref(),
            }],
            required: true,
        })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _: poem_openapi::ExtractParamOptions<Self::ParamType>,
    ) -> PoemResult<Self> {
        <Self as ParsePayload>::from_request(request, body).await
    }
}
