//! The batch lane: requests with a far deadline wait for a provider's Batch API instead of being asked live.
//!
//! The task gives its slot back and is SCHEDULED until shortly before its deadline; its request is kept in the store. What
//! is gathered there becomes a batch, which any process may send, look at and read. An answer is kept with the request, and
//! the task comes due: its next attempt finds the answer as if the model had just said it. What has none by then is asked
//! live.

use std::{sync::Arc, time::Duration};

use domain::{
    ErrorClass, TaskId, Timestamp,
    ai::{LaneTerms, ModelCall, Operation, Trouble},
};
use futures_util::stream;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{Provider, Shared, gate::Gate};
use crate::ports::{
    Answering, BatchAnswer, BatchApi, BatchState, Chunk, Gather, Generation, GenerationEvent,
    GenerationRequest, GeneratorError, LaneEntry, Parked, ProviderBatch, StoreError,
};

/// A provider's Batch API, and when it is used.
#[derive(Clone)]
pub struct BatchLane {
    /// The API.
    pub api: Arc<dyn BatchApi>,
    /// When requests take it.
    pub terms: LaneTerms,
}

/// What becomes of a request with a deadline.
pub(super) enum Way {
    /// It is asked live.
    Live,
    /// It is in the lane, or has come out of it with an error.
    Not(GeneratorError),
    /// It has come out of it with an answer.
    Answered(Generation),
}

impl Way {
    fn waits(provider: &Provider, wait: Duration) -> Self {
        Self::Not(GeneratorError {
            class: ErrorClass::RateLimited,
            trouble: Trouble::RateLimited,
            code: "batch_lane".to_owned(),
            message: format!("{}: it waits for a batch, as its deadline lets it", provider.name),
            retry_after: Some(wait),
            billed: false,
        })
    }
}

impl Shared {
    /// Which way a request with a deadline goes.
    pub(super) async fn way(
        &self,
        request: &GenerationRequest,
        deadline: Timestamp,
    ) -> Result<Way, StoreError> {
        let task = TaskId(request.task);
        let (entry, now) = self.lane.lane_entry(task).await?;
        let Some(entry) = entry else { return self.enter_lane(request, deadline, now).await };
        let known = self.providers.iter().find(|(known, _)| known.name == entry.request.provider);
        let known = known.and_then(|(known, gate)| Some((known, known.batch.as_ref()?, gate)));
        let Some((provider, lane, gate)) = known else {
            self.lane.withdraw_request(task).await?;
            return Ok(Way::Live);
        };
        // A repair asks for something else than what was parked.
        let of_model = GenerationRequest { model: entry.request.model.clone(), ..request.clone() };
        if lane.api.body(&of_model) != entry.request.body {
            return Ok(Way::Live);
        }
        match (&entry.answer, lane.terms.patience_left(deadline, now)) {
            (Some(answer), _) => Ok(answered(request, provider, lane, gate, &entry, answer)),
            (None, Some(wait)) => Ok(Way::waits(provider, wait)),
            (None, None) => {
                self.lane.withdraw_request(task).await?;
                Ok(Way::Live)
            }
        }
    }

    async fn enter_lane(
        &self,
        request: &GenerationRequest,
        deadline: Timestamp,
        now: Timestamp,
    ) -> Result<Way, StoreError> {
        let (candidates, _) = self.rules.candidates(&request.model);
        let Some(candidate) = candidates.into_iter().next() else { return Ok(Way::Live) };
        let known = self.providers.iter().find(|(known, _)| known.name == candidate.provider);
        let Some((provider, lane)) = known.and_then(|(known, _)| Some((known, known.batch.as_ref()?))) else {
            return Ok(Way::Live);
        };
        let Some(wait) = lane.terms.patience(deadline, now) else { return Ok(Way::Live) };
        let body = lane.api.body(&GenerationRequest { model: candidate.model.clone(), ..request.clone() });
        let (provider_name, model) = (candidate.provider, candidate.model);
        let parked = Parked { task: TaskId(request.task), provider: provider_name, model, body };
        self.lane.park(&parked).await?;
        Ok(Way::waits(provider, wait))
    }

    /// Serves the lanes of all providers until it is cancelled.
    pub(super) async fn serve_lanes(&self, until: CancellationToken) {
        let lanes: Vec<(&Provider, &BatchLane)> = self
            .providers
            .iter()
            .filter_map(|(provider, _)| Some((provider, provider.batch.as_ref()?)))
            .collect();
        let Some(pause) = lanes.iter().map(|(_, lane)| lane.terms.gather.min(lane.terms.look) / 2).min()
        else {
            return;
        };
        loop {
            for (provider, lane) in &lanes {
                if let Err(error) = self.serve_lane(provider, lane).await {
                    tracing::warn!(provider = %provider.name, %error, "the batch lane does not come on; it goes on");
                }
            }
            tokio::select! {
                () = sleep(pause.max(Duration::from_millis(100))) => {}
                () = until.cancelled() => return,
            }
        }
    }

