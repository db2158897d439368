//! A provider that needs no provider: the default until a key or a base URL is set. It takes about as long as a real
//! one and streams as a real one does, so that everything around it can be seen at work.

mod sample;

use std::time::Duration;

use application::ports::{
    Chunk, Embedder, EmbeddingRequest, Embeddings, FinishReason, Generation, GenerationEvent,
    GenerationRequest, GeneratorError, Left, TextGenerator, Usage,
};
use async_trait::async_trait;
use domain::ai::{EmbeddingLimits, ResponseFormat, Role, text_of};
use futures_util::{StreamExt, stream};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use self::sample::sample;

use crate::LatencyRange;

/// Answers a plausible text that names the model and the prompt, a document that fits where JSON is asked for, a call
/// where a tool has to be called. The same task, prompt and seed give the same answer, chunks and latency. A token is a
/// word.
#[derive(Debug, Clone, Copy, Default)]
pub struct SimulatedGenerator {
    latency: LatencyRange,
}

/// How much of the prompt the answer repeats, in characters.
const PROMPT_SHOWN: usize = 80;
/// How many chunks an answer comes in; every text below has more words than that.
const CHUNKS: std::ops::RangeInclusive<usize> = 20..=40;

impl SimulatedGenerator {
    /// Every answer takes a time drawn uniformly from `latency`.
    pub fn new(latency: LatencyRange) -> Self {
        Self { latency }
    }
}

/// Numbers of a vector whose length nobody asked for or knows.
const DIMENSIONS: u32 = 256;

/// An answer, decided before its first chunk is sent.
#[derive(Debug, PartialEq)]
struct Script {
    chunks: Vec<String>,
    tool_calls: Vec<Value>,
    latency: Duration,
    reason: FinishReason,
    usage: Usage,
}

impl Script {
    fn new(latency: LatencyRange, request: &GenerationRequest) -> Self {
        let mut rng = StdRng::seed_from_u64(seed(request));
        let tool_calls: Vec<Value> = tool_call(&mut rng, request).into_iter().collect();
        let (text, reason) = if tool_calls.is_empty() {
            limited(request, said(&mut rng, request))
        } else {
            (String::new(), FinishReason::Other("tool_calls".to_owned()))
        };
        let words = text.split_whitespace().count();
        let chunks = match rng.random_range(CHUNKS).min(words) {
            0 => Vec::new(),
            pieces => split(&text, pieces),
        };
        let read = |content: &Value| text_of(content).split_whitespace().count() as u64;
        let usage = Usage {
            input_tokens: request.messages.iter().map(|message| read(&message.content)).sum(),
            output_tokens: (words + tool_calls.len()) as u64,
            estimated: false,
        };
        Self { chunks, tool_calls, latency: latency.at(rng.random_range(0.0..=1.0)), reason, usage }
    }
}

/// What the answer says, where it says something: an assistant that spoke last goes on.
fn said(rng: &mut StdRng, request: &GenerationRequest) -> String {
    let made_up = match &request.format {
        Some(ResponseFormat::JsonSchema { json_schema }) => Some(sample(&json_schema.schema, rng)),
        Some(ResponseFormat::JsonObject) => Some(json!({ "answer": compose(rng, request) })),
        Some(ResponseFormat::Text) | None => None,
    };
    let text = match made_up {
        Some(document) => format!("{document:#}"),
        None => compose(rng, request),
    };
    match request.messages.last().filter(|message| message.role == Role::Assistant) {
        Some(begun) => text.strip_prefix(text_of(&begun.content).as_str()).map(str::to_owned).unwrap_or(text),
        None => text,
    }
}

