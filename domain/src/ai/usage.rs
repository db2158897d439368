//! What calls of models use, and what that costs. Money is counted in whole millionths of whatever currency the prices
//! are in, so that sums are exact.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ModelGlob, ProviderName};

/// Tokens used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Read by the model.
    pub input_tokens: u64,
    /// Written by the model.
    pub output_tokens: u64,
    /// Whether the numbers are our estimate, because the provider sent none.
    pub estimated: bool,
}

impl Usage {
    /// More tokens than any call has.
    const MOST_TOKENS: u64 = 1_000_000_000;

    /// What can be believed of numbers that a provider sent: those that no call reaches are cut, because sums of them have to fit.
    pub fn plausible(self) -> Self {
        Self {
            input_tokens: self.input_tokens.min(Self::MOST_TOKENS),
            output_tokens: self.output_tokens.min(Self::MOST_TOKENS),
            ..self
        }
    }
}

/// What the estimate assumes, as OpenAI's own rule of thumb does for English.
const CHARS_PER_TOKEN: u64 = 4;

/// About how many tokens a text of so many characters is.
pub fn estimate_tokens(chars: u64) -> u64 {
    chars.div_ceil(CHARS_PER_TOKEN)
}

/// What an answer without `max_tokens` is taken to be at most, until it is known.
pub const OUTPUT_UNLESS_SAID: u64 = 1_000;

/// What a million tokens cost, in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Price {
    /// That the model reads.
    pub input_micros: u64,
    /// That it writes.
    pub output_micros: u64,
}

impl Price {
    /// The highest price of a million tokens that can be given: a million.
    pub const HIGHEST: f64 = 1e6;

    /// Reads a price as people write it, such as 0.15 for a million tokens; `None` where it is no price.
    pub fn per_million(input: f64, output: f64) -> Option<Self> {
        let micros = |price: f64| {
            // A price has at most six decimals: what is beyond is the binary form of a decimal number.
            (0.0..=Self::HIGHEST).contains(&price).then(|| (price * 1e6).round() as u64)
        };
        Some(Self { input_micros: micros(input)?, output_micros: micros(output)? })
    }

    /// What these tokens cost, to the nearest millionth.
    pub fn of(self, usage: Usage) -> u64 {
        let part = |tokens: u64, price: u64| u128::from(tokens) * u128::from(price);
        let total =
            part(usage.input_tokens, self.input_micros) + part(usage.output_tokens, self.output_micros);
        u64::try_from((total + 500_000) / 1_000_000).unwrap_or(u64::MAX)
    }
}

/// A provider's prices: the first rule that a model matches.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PriceList(pub Vec<(ModelGlob, Price)>);

impl PriceList {
    /// The price of this model, if there is one.
    pub fn of(&self, model: &str) -> Option<Price> {
        self.0.iter().find(|(models, _)| models.matches(model)).map(|(_, price)| *price)
    }
}

/// What was asked of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// An answer to messages.
    Chat,
    /// Vectors of texts.
    Embeddings,
}

impl Operation {
    /// The name of OpenTelemetry's `gen_ai.operation.name`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Embeddings => "embeddings",
        }
    }
}

/// One call of a model inside an attempt: who was asked, what came of it, what it used and cost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelCall {
    /// What was asked.
    pub operation: Operation,
    /// Who was asked.
    pub provider: ProviderName,
    /// The model that was asked for there.
    pub model: String,
    /// The model that answered, as the provider names it.
    pub response_model: Option<String>,
    /// Why the model stopped; `None` where it did not get there.
    pub finish_reason: Option<String>,
    /// The code of the error that ended the call.
    pub error: Option<String>,
    /// What it used.
    pub usage: Usage,
    /// What that cost, in millionths; `None` where the configuration names no price.
    pub cost_micros: Option<u64>,
}

impl ModelCall {
    /// A call that begins.
    pub fn new(operation: Operation, provider: ProviderName, model: impl Into<String>) -> Self {
        Self {
            operation,
            provider,
            model: model.into(),
            response_model: None,
            finish_reason: None,
            error: None,
            usage: Usage { estimated: true, ..Usage::default() },
            cost_micros: None,
        }
    }

    /// Takes what was used, and what that costs.
    pub fn charge(&mut self, usage: Usage, price: Option<Price>) {
        self.usage = usage.plausible();
        self.cost_micros = price.map(|price| price.of(self.usage));
    }
}

/// A sum over calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Spending {
    /// How many calls.
    pub calls: u64,
    /// How many of them were counted by our estimate.
    pub estimated_calls: u64,
    /// How many of them have no price.
    pub unpriced_calls: u64,
    /// Tokens that models read.
    pub input_tokens: u64,
    /// Tokens that they wrote.
    pub output_tokens: u64,
    /// What the calls with a price cost, in millionths.
    pub cost_micros: u64,
}

