//! Providers that say what the test wants, behind rules; and a product that stands on them.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use domain::{
    AttemptOutcome, ErrorClass, Json, Status, Tenant,
    ai::{
        Budget, Caller, InFlight, InvalidRule, ModelCall, ModelGlob, ModelRule, Payer, Period, Price,
        PriceList, ProviderName, Purses, Trouble, Usage, UsageGrouping,
    },
};
use futures_util::{FutureExt, StreamExt, stream};

use super::{Budgets, NamedBudget, Provider, Providers};
use crate::{
    ports::{
        Books, CallBook, Chunk, Embedder, EmbeddingRequest, Embeddings, FinishReason, Generation,
        GenerationEvent, GenerationRequest, GeneratorError, Left, MockEmbedder, MockTextGenerator, Store,
        TaskStore, TextGenerator,
    },
    task_types::{Models, built_in},
    testing::Product,
    worker::LARGEST_RESULT,
};

/// What a provider says to one call: an error at once, or a stream.
type Said = Result<Vec<Result<GenerationEvent, GeneratorError>>, GeneratorError>;
/// Who was asked, for which model.
type Asked = Arc<Mutex<Vec<String>>>;

fn trouble(trouble: Trouble, code: &str, wait: Option<u64>) -> GeneratorError {
    let class = match trouble {
        Trouble::RateLimited => ErrorClass::RateLimited,
        Trouble::Unreachable | Trouble::Overloaded | Trouble::TimedOut => ErrorClass::Transient,
        Trouble::Quota | Trouble::Unauthorized | Trouble::UnknownModel | Trouble::Refused => {
            ErrorClass::Permanent
        }
    };
    GeneratorError {
        class,
        trouble,
        code: code.to_owned(),
        message: "the test says so".to_owned(),
        retry_after: wait.map(Duration::from_secs),
        // As the adapter for real servers has it: a call that was turned away costs nothing.
        billed: class == ErrorClass::Transient && !matches!(code, "connect_failed" | "http_503"),
    }
}

fn text(text: &str) -> Said {
    let usage = Usage { input_tokens: 1_000, output_tokens: 500, estimated: false };
    Ok(vec![
        Ok(GenerationEvent::Chunk(Chunk { text: text.to_owned(), fraction: None })),
        Ok(GenerationEvent::Finished { reason: FinishReason::Stop, usage, model: Some("m-1".to_owned()) }),
    ])
}

/// A provider that answers with these in turn.
fn provider(name: &str, asked: &Asked, answers: Vec<Said>) -> Provider {
    let (answers, asked, own) = (Mutex::new(VecDeque::from(answers)), Arc::clone(asked), name.to_owned());
    let mut generator = MockTextGenerator::new();
    generator.expect_generate().returning(move |request: GenerationRequest| {
        asked.lock().expect("not poisoned").push(format!("{own}/{}", request.model));
        let said = answers.lock().expect("not poisoned").pop_front().expect("an answer for each call");
        said.map(|events| Generation::new(stream::iter(events)))
    });
    generator.expect_describe().returning(|| "scripted".to_owned());
    Provider {
        name: ProviderName::new(name).expect("a name"),
        generator: Arc::new(generator),
        embedder: Arc::new(MockEmbedder::new()),
        models: vec![ModelGlob::new("*").expect("a glob")],
        prices: PriceList::default(),
        in_flight: None,
        batch: None,
        quotas: Some(Vec::new()),
    }
}

/// These providers, by the clock of tokio.
fn of(all: Vec<Provider>, rules: Vec<ModelRule>) -> Result<Providers, InvalidRule> {
    Providers::new(all, rules, &[], Product::new([]).store, Caller(1))
}

fn request(model: &str) -> GenerationRequest {
    GenerationRequest { model: model.to_owned(), ..GenerationRequest::default() }
}

/// Books, and what was entered into them so far.
fn book() -> (Books, impl Fn() -> Vec<ModelCall>) {
    #[derive(Clone, Default)]
    struct Book(Arc<Mutex<Vec<ModelCall>>>);
    impl CallBook for Book {
        fn payer(&self) -> Payer {
            Payer::default()
        }

        fn enter(&self, call: ModelCall) {
            self.0.lock().expect("not poisoned").push(call);
        }

        fn update_last(&self, update: &mut dyn FnMut(&mut ModelCall)) {
            self.0.lock().expect("not poisoned").last_mut().into_iter().for_each(update);
        }
    }
    let book = Book::default();
    (Books::kept_by(book.clone()), move || book.0.lock().expect("not poisoned").clone())
}