    async fn serve_lane(&self, provider: &Provider, lane: &BatchLane) -> Result<(), StoreError> {
        let LaneTerms { gather: patience, most_requests, most_bytes, look, .. } = lane.terms;
        let gather = Gather { patience, most_requests, most_bytes };
        while self.lane.gather(&provider.name, gather).await? {}
        for batch in self.lane.batches_to_look_at(&provider.name, look, AT_ONCE).await? {
            let id = batch.id;
            match self.come_on(provider, lane, batch).await {
                Ok(()) => {}
                Err(Stuck::Store(error)) => return Err(error),
                Err(Stuck::Provider(error)) if error.class == ErrorClass::Permanent => {
                    tracing::warn!(provider = %provider.name, batch = id, %error.message, "a batch is refused; its tasks are asked live");
                    self.lane.close_batch(id, UNANSWERED).await?;
                }
                Err(Stuck::Provider(error)) => {
                    tracing::info!(provider = %provider.name, batch = id, %error.message, "a batch does not come on yet");
                }
            }
        }
        Ok(())
    }

    /// Brings a batch as far as it comes now. What a crash interrupts is taken up where it is noted; a batch that was begun
    /// and not noted is found by its mark.
    async fn come_on(
        &self,
        provider: &Provider,
        lane: &BatchLane,
        mut batch: ProviderBatch,
    ) -> Result<(), Stuck> {
        let mark = batch.mark();
        let file = match batch.file.clone() {
            Some(file) => file,
            None => {
                let requests = self.lane.requests_of(batch.id).await?;
                if requests.is_empty() {
                    return Ok(self.lane.close_batch(batch.id, UNANSWERED).await?);
                }
                tracing::info!(provider = %provider.name, batch = batch.id, requests = requests.len(), "a batch is sent");
                let file = lane.api.upload(&format!("{mark}.jsonl"), &requests).await?;
                batch.file = Some(file.clone());
                // A file may take longer than the others wait: whoever sent theirs first goes on.
                if !self.lane.note_batch(&batch).await? {
                    return Ok(());
                }
                file
            }
        };
        let Some(remote) = batch.remote.clone() else {
            let remote = match lane.api.find(&mark).await? {
                Some(begun) => begun,
                None => lane.api.begin(&file, &mark).await?,
            };
            batch.remote = Some(remote.clone());
            if !self.lane.note_batch(&batch).await? {
                tracing::warn!(provider = %provider.name, batch = batch.id, remote, "nobody waits for a batch that was begun just now, since another was begun in the same moment or its tasks are over: cancel it at the provider");
            }
            return Ok(());
        };
        let files = match lane.api.look(&remote).await? {
            BatchState::UnderWay => return Ok(()),
            BatchState::Over(files) => files,
        };
        let mut delivered = 0;
        for file in files {
            let answers = lane.api.fetch(&file).await?;
            for page in answers.chunks(PAGE) {
                delivered += self.lane.deliver(batch.id, page).await?;
            }
        }
        tracing::info!(provider = %provider.name, batch = batch.id, answers = delivered, "a batch is over");
        Ok(self.lane.close_batch(batch.id, UNANSWERED).await?)
    }
}

/// Why a batch does not come on.
enum Stuck {
    Provider(GeneratorError),
    Store(StoreError),
}

impl From<GeneratorError> for Stuck {
    fn from(error: GeneratorError) -> Self {
        Self::Provider(error)
    }
}

impl From<StoreError> for Stuck {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// The answer as if the model had just said it.
fn answered(
    request: &GenerationRequest,
    provider: &Provider,
    lane: &BatchLane,
    gate: &Gate,
    entry: &LaneEntry,
    answer: &str,
) -> Way {
    let (name, model) = (provider.name.clone(), entry.request.model.clone());
    let price = provider.prices.of(&model).map(|price| lane.terms.price(price));
    let mut call = ModelCall::new(Operation::Chat, name.clone(), &model);
    match lane.api.read(answer) {
        BatchAnswer::Said { text, tool_calls, reason, usage, model: answering } => {
            call.charge(usage, price);
            gate.charge(&model, call.cost_micros.unwrap_or_default(), &request.books);
            request.books.enter(call);
            let chunk = Chunk { text, fraction: Some(1.0) };
            let tools = (!tool_calls.is_empty()).then_some(GenerationEvent::ToolCalls(tool_calls));
            let end = GenerationEvent::Finished { reason, usage, model: answering };
            let events = [GenerationEvent::Chunk(chunk)].into_iter().chain(tools).chain([end]).map(Ok);
            let events: Vec<_> = events.collect();
            Way::Answered(Generation::new(stream::iter(events)).answered_by(Answering {
                provider: name,
                model,
                price,
            }))
        }
        // What may pass by itself is tried live.
        BatchAnswer::Refused(error) if error.class != ErrorClass::Permanent => Way::Live,
        BatchAnswer::Refused(error) => {
            call.error = Some(error.code.clone());
            request.books.enter(call);
            Way::Not(error)
        }
    }
}

/// The line of a request that a batch has not answered, as OpenAI's own file of errors has it.
const UNANSWERED: &str = r#"{"response":null,"error":{"code":"batch_expired","message":"the batch ended without an answer to it"}}"#;
/// How many batches are looked at in one go.
const AT_ONCE: usize = 10;
/// How many answers are kept in one call of the store.
const PAGE: usize = 500;