/// Ends the text where the request says so.
fn limited(request: &GenerationRequest, mut text: String) -> (String, FinishReason) {
    let stops = request.sampling.stop.iter().filter_map(|stop| text.find(stop.as_str()));
    if let Some(end) = stops.min() {
        text.truncate(end);
    }
    let most = request.sampling.max_tokens.map_or(usize::MAX, |most| most as usize);
    let mut words = text.split_whitespace();
    match (words.by_ref().take(most).last(), words.next()) {
        (Some(last), Some(_)) => {
            let end = last.as_ptr().addr() - text.as_ptr().addr() + last.len();
            text.truncate(end);
            (text, FinishReason::Length)
        }
        _ => (text, FinishReason::Stop),
    }
}

/// A call of a tool, where one has to be called.
fn tool_call(rng: &mut StdRng, request: &GenerationRequest) -> Option<Value> {
    let named = match request.sampling.tool_choice.as_ref()? {
        Value::String(word) if word == "required" => None,
        Value::String(_) => return None,
        choice => Some(choice.pointer("/function/name")?),
    };
    let is_meant = |tool: &&Value| named.is_none_or(|name| tool.pointer("/function/name") == Some(name));
    let function = request.sampling.tools.iter().find(is_meant)?.get("function")?;
    let none = json!({ "type": "object" });
    let arguments = sample(function.get("parameters").unwrap_or(&none), rng).to_string();
    let id = format!("call_{:08x}", rng.random::<u32>());
    Some(
        json!({ "id": id, "type": "function", "function": { "name": function["name"], "arguments": arguments } }),
    )
}

#[async_trait]
impl TextGenerator for SimulatedGenerator {
    async fn generate(&self, request: GenerationRequest) -> Result<Generation, GeneratorError> {
        let started = Instant::now();
        let Script { chunks, tool_calls, latency, reason, usage } = Script::new(self.latency, &request);
        let count = chunks.len();
        let model = Some(format!("simulated-{}", request.model));
        let calls = Some(tool_calls).filter(|calls| !calls.is_empty()).map(GenerationEvent::ToolCalls);
        let end = calls.into_iter().chain([GenerationEvent::Finished { reason, usage, model }]);
        if count == 0 {
            sleep_until(started + latency).await;
        }
        let chunks = stream::iter(chunks.into_iter().enumerate()).then(move |(index, text)| async move {
            let fraction = (index + 1) as f64 / count as f64;
            if !latency.is_zero() {
                sleep_until(started + latency.mul_f64(fraction)).await;
            }
            Ok(GenerationEvent::Chunk(Chunk { text, fraction: Some(fraction) }))
        });
        Ok(Generation::new(chunks.chain(stream::iter(end.map(Ok).collect::<Vec<_>>()))))
    }

    fn describe(&self) -> String {
        format!("simulated ({})", self.latency)
    }
}

#[async_trait]
impl Embedder for SimulatedGenerator {
    /// The same text and model give the same vector, of length 1.
    async fn embed(&self, request: EmbeddingRequest) -> Result<Embeddings, GeneratorError> {
        let started = Instant::now();
        let own = || EmbeddingLimits::own_dimensions(&request.model).unwrap_or(DIMENSIONS);
        let length = request.dimensions.unwrap_or_else(own);
        let vector = |text: &String| {
            let mut rng = StdRng::seed_from_u64(hash([request.model.as_bytes(), text.as_bytes()]));
            let numbers: Vec<f32> = (0..length).map(|_| rng.random_range(-1.0..1.0)).collect();
            let norm =
                numbers.iter().map(|number| number * number).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
            numbers.into_iter().map(|number| number / norm).collect()
        };
        let vectors: Vec<Vec<f32>> = request.texts.iter().map(vector).collect();
        let words = request.texts.iter().map(|text| text.split_whitespace().count() as u64).sum();
        let usage = Usage { input_tokens: words, output_tokens: 0, estimated: false };
        let mut rng = StdRng::seed_from_u64(hash([request.model.as_bytes(), &request.task.to_le_bytes()]));
        let latency = self.latency.at(rng.random_range(0.0..=1.0));
        if !latency.is_zero() {
            sleep_until(started + latency).await;
        }
        let model = Some(format!("simulated-{}", request.model));
        Ok(Embeddings { vectors, usage, model, by: None, left: Left::default() })
    }
}