fn asked(asked: &Asked) -> Vec<String> {
    std::mem::take(&mut *asked.lock().expect("not poisoned"))
}

fn priced(provider: Provider, input: f64, output: f64) -> Provider {
    let price = Price::per_million(input, output).expect("a price");
    Provider { prices: PriceList(vec![(ModelGlob::new("*").expect("a glob"), price)]), ..provider }
}

#[tokio::test(start_paused = true)]
async fn another_provider_is_asked_by_the_kind_of_the_error() {
    for (said, goes_on) in [
        (trouble(Trouble::Unreachable, "connect_failed", None), true),
        (trouble(Trouble::Overloaded, "http_503", None), true),
        (trouble(Trouble::TimedOut, "first_token_timeout", None), true),
        (trouble(Trouble::RateLimited, "rate_limit_exceeded", Some(9)), true),
        (trouble(Trouble::Quota, "insufficient_quota", None), true),
        (trouble(Trouble::Unauthorized, "http_401", None), false),
        (trouble(Trouble::UnknownModel, "model_not_found", None), false),
        (trouble(Trouble::Refused, "context_length_exceeded", None), false),
    ] {
        // At once, or in a stream's place of a token.
        for said_at in [Err(said.clone()), Ok(vec![Err(said.clone())])] {
            let calls = Asked::default();
            let all = vec![provider("a", &calls, vec![said_at]), provider("b", &calls, vec![text("hi")])];
            let (book, kept) = book();
            let asking = GenerationRequest { books: book, ..request("m") };
            let answer = of(all, Vec::new()).expect("providers").generate(asking).await;
            assert_eq!(answer.is_ok(), goes_on, "{said:?}");
            assert_eq!(asked(&calls).len(), 1 + usize::from(goes_on), "{said:?}");
            match answer {
                Ok(answer) => {
                    assert_eq!(answer.by.expect("somebody").provider.as_str(), "b");
                    let errors: Vec<_> = kept().into_iter().map(|call| call.error).collect();
                    assert_eq!(errors, [Some(said.code.clone()), None]);
                }
                Err(error) => assert_eq!((&error.code, error.class), (&said.code, said.class)),
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_rule_names_the_chain_and_the_model_there() {
    let calls = Asked::default();
    let full = || Err(trouble(Trouble::UnknownModel, "model_not_found", None));
    let all = vec![provider("a", &calls, vec![text("hi")]), provider("b", &calls, vec![full()])];
    let chain = ["b/their-name".to_owned(), "a".to_owned()];
    let glob = ModelGlob::new("gpt-*").expect("a glob");
    let rule = ModelRule::new(glob, &chain, vec![Trouble::UnknownModel]).expect("a rule");
    let providers = of(all, vec![rule]).expect("providers");
    providers.generate(request("gpt-4o")).await.expect("an answer");
    assert_eq!(asked(&calls), ["b/their-name", "a/gpt-4o"]);
}

#[tokio::test(start_paused = true)]
async fn text_of_two_providers_is_never_spliced() {
    let calls = Asked::default();
    let chunk = GenerationEvent::Chunk(Chunk { text: "half".into(), fraction: None });
    let cut = Ok(vec![Ok(chunk), Err(trouble(Trouble::Overloaded, "truncated", None))]);
    let all = vec![provider("a", &calls, vec![cut]), provider("b", &calls, vec![text("hi")])];
    let providers = of(all, Vec::new()).expect("providers");
    let events: Vec<_> = providers.generate(request("m")).await.expect("it begins").collect().await;
    assert_eq!(events.last().expect("an end").as_ref().expect_err("cut").code, "truncated");
    assert_eq!(asked(&calls), ["a/m"], "what was begun is not begun elsewhere");
}

#[tokio::test(start_paused = true)]
async fn a_rate_limited_provider_is_left_alone_until_it_said() {
    let calls = Asked::default();
    let limited = Err(trouble(Trouble::RateLimited, "rate_limit_exceeded", Some(5)));
    let all = vec![provider("a", &calls, vec![limited, text("other"), text("at last")])];
    let providers = of(all, Vec::new()).expect("providers");
    for wait in [0, 1, 3] {
        tokio::time::advance(Duration::from_secs(wait)).await;
        let error = providers.generate(request("m")).await.expect_err("limited");
        assert_eq!((error.class, error.code.as_str()), (ErrorClass::RateLimited, "rate_limit_exceeded"));
        assert!(error.retry_after.expect("a wait") <= Duration::from_secs(5));
    }
    assert_eq!(asked(&calls), ["a/m"], "it was asked once");
    providers.generate(request("n")).await.expect("another model is limited by itself");
    tokio::time::advance(Duration::from_secs(5)).await;
    providers.generate(request("m")).await.expect("it answers again");
}

#[tokio::test(start_paused = true)]
async fn a_provider_without_credit_is_left_alone_for_a_minute() {
    let calls = Asked::default();
    let empty = Err(trouble(Trouble::Quota, "insufficient_quota", None));
    let providers = of(vec![provider("a", &calls, vec![empty, text("hi")])], Vec::new());
    let providers = providers.expect("providers");
    for _ in 0..3 {
        let error = providers.generate(request("m")).await.expect_err("no credit");
        assert_eq!((error.class, error.retry_after), (ErrorClass::Permanent, None));
    }
    assert_eq!(asked(&calls).len(), 1);
    tokio::time::advance(Duration::from_secs(60)).await;
    providers.generate(request("m")).await.expect("somebody has paid");
}

#[tokio::test(start_paused = true)]
async fn no_more_calls_are_under_way_than_may_be() {
    let calls = Asked::default();
    let one = InFlight { most: 1, first_token: None };
    let busy = Provider { in_flight: Some(one), ..provider("a", &calls, vec![text("one"), text("two")]) };
    let providers = of(vec![busy], Vec::new()).expect("providers");
    let first = providers.generate(request("m")).await.expect("a place");
    let error = providers.generate(request("m")).await.expect_err("no place");
    assert_eq!((error.class, error.code.as_str()), (ErrorClass::RateLimited, "provider_busy"));
    drop(first);
    providers.generate(request("m")).await.expect("the place is free again");
}

#[tokio::test(start_paused = true)]
async fn who_leaves_while_the_meters_are_asked_leaves_nothing_behind() {
    let (called, store): (_, Arc<dyn Store>) = (Asked::default(), Product::new([]).store);
    let daily = NamedBudget {
        name: "daily".to_owned(),
        providers: Vec::new(),
        models: ModelGlob::new("*").expect("a glob"),
        budget: Budget { period: Period::Day, limit: 1_000_000, warn_at: 800_000 },
        purses: Purses::One,
    };
    let all = vec![priced(provider("a", &called, vec![text("so")]), 1.0, 1.0)];
    let budgets = Budgets::new(vec![daily.clone()], Arc::clone(&store));
    let providers = Providers::new(all, Vec::new(), &[daily], store, Caller(1)).expect("providers");
    let spent = async || budgets.report(&Payer::default()).await.expect("a report")[0].spent;

    assert!(providers.generate(request("m")).now_or_never().is_none(), "it waits for the meters");
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!((spent().await, asked(&called).len()), (0, 0));
    let answer = providers.generate(request("m")).await.expect("an answer");
    assert!(spent().await > 0, "a call under way counts with what it may cost");
    drop(answer);
}

#[tokio::test(start_paused = true)]
async fn a_model_that_nobody_serves_is_a_final_error() {
    let calls = Asked::default();
    let mut picky = provider("a", &calls, vec![]);
    picky.models = vec![ModelGlob::new("gpt-*").expect("a glob")];
    let providers = of(vec![picky], Vec::new()).expect("providers");
    let error = providers.generate(request("llama")).await.expect_err("nobody");
    assert_eq!((error.class, error.code.as_str()), (ErrorClass::Permanent, "no_provider"));
    let twice = || provider("a", &calls, vec![]);
    assert!(of(vec![twice(), twice()], Vec::new()).is_err(), "names are distinct");
}

#[tokio::test(start_paused = true)]
async fn embeddings_fall_back_as_well() {
    let calls = Asked::default();
    let with = |name, answer: Result<Embeddings, GeneratorError>| {
        let mut embedder = MockEmbedder::new();
        embedder.expect_embed().returning(move |_| answer.clone());
        Provider { embedder: Arc::new(embedder), ..provider(name, &calls, vec![]) }
    };
    let vectors = vec![vec![1.0]];
    let answer =
        Embeddings { vectors, usage: Usage::default(), model: None, by: None, left: Left::default() };
    let all = vec![with("a", Err(trouble(Trouble::Overloaded, "http_503", None))), with("b", Ok(answer))];
    let providers = of(all, Vec::new()).expect("providers");
    let (books, kept) = book();
    let request =
        EmbeddingRequest { model: "m".into(), texts: vec!["x".into()], books, ..EmbeddingRequest::default() };
    let answer = providers.embed(request).await.expect("an answer");
    assert_eq!((answer.by.expect("somebody").provider.as_str(), kept().len()), ("b", 2));
}

#[tokio::test(start_paused = true)]
async fn every_call_of_every_attempt_is_kept_with_its_cost() {
    let calls = Asked::default();
    let down = |code| Err(trouble(Trouble::Overloaded, code, None));
    let chunk = GenerationEvent::Chunk(Chunk { text: "x".repeat(400), fraction: None });
    let cut = Ok(vec![Ok(chunk), Err(trouble(Trouble::Overloaded, "truncated", None))]);
    let all = vec![
        priced(provider("a", &calls, vec![down("http_503"), down("http_500")]), 1.0, 1.0),
        priced(provider("b", &calls, vec![cut, text("whole")]), 2.0, 4.0),
    ];
    let providers = Arc::new(of(all, Vec::new()).expect("providers"));
    let product = Product::with(|store, _| {
        let generator = Arc::clone(&providers) as Arc<dyn TextGenerator>;
        built_in(&Models { generator, embedder: providers, store, largest_result: LARGEST_RESULT })
    });
    tokio::spawn(product.upkeep().run(Default::default()));
    let _worker = product.worker(1);
    let input = format!(r#"{{"prompt":"{}","model":"m"}}"#, "p".repeat(4_000));
    let id =
        product.submit("ai.text_generation", |task| task.input = Json::parse(input).expect("JSON")).await;
    let task = product.end_of(id).await;
    assert_eq!((task.status, task.attempt), (Status::Completed, 2), "{:?}", task.error);
    let tenant = Tenant::default();
    let attempts = product.store.attempts(&tenant, id).await.expect("readable").expect("known");
    let shown: Vec<_> = attempts
        .iter()
        .flat_map(|attempt| &attempt.calls)
        .map(|call| {
            let Usage { input_tokens, output_tokens, estimated } = call.usage;
            (
                call.provider.as_str(),
                call.error.as_deref(),
                input_tokens,
                output_tokens,
                estimated,
                call.cost_micros,
            )
        })
        .collect();
    let expected = [
        ("a", Some("http_503"), 0, 0, false, Some(0)),
        ("b", Some("truncated"), 1_000, 100, true, Some(2_400)),
        ("a", Some("http_500"), 1_000, 0, true, Some(1_000)),
        ("b", None, 1_000, 500, false, Some(4_000)),
    ];
    assert_eq!(shown, expected);
    assert_eq!(attempts[0].outcome, Some(AttemptOutcome::Failed));
    let report = product.tasks.usage(&tenant, None, None, UsageGrouping::Provider).await.expect("a report");
    let groups: Vec<_> =
        report.groups.iter().map(|group| (group.key.as_str(), group.spending.cost_micros)).collect();
    assert_eq!((groups, report.total.cost_micros), (vec![("b", 6_400), ("a", 1_000)], 7_400));
}

/// It may be billed, though nobody ever saw a token of it.
#[tokio::test(start_paused = true)]
async fn a_call_that_is_let_go_before_anybody_answers_is_kept() {
    let mut silent = provider("a", &Asked::default(), vec![]);
    let mut generator = MockTextGenerator::new();
    generator.expect_generate().returning(|_| Ok(Generation::new(stream::pending())));
    silent.generator = Arc::new(generator);
    let providers = Arc::new(of(vec![priced(silent, 1.0, 1.0)], Vec::new()).expect("providers"));
    let product = Product::with(|store, _| {
        let generator = Arc::clone(&providers) as Arc<dyn TextGenerator>;
        built_in(&Models { generator, embedder: providers, store, largest_result: LARGEST_RESULT })
    });
    let _worker = product.worker(1);
    let input = format!(r#"{{"prompt":"{}","model":"m"}}"#, "p".repeat(4_000));
    let id =
        product.submit("ai.text_generation", |task| task.input = Json::parse(input).expect("JSON")).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    product.tasks.cancel(&Tenant::default(), id).await.expect("asked to stop");
    assert_eq!(product.end_of(id).await.status, Status::Cancelled);
    let attempts = product.store.attempts(&Tenant::default(), id).await.expect("readable").expect("known");
    let [call] = &attempts[0].calls[..] else { panic!("one call: {attempts:?}") };
    assert_eq!(call.error.as_deref(), Some("cancelled"));
    assert_eq!((call.usage.input_tokens, call.usage.estimated, call.cost_micros), (1_000, true, Some(1_000)));
}