impl Spending {
    /// The sum over these calls.
    pub fn of<'a>(calls: impl IntoIterator<Item = &'a ModelCall>) -> Self {
        calls.into_iter().fold(Self::default(), |sum, call| sum.plus(Self::from(call)))
    }

    /// All tokens.
    pub fn tokens(self) -> u64 {
        self.input_tokens.saturating_add(self.output_tokens)
    }

    /// The sum of two.
    pub fn plus(self, other: Self) -> Self {
        Self {
            calls: self.calls.saturating_add(other.calls),
            estimated_calls: self.estimated_calls.saturating_add(other.estimated_calls),
            unpriced_calls: self.unpriced_calls.saturating_add(other.unpriced_calls),
            input_tokens: self.input_tokens.saturating_add(other.input_tokens),
            output_tokens: self.output_tokens.saturating_add(other.output_tokens),
            cost_micros: self.cost_micros.saturating_add(other.cost_micros),
        }
    }

    /// The sums by provider and model: what is added to the day's.
    pub fn by_model<'a>(
        calls: impl IntoIterator<Item = &'a ModelCall>,
    ) -> BTreeMap<(ProviderName, String), Self> {
        let mut sums: BTreeMap<_, Self> = BTreeMap::new();
        for call in calls {
            let sum = sums.entry((call.provider.clone(), call.model.clone())).or_default();
            *sum = sum.plus(Self::from(call));
        }
        sums
    }
}

impl From<&ModelCall> for Spending {
    fn from(call: &ModelCall) -> Self {
        Self {
            calls: 1,
            estimated_calls: u64::from(call.usage.estimated),
            unpriced_calls: u64::from(call.cost_micros.is_none()),
            input_tokens: call.usage.input_tokens,
            output_tokens: call.usage.output_tokens,
            cost_micros: call.cost_micros.unwrap_or_default(),
        }
    }
}

/// What sums over days are grouped by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UsageGrouping {
    /// The model that was asked for.
    Model,
    /// Who was asked.
    Provider,
    /// The day, in UTC.
    Day,
}

impl UsageGrouping {
    /// Every grouping, for tables.
    pub const ALL: [Self; 3] = [Self::Model, Self::Provider, Self::Day];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Provider => "provider",
            Self::Day => "day",
        }
    }
}

/// What a tenant's calls of one group came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageGroup {
    /// The model, the provider, or the day as `2026-01-31`.
    pub key: String,
    /// The sum.
    pub spending: Spending,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn usage(input_tokens: u64, output_tokens: u64) -> Usage {
        Usage { input_tokens, output_tokens, estimated: false }
    }

    #[test]
    fn money_is_exact_to_a_millionth() {
        let price = Price::per_million(0.15, 0.6).expect("a price");
        assert_eq!(price, Price { input_micros: 150_000, output_micros: 600_000 });
        for (used, micros) in [
            (usage(1_000_000, 0), 150_000),
            (usage(0, 1_000_000), 600_000),
            (usage(1_000, 500), 450),
            (usage(3, 0), 0),
            (usage(4, 0), 1),
            (usage(0, 0), 0),
        ] {
            assert_eq!(price.of(used), micros, "{used:?}");
        }
        assert_eq!(
            Price { input_micros: u64::MAX, output_micros: u64::MAX }.of(usage(u64::MAX, 1)),
            u64::MAX
        );
    }

    #[test]
    fn what_is_no_price_is_refused() {
        for (input, output) in [(-0.1, 1.0), (1.0, f64::NAN), (f64::INFINITY, 1.0), (1e7, 1.0)] {
            assert_eq!(Price::per_million(input, output), None, "{input} {output}");
        }
        assert_eq!(Price::per_million(0.0, 0.0), Some(Price::default()), "some cost nothing");
    }

    #[test]
    fn the_first_price_that_a_model_matches_counts() {
        let price = |input| Price::per_million(input, 0.0).expect("a price");
        let glob = |text| ModelGlob::new(text).expect("a glob");
        let list = PriceList(vec![(glob("gpt-4o-mini*"), price(0.15)), (glob("gpt-*"), price(2.5))]);
        assert_eq!(list.of("gpt-4o-mini-2024"), Some(price(0.15)));
        assert_eq!(list.of("gpt-4o"), Some(price(2.5)));
        assert_eq!(list.of("llama"), None);
    }

    #[test]
    fn calls_without_a_price_or_a_count_are_told_apart() {
        let provider = ProviderName::new("one").expect("a name");
        let mut priced = ModelCall::new(Operation::Chat, provider.clone(), "m");
        priced.charge(usage(10, 5), Price::per_million(1.0, 2.0));
        let guessed = ModelCall::new(Operation::Chat, provider.clone(), "n");
        let sum = Spending::of([&priced, &guessed]);
        let expected = Spending {
            calls: 2,
            estimated_calls: 1,
            unpriced_calls: 1,
            input_tokens: 10,
            output_tokens: 5,
            cost_micros: 20,
        };
        assert_eq!(sum, expected);
        let by_model = Spending::by_model([&priced, &guessed, &priced]);
        assert_eq!(by_model[&(provider, "m".to_owned())].cost_micros, 40);
        assert_eq!(by_model.len(), 2);
    }

    proptest! {
        #[test]
        fn a_sum_of_groups_is_the_sum_of_all(calls in prop::collection::vec((0_u8..3, 0_u64..1_000, 0_u64..1_000), 0..20)) {
            let calls: Vec<ModelCall> = calls
                .into_iter()
                .map(|(model, input, output)| {
                    let provider = ProviderName::new("p").expect("a name");
                    let mut call = ModelCall::new(Operation::Chat, provider, format!("m{model}"));
                    call.charge(usage(input, output), Price::per_million(0.5, 1.5));
                    call
                })
                .collect();
            let groups = Spending::by_model(&calls).into_values().fold(Spending::default(), Spending::plus);
            prop_assert_eq!(groups, Spending::of(&calls));
        }
    }
}