/// What the answer depends on. An assistant's last words are no part of it: they are the answer's beginning.
fn seed(request: &GenerationRequest) -> u64 {
    let seed = request.sampling.seed.map(i64::to_le_bytes);
    let seed = seed.as_ref().map_or(&[][..], |seed| &seed[..]);
    hash([&request.task.to_le_bytes()[..], prompt(request).as_bytes(), seed])
}

/// FNV-1a, 64 bits: the standard library's hashers may change between releases, and an answer should not.
/// Source: <http://www.isthe.com/chongo/tech/comp/fnv/>.
fn hash<const N: usize>(parts: [&[u8]; N]) -> u64 {
    let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    parts.into_iter().flatten().fold(0xcbf2_9ce4_8422_2325, fold)
}

/// What was asked last.
fn prompt(request: &GenerationRequest) -> String {
    let asked = request.messages.iter().rev().find(|message| message.role == Role::User);
    asked.map(|message| text_of(&message.content)).unwrap_or_default()
}

fn compose(rng: &mut StdRng, request: &GenerationRequest) -> String {
    let mut prompt: String = prompt(request)
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .chars()
        .take(PROMPT_SHOWN + 1)
        .collect();
    if prompt.chars().count() > PROMPT_SHOWN {
        prompt.pop();
        prompt.push('…');
    }
    let mut text = format!(
        "This is a simulated answer of {} to \"{prompt}\". No provider was asked; set OPENAI_API_KEY or \
         OPENAI_BASE_URL for a real one.",
        request.model
    );
    let sentences = rng.random_range(4..=8);
    let mut rest: Vec<&str> = SENTENCES.to_vec();
    for _ in 0..sentences {
        let sentence = rest.swap_remove(rng.random_range(0..rest.len()));
        text.push_str(if rng.random_bool(0.25) { "\n\n" } else { " " });
        text.push_str(sentence);
    }
    text
}

/// Cuts before words into `pieces` pieces, as even as it goes; joined they are the text again.
fn split(text: &str, pieces: usize) -> Vec<String> {
    let starts: Vec<usize> = text
        .char_indices()
        .zip(text.chars().skip(1))
        .filter(|((_, this), next)| this.is_whitespace() && !next.is_whitespace())
        .map(|((at, this), _)| at + this.len_utf8())
        .collect();
    let mut cuts: Vec<usize> = (1..pieces).map(|piece| piece * (starts.len() + 1) / pieces).collect();
    cuts.dedup();
    let ends = cuts.into_iter().filter(|word| *word > 0).map(|word| starts[word - 1]).chain([text.len()]);
    let mut from = 0;
    ends.map(|end| text[std::mem::replace(&mut from, end)..end].to_owned()).collect()
}

const SENTENCES: [&str; 12] = [
    "The question has a short answer and a long one, and the short one is usually enough to begin with.",
    "At its core lies a simple idea that becomes clearer with an example.",
    "Most confusion comes from words that mean one thing in daily life and another in the field.",
    "It helps to begin with what is known and to add one assumption at a time.",
    "Two effects work against each other here, and the balance between them decides the outcome.",
    "In practice people measure first and argue afterwards, which saves a good deal of time.",
    "The historical view is worth a glance, because early mistakes explain today's conventions.",
    "There are limits to this picture, and they matter as soon as the numbers grow large.",
    "A common objection is that this is too simple, yet simple models predict surprisingly well.",
    "Seen from the other side, the same facts suggest a different but compatible reading.",
    "Whoever wants to go deeper should look at the original sources rather than at summaries.",
    "To sum up, the details vary, but the principle stays the same.",
];

