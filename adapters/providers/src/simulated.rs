//! A provider that needs no provider: the default until a key or a base URL is set. It takes about as long as a real
//! one and streams as a real one does, so that everything around it can be seen at work.

use std::time::Duration;

use application::ports::{
    Chunk, FinishReason, Generation, GenerationEvent, GenerationRequest, GeneratorError, TextGenerator, Usage,
};
use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::time::{Instant, sleep_until};

use crate::LatencyRange;

/// Answers a plausible text that names the model and the prompt. The same task and prompt give the same text, chunks
/// and latency. A token is a word.
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

/// An answer, decided before its first chunk is sent.
#[derive(Debug, PartialEq)]
struct Script {
    chunks: Vec<String>,
    latency: Duration,
    usage: Usage,
}

impl Script {
    fn new(latency: LatencyRange, request: &GenerationRequest) -> Self {
        let mut rng = StdRng::seed_from_u64(seed(request));
        let text = compose(&mut rng, request);
        let words = text.split_whitespace().count();
        let chunks = split(&text, rng.random_range(CHUNKS).min(words));
        let usage = Usage {
            input_tokens: request.prompt.split_whitespace().count() as u64,
            output_tokens: words as u64,
            estimated: false,
        };
        Self { chunks, latency: latency.at(rng.random_range(0.0..=1.0)), usage }
    }
}

#[async_trait]
impl TextGenerator for SimulatedGenerator {
    async fn generate(&self, request: GenerationRequest) -> Result<Generation, GeneratorError> {
        let started = Instant::now();
        let Script { chunks, latency, usage } = Script::new(self.latency, &request);
        let count = chunks.len();
        let finished = GenerationEvent::Finished {
            reason: FinishReason::Stop,
            usage,
            model: Some(format!("simulated-{}", request.model)),
        };
        let chunks = stream::iter(chunks.into_iter().enumerate()).then(move |(index, text)| async move {
            let fraction = (index + 1) as f64 / count as f64;
            if !latency.is_zero() {
                sleep_until(started + latency.mul_f64(fraction)).await;
            }
            Ok(GenerationEvent::Chunk(Chunk { text, fraction: Some(fraction) }))
        });
        Ok(Box::pin(chunks.chain(stream::iter([Ok(finished)]))))
    }

    fn describe(&self) -> String {
        format!("simulated ({})", self.latency)
    }
}

/// FNV-1a, 64 bits: the standard library's hashers may change between releases, and an answer should not.
/// Source: <http://www.isthe.com/chongo/tech/comp/fnv/>.
fn seed(request: &GenerationRequest) -> u64 {
    let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = request.task.to_le_bytes().iter().fold(0xcbf2_9ce4_8422_2325, fold);
    request.prompt.as_bytes().iter().fold(hash, fold)
}

fn compose(rng: &mut StdRng, request: &GenerationRequest) -> String {
    let mut prompt: String = request
        .prompt
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
    use futures_util::FutureExt;
    use proptest::prelude::*;

    use super::*;

    fn request(task: i64, prompt: &str) -> GenerationRequest {
        GenerationRequest { model: "gpt-3.5-turbo".to_owned(), prompt: prompt.to_owned(), task }
    }

    async fn run(generator: &SimulatedGenerator, request: GenerationRequest) -> Vec<GenerationEvent> {
        generator.generate(request).await.unwrap().map(|event| event.unwrap()).collect().await
    }

    fn text(events: &[GenerationEvent]) -> String {
        events
            .iter()
            .filter_map(|event| match event {
                GenerationEvent::Chunk(chunk) => Some(chunk.text.as_str()),
                GenerationEvent::Finished { .. } => None,
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