#[cfg(test)]
mod tests {
    use domain::ai::{Message, Sampling};
    use futures_util::FutureExt;
    use proptest::prelude::*;

    use super::*;

    fn request(task: i64, prompt: &str) -> GenerationRequest {
        let messages = vec![Message::text(Role::User, prompt)];
        GenerationRequest {
            model: "gpt-3.5-turbo".to_owned(),
            messages,
            task,
            ..GenerationRequest::default()
        }
    }

    async fn run(generator: &SimulatedGenerator, request: GenerationRequest) -> Vec<GenerationEvent> {
        generator.generate(request).await.unwrap().map(|event| event.unwrap()).collect().await
    }

    fn text(events: &[GenerationEvent]) -> String {
        events
            .iter()
            .filter_map(|event| match event {
                GenerationEvent::Chunk(chunk) => Some(chunk.text.as_str()),
                GenerationEvent::ToolCalls(_) | GenerationEvent::Finished { .. } => None,
            })
            .collect()
    }

    #[tokio::test]
    async fn names_the_model_and_the_prompt_and_counts_words() {
        let generator = SimulatedGenerator::new(LatencyRange::ZERO);
        let events = run(&generator, request(1, "Explain quantum computing")).await;
        let text = text(&events);
        assert!(text.contains("gpt-3.5-turbo"), "{text}");
        assert!(text.contains("\"Explain quantum computing\""), "{text}");
        let output_tokens = text.split_whitespace().count() as u64;
        assert_eq!(
            events.last(),
            Some(&GenerationEvent::Finished {
                reason: FinishReason::Stop,
                usage: Usage { input_tokens: 3, output_tokens, estimated: false },
                model: Some("simulated-gpt-3.5-turbo".to_owned()),
            })
        );
    }

    #[tokio::test]
    async fn a_long_prompt_is_cut() {
        let prompt = "ä ".repeat(1_000);
        let events = run(&SimulatedGenerator::new(LatencyRange::ZERO), request(1, &prompt)).await;
        assert!(text(&events).contains(&format!("\"{}…\"", "ä ".repeat(PROMPT_SHOWN / 2))));
    }

    #[tokio::test]
    async fn zero_latency_waits_for_no_timer() {
        let generator = SimulatedGenerator::new(LatencyRange::ZERO);
        let events = run(&generator, request(7, "hello")).now_or_never();
        assert!(events.is_some(), "every event was there at the first look");
    }

    #[tokio::test(start_paused = true)]
    async fn the_latency_lies_in_the_range_and_differs_between_tasks() {
        let generator = SimulatedGenerator::new(LatencyRange::default());
        let mut seen = Vec::new();
        for task in 0..20 {
            let started = Instant::now();
            run(&generator, request(task, "hello")).await;
            let took = started.elapsed();
            // Tokio's timers are exact to a millisecond, upwards.
            assert!(took >= Duration::from_secs(5) && took <= Duration::from_millis(15_001), "{took:?}");
            seen.push(took);
        }
        assert!(seen.iter().max() > seen.iter().min());
    }

    #[tokio::test(start_paused = true)]
    async fn chunks_are_spread_over_the_latency() {
        let generator = SimulatedGenerator::new("10s".parse().unwrap());
        let started = Instant::now();
        let mut events = generator.generate(request(3, "hello")).await.unwrap();
        while let Some(Ok(GenerationEvent::Chunk(chunk))) = events.next().await {
            let due = Duration::from_secs(10).mul_f64(chunk.fraction.unwrap());
            let late = started.elapsed().saturating_sub(due);
            assert!(started.elapsed() >= due && late <= Duration::from_millis(2), "{late:?} late");
        }
    }

    #[tokio::test]
    async fn an_answer_that_was_begun_goes_on() {
        let generator = SimulatedGenerator::new(LatencyRange::ZERO);
        let whole = text(&run(&generator, request(1, "hello")).await);
        let (begun, rest) = whole.split_at(40);
        let mut again = request(1, "hello");
        again.messages.push(Message::text(Role::Assistant, begun));
        assert_eq!(text(&run(&generator, again).await), rest);
    }

    #[tokio::test]
    async fn limits_end_the_answer() {
        let generator = SimulatedGenerator::new(LatencyRange::ZERO);
        let sampling = Sampling { max_tokens: Some(5), ..Sampling::default() };
        let events = run(&generator, GenerationRequest { sampling, ..request(1, "hello") }).await;
        assert_eq!(text(&events), "This is a simulated answer");
        let end = events.last().unwrap();
        assert!(matches!(end, GenerationEvent::Finished { reason: FinishReason::Length, .. }), "{end:?}");
        let sampling = Sampling { stop: vec!["simulated".into()], ..Sampling::default() };
        let events = run(&generator, GenerationRequest { sampling, ..request(1, "hello") }).await;
        assert_eq!(text(&events), "This is a ");
    }

    #[tokio::test]
    async fn a_tool_that_has_to_be_called_is() {
        let generator = SimulatedGenerator::new(LatencyRange::ZERO);
        let parameters =
            json!({ "type": "object", "properties": { "city": { "type": "string" } }, "required": ["city"] });
        let tools =
            vec![json!({ "type": "function", "function": { "name": "weather", "parameters": parameters } })];
        let sampling = Sampling { tools, tool_choice: Some(json!("required")), ..Sampling::default() };
        let events = run(&generator, GenerationRequest { sampling, ..request(1, "hello") }).await;
        let [GenerationEvent::ToolCalls(calls), GenerationEvent::Finished { reason, .. }] = &events[..]
        else {
            panic!("{events:?}")
        };
        assert_eq!((calls[0]["function"]["name"].as_str(), reason.as_str()), (Some("weather"), "tool_calls"));
        let arguments: Value =
            serde_json::from_str(calls[0]["function"]["arguments"].as_str().unwrap()).unwrap();
        assert!(arguments["city"].is_string(), "{arguments}");
    }

    #[tokio::test]
    async fn the_same_text_has_the_same_vector() {
        let generator = SimulatedGenerator::new(LatencyRange::ZERO);
        let texts = vec!["one text".to_owned(), "another".to_owned(), "one text".to_owned()];
        let request =
            EmbeddingRequest { model: "m".into(), texts, dimensions: Some(8), ..EmbeddingRequest::default() };
        let Embeddings { vectors, usage, .. } = generator.embed(request).await.unwrap();
        assert_eq!((vectors.len(), usage.input_tokens), (3, 5));
        assert!(vectors.iter().all(|vector| vector.len() == 8));
        assert!(vectors[0] == vectors[2] && vectors[0] != vectors[1]);
        let length: f32 = vectors[0].iter().map(|number| number * number).sum();
        assert!((length - 1.0).abs() < 1e-5, "{length}");
    }

    #[test]
    fn says_what_it_is() {
        assert_eq!(SimulatedGenerator::default().describe(), "simulated (5s..15s)");
    }

    proptest! {
        #[test]
        fn the_same_task_and_prompt_give_the_same_answer(task: i64, prompt in ".{0,200}") {
            let range = LatencyRange::default();
            let script = Script::new(range, &request(task, &prompt));
            prop_assert_eq!(&script, &Script::new(range, &request(task, &prompt)));
            prop_assert!(CHUNKS.contains(&script.chunks.len()), "{} chunks", script.chunks.len());
            prop_assert!(script.chunks.iter().all(|chunk| !chunk.is_empty()));
            prop_assert!(range.min() <= script.latency && script.latency <= range.max());
        }

        #[test]
        fn pieces_join_to_the_text(text in "[a-zé \n]{1,200}", pieces in 1_usize..50) {
            let split = split(&text, pieces);
            prop_assert_eq!(split.concat(), text);
        }
    }
}
