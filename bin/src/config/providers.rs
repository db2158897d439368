//! Who answers: `[[providers]]` and `[[models]]` of the file, or one provider of the `openai_…` keys, or a simulated one.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use application::providers::NamedBudget;
use domain::ai::{
    Budget, InFlight, LaneTerms, ModelGlob, ModelRule, PerMinute, Period, Price, PriceList, ProviderName,
    Purses, Quota, ServedModels, Trouble,
};
use providers_adapter::{LatencyRange, OpenAiConfig, ProviderTimeouts, Secret};
use serde::Deserialize;

use super::{Layers, parse_duration};

/// Every provider, and who is asked for which model.
#[derive(Debug, Clone)]
pub struct ProvidersConfig {
    /// In the order in which they are asked.
    pub providers: Vec<ProviderConfig>,
    /// Rules that go before that order.
    pub rules: Vec<ModelRule>,
    /// What calls may cost.
    pub budgets: Vec<NamedBudget>,
}

/// One provider.
#[derive(Debug, Clone)]
pub struct ProviderConfig {
    /// Its name.
    pub name: ProviderName,
    /// Who answers.
    pub kind: ProviderKind,
    /// The models that it serves.
    pub models: Vec<ModelGlob>,
    /// What they cost.
    pub prices: PriceList,
    /// How many calls may be under way at once, over all processes.
    pub in_flight: Option<InFlight>,
    /// When requests go through its Batch API.
    pub batch: Option<LaneTerms>,
    /// What it may be asked for, over all processes: models of one of these share it.
    pub quotas: Vec<(ModelGlob, Quota)>,
}

/// Who answers.
#[derive(Debug, Clone)]
pub enum ProviderKind {
    /// Nobody: made-up answers that take this long.
    Simulated(LatencyRange),
    /// An OpenAI-compatible server, or Azure.
    OpenAi(OpenAiConfig),
}

/// The tables of the file, as they are written.
#[derive(Debug, Clone, Default)]
pub(super) struct Tables {
    providers: Vec<ProviderTable>,
    models: Vec<ModelTable>,
    budgets: Vec<BudgetTable>,
}

/// A text that is not shown.
#[derive(Clone, Deserialize)]
struct Hidden(String);

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(hidden)")
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProviderTable {
    name: String,
    kind: String,
    base_url: Option<String>,
    api_key: Option<Hidden>,
    api_key_env: Option<String>,
    models: Option<Vec<String>>,
    #[serde(default)]
    prices: Vec<PriceTable>,
    max_in_flight: Option<u32>,
    first_token_target: Option<String>,
    batch: Option<BatchTable>,
    #[serde(default)]
    quotas: Vec<QuotaTable>,
    connect_timeout: Option<String>,
    first_token_timeout: Option<String>,
    idle_timeout: Option<String>,
    total_timeout: Option<String>,
    latency: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct PriceTable {
    models: String,
    input: f64,
    #[serde(default)]
    output: f64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct QuotaTable {
    models: String,
    requests_per_minute: Option<u64>,
    tokens_per_minute: Option<u64>,
    burst: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelTable {
    models: String,
    providers: Vec<String>,
    fall_back_on: Option<Vec<String>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct BudgetTable {
    name: String,
    #[serde(default)]
    providers: Vec<String>,
    models: Option<String>,
    per: Option<String>,
    period: String,
    limit: f64,
    warn_at: Option<f64>,
}

/// A first token that comes later than this is no sign of load.
const LONGEST_TARGET: Duration = Duration::from_secs(600);
/// Nobody waits longer for a batch.
const LONGEST_LANE: Duration = Duration::from_secs(7 * 86_400);

impl Tables {
    pub(super) fn add_providers(&mut self, value: toml::Value) -> Result<()> {
        // The error of a table may show a line of it, and a key may stand there.
        self.providers =
            value.try_into().map_err(|error: toml::de::Error| anyhow!("providers: {}", error.message()))?;
        Ok(())
    }

    pub(super) fn add_models(&mut self, value: toml::Value) -> Result<()> {
        self.models = value.try_into().context("models: a list of { models, providers } is expected")?;
        Ok(())
    }

    pub(super) fn add_budgets(&mut self, value: toml::Value) -> Result<()> {
        self.budgets = value.try_into().context("budgets: a list of { name, period, limit } is expected")?;
        Ok(())
    }
}

impl Layers {
    pub(super) fn providers(&self) -> Result<ProvidersConfig> {
        let mut providers = Vec::new();
        for table in &self.tables.providers {
            let name = table.name.chars().take(80).collect::<String>();
            providers.push(self.provider(table).with_context(|| format!("the provider {name:?}"))?);
        }
        if providers.is_empty() {
            providers.push(self.only_provider()?);
        }
        let rules: Vec<ModelRule> = self.tables.models.iter().map(ModelTable::rule).collect::<Result<_>>()?;
        // Whether the rules name providers that there are.
        let served = |provider: &ProviderConfig| ServedModels {
            provider: provider.name.clone(),
            models: provider.models.clone(),
        };
        domain::ai::ModelRules::new(rules.clone(), providers.iter().map(served).collect())
            .context("[[models]]")?;
        let budgets: Vec<NamedBudget> =
            self.tables.budgets.iter().map(BudgetTable::budget).collect::<Result<_>>()?;
        for (place, budget) in budgets.iter().enumerate() {
            if budgets[..place].iter().any(|other| other.name == budget.name) {
                bail!("[[budgets]]: two are called {}", budget.name);
            }
            let is_known = |name: &&ProviderName| providers.iter().any(|known| known.name == **name);
            if let Some(stranger) = budget.providers.iter().find(|name| !is_known(name)) {
                bail!("the budget {}: no provider is called {stranger}", budget.name);
            }
        }
        Ok(ProvidersConfig { providers, rules, budgets })
    }

    /// Where the file names none.
    fn only_provider(&self) -> Result<ProviderConfig> {
        let (api_key, base_url) = (self.optional("openai_api_key"), self.optional("openai_base_url"));
        let simulated = api_key.is_none() && base_url.is_none();
        let (name, kind) = if simulated {
            ("simulated", ProviderKind::Simulated(self.parse("simulated_latency")?))
        } else {
            let base_url = base_url.unwrap_or_else(|| OpenAiConfig::DEFAULT_BASE_URL.to_owned());
            let (api_key, timeouts) = (api_key.map(Secret::new), self.timeouts()?);
            ("openai", ProviderKind::OpenAi(OpenAiConfig { base_url, api_key, timeouts, azure: false }))
        };
        let (name, models) = (ProviderName::new(name)?, vec![ModelGlob::new("*")?]);
        let (prices, in_flight, batch, quotas) = (PriceList::default(), None, None, Vec::new());
        Ok(ProviderConfig { name, kind, models, prices, in_flight, batch, quotas })
    }

    fn timeouts(&self) -> Result<ProviderTimeouts> {
        Ok(ProviderTimeouts {
            connect: self.duration("openai_connect_timeout")?,
            first_token: self.duration("openai_first_token_timeout")?,
            idle: self.duration("openai_idle_timeout")?,
            total: self.duration("openai_total_timeout")?,
        })
    }

    fn provider(&self, table: &ProviderTable) -> Result<ProviderConfig> {
        let kind = match table.kind.as_str() {
            "simulated" => {
                let latency = table.latency.as_deref().unwrap_or_else(|| self.text("simulated_latency"));
                for (field, given) in [("base_url", &table.base_url), ("api_key_env", &table.api_key_env)] {
                    if given.is_some() {
                        bail!("{field}: a simulated provider has none");
                    }
                }
                ProviderKind::Simulated(latency.parse()?)
            }
            kind @ ("openai" | "azure") => {
                if table.latency.is_some() {
                    bail!("latency: only simulated providers have one");
                }
                ProviderKind::OpenAi(self.server(table, kind == "azure")?)
            }
            other => bail!(
                "kind: {:?} is none of openai, azure, simulated",
                other.chars().take(40).collect::<String>()
            ),
        };
        let globs = table.models.clone().unwrap_or_else(|| vec!["*".to_owned()]);
        if globs.is_empty() {
            bail!("models: it is empty; leave it out for every model");
        }
        let price = |table: &PriceTable| -> Result<_> {
            let price = Price::per_million(table.input, table.output);
            let price = price.with_context(|| {
                format!(
                    "prices: {} and {} are not between 0 and {}",
                    table.input,
                    table.output,
                    Price::HIGHEST
                )
            })?;
            Ok((ModelGlob::new(&table.models)?, price))
        };
        Ok(ProviderConfig {
            name: ProviderName::new(&table.name)?,
            kind,
            models: globs.into_iter().map(ModelGlob::new).collect::<Result<_, _>>()?,
            prices: PriceList(table.prices.iter().map(price).collect::<Result<_>>()?),
            in_flight: table.in_flight()?,
            batch: match &table.batch {
                Some(_) if table.kind == "simulated" => bail!("batch: a simulated provider has no Batch API"),
                batch => batch.as_ref().map(BatchTable::terms).transpose()?,
            },
            quotas: table.quotas.iter().map(QuotaTable::quota).collect::<Result<_>>()?,
        })
    }

    fn server(&self, table: &ProviderTable, azure: bool) -> Result<OpenAiConfig> {
        let base_url = match (&table.base_url, azure) {
            (Some(url), _) => url.clone(),
            (None, false) => OpenAiConfig::DEFAULT_BASE_URL.to_owned(),
            (None, true) => bail!("base_url: it is missing, such as https://NAME.openai.azure.com/openai/v1"),
        };
        let api_key = match (&table.api_key, &table.api_key_env) {
            (Some(_), Some(_)) => bail!("api_key_env: it cannot be given together with api_key"),
            (Some(key), None) => Some(Secret::new(&key.0)),
            (None, Some(variable)) => {
                let key = self.variable(variable);
                Some(Secret::new(
                    key.with_context(|| format!("api_key_env: {variable} is not set in the environment"))?,
                ))
            }
            (None, None) => None,
        };
        let defaults = self.timeouts()?;
        let duration = |field: &str, text: &Option<String>, default: Duration| -> Result<Duration> {
            text.as_ref()
                .map_or(Ok(default), |text| parse_duration(text).map_err(|why| anyhow!("{field}: {why}")))
        };
        let timeouts = ProviderTimeouts {
            connect: duration("connect_timeout", &table.connect_timeout, defaults.connect)?,
            first_token: duration("first_token_timeout", &table.first_token_timeout, defaults.first_token)?,
            idle: duration("idle_timeout", &table.idle_timeout, defaults.idle)?,
            total: duration("total_timeout", &table.total_timeout, defaults.total)?,
        };
        Ok(OpenAiConfig { base_url, api_key, timeouts, azure })
    }
}

/// The longest time whose quota may be used at once.
const LONGEST_BURST: Duration = Duration::from_secs(3600);

/// A provider's Batch API; what is left out is as OpenAI has it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct BatchTable {
    at_least: Option<String>,
    reserve: Option<String>,
    gather: Option<String>,
    look: Option<String>,
    most_requests: Option<usize>,
    most_bytes: Option<usize>,
    percent: Option<u32>,
}

impl BatchTable {
    fn terms(&self) -> Result<LaneTerms> {
        let unless_said = LaneTerms::default();
        let time = |field: &str, text: &Option<String>, default: Duration| -> Result<Duration> {
            let time = text.as_deref().map_or(Ok(default), parse_duration);
            let time = time.map_err(|why| anyhow!("batch: {field}: {why}"))?;
            if time.is_zero() || time > LONGEST_LANE {
                bail!(
                    "batch: {field}: it is not above 0 and at most {} days",
                    LONGEST_LANE.as_secs() / 86_400
                );
            }
            Ok(time)
        };
        let number = |field: &str, given: Option<usize>, most: usize| match given {
            Some(given) if given == 0 || given > most => {
                Err(anyhow!("batch: {field}: {given} is not between 1 and {most}"))
            }
            given => Ok(given.unwrap_or(most)),
        };
        let terms = LaneTerms {
            at_least: time("at_least", &self.at_least, unless_said.at_least)?,
            reserve: time("reserve", &self.reserve, unless_said.reserve)?,
            gather: time("gather", &self.gather, unless_said.gather)?,
            look: time("look", &self.look, unless_said.look)?,
            most_requests: number("most_requests", self.most_requests, unless_said.most_requests)?,
            most_bytes: number("most_bytes", self.most_bytes, unless_said.most_bytes)?,
            percent: self.percent.unwrap_or(unless_said.percent),
        };
        if terms.percent > 100 {
            bail!("batch: percent: {} is more than 100", terms.percent);
        }
        if !terms.are_sound() {
            bail!("batch: reserve is not below at_least: nothing would be left to wait for");
        }
        Ok(terms)
    }
}

impl ProviderTable {
    fn in_flight(&self) -> Result<Option<InFlight>> {
        let first_token = match &self.first_token_target {
            None => None,
            Some(text) => {
                let target = parse_duration(text).map_err(|why| anyhow!("first_token_target: {why}"))?;
                if target.is_zero() || target > LONGEST_TARGET {
                    let most = LONGEST_TARGET.as_secs();
                    bail!("first_token_target: {text:?} is not above 0 and at most {most} s");
                }
                Some(target)
            }
        };
        match self.max_in_flight {
            None if first_token.is_some() => {
                bail!("first_token_target: it goes with max_in_flight, below which the number adapts")
            }
            None => Ok(None),
            Some(most) if (1..=InFlight::MOST).contains(&most) => Ok(Some(InFlight { most, first_token })),
            Some(_) => bail!("max_in_flight: it is not between 1 and {}", InFlight::MOST),
        }
    }
}

impl QuotaTable {
    fn quota(&self) -> Result<(ModelGlob, Quota)> {
        let rate = |field: &str, count: Option<u64>| -> Result<Option<PerMinute>> {
            let Some(count) = count else { return Ok(None) };
            let rate = PerMinute::new(count);
            Ok(Some(rate.with_context(|| {
                format!("quotas: {field}: {count} is not between 1 and {}", PerMinute::MOST)
            })?))
        };
        let requests = rate("requests_per_minute", self.requests_per_minute)?;
        let tokens = rate("tokens_per_minute", self.tokens_per_minute)?;
        if requests.is_none() && tokens.is_none() {
            bail!(
                "quotas: one for {:?} names neither requests_per_minute nor tokens_per_minute",
                self.models
            );
        }
        let burst = match &self.burst {
            None => Quota::DEFAULT_BURST,
            Some(text) => parse_duration(text).map_err(|why| anyhow!("quotas: burst: {why}"))?,
        };
        if burst > LONGEST_BURST {
            bail!("quotas: burst: it is longer than an hour");
        }
        let quota = Quota { requests, tokens, burst };
        if !quota.lets_anything_through() {
            bail!("quotas: burst: not even one call or token fits into it at that rate");
        }
        Ok((ModelGlob::new(&self.models)?, quota))
    }
}

/// The largest budget: a billion.
const LARGEST_BUDGET: f64 = 1e9;
/// Where somebody is told, unless the table says otherwise.
const WARN_AT: f64 = 0.8;

impl BudgetTable {
    fn budget(&self) -> Result<NamedBudget> {
        let shown = self.name.chars().take(80).collect::<String>();
        let read = || -> Result<NamedBudget> {
            // The name is one as providers have them.
            let name = ProviderName::new(&self.name)
                .map_err(|_| anyhow!("name: it is not 1 to 64 letters, digits, '_', '-' or '.'"))?;
            let period = Period::parse(&self.period).context("period: it is neither day nor month")?;
            let share = self.warn_at.unwrap_or(WARN_AT);
            if !(0.0..=LARGEST_BUDGET).contains(&self.limit) {
                bail!("limit: {} is not between 0 and {LARGEST_BUDGET}", self.limit);
            }
            if !(0.0..=1.0).contains(&share) {
                bail!("warn_at: {share} is not a share between 0 and 1");
            }
            let micros = |amount: f64| (amount * 1e6).round() as u64;
            let budget = Budget { period, limit: micros(self.limit), warn_at: micros(self.limit * share) };
            let providers = self.providers.iter().map(ProviderName::new).collect::<Result<_, _>>()?;
            let models = ModelGlob::new(self.models.as_deref().unwrap_or("*"))?;
            let purses = self.per.as_deref().map(Purses::parse);
            let purses =
                purses.unwrap_or(Some(Purses::One)).context("per: it is neither tenant nor fairness_key")?;
            Ok(NamedBudget { name: name.to_string(), providers, models, budget, purses })
        };
        read().with_context(|| format!("the budget {shown:?}"))
    }
}

impl ModelTable {
    fn rule(&self) -> Result<ModelRule> {
        let shown = self.models.chars().take(80).collect::<String>();
        let rule = || -> Result<ModelRule> {
            let fall_back_on = match &self.fall_back_on {
                None => Trouble::DEFAULT_FALLBACK.to_vec(),
                Some(names) => names.iter().map(|name| Trouble::parse(name)).collect::<Result<_, _>>()?,
            };
            Ok(ModelRule::new(ModelGlob::new(&self.models)?, &self.providers, fall_back_on)?)
        };
        rule().with_context(|| format!("the rule for the models {shown:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
        [[providers]]
        name = "main"
        kind = "openai"
        api_key_env = "MAIN_KEY"
        models = ["gpt-*", "text-embedding-*"]
        prices = [{ models = "gpt-4o-mini*", input = 0.15, output = 0.6 }, { models = "text-*", input = 0.02 }]
        max_in_flight = 50
        first_token_target = "2s"
        quotas = [{ models = "gpt-*", requests_per_minute = 500, tokens_per_minute = 30000, burst = "10s" }]
        idle_timeout = "30s"

        [[providers]]
        name = "azure"
        kind = "azure"
        base_url = "https://gateway.example/openai/v1"
        api_key = "sk-secret"

        [[providers]]
        name = "fake"
        kind = "simulated"
        latency = "0s"

        [[budgets]]
        name = "monthly"
        providers = ["main", "azure"]
        models = "gpt-*"
        period = "month"
        limit = 50

        [[models]]
        models = "gpt-4o*"
        providers = ["main", "azure/eu-4o"]
        fall_back_on = ["rate_limited", "quota"]
    "#;

    fn layers(file: &str) -> Layers {
        let mut layers = Layers::default();
        layers.add_file(file, "test.toml").expect("TOML");
        layers.add_environment([("MAIN_KEY".to_owned(), "sk-secret".to_owned())], "the environment");
        layers
    }

    #[test]
    fn providers_and_rules_come_from_the_file() {
        let config = layers(FILE).config().expect("valid").providers;
        let names: Vec<_> = config.providers.iter().map(|provider| provider.name.as_str()).collect();
        assert_eq!(names, ["main", "azure", "fake"]);
        let main = &config.providers[0];
        assert_eq!(
            (main.in_flight, main.prices.of("gpt-4o-mini")),
            (
                Some(InFlight { most: 50, first_token: Some(Duration::from_secs(2)) }),
                Price::per_million(0.15, 0.6)
            )
        );
        let (models, quota) = &main.quotas[0];
        assert!(models.matches("gpt-4o"));
        assert_eq!(
            (quota.requests, quota.tokens, quota.burst),
            (PerMinute::new(500), PerMinute::new(30_000), Duration::from_secs(10))
        );
        let ProviderKind::OpenAi(openai) = &main.kind else { panic!("{main:?}") };
        assert_eq!(openai.base_url, OpenAiConfig::DEFAULT_BASE_URL);
        assert_eq!((openai.timeouts.idle, openai.azure), (Duration::from_secs(30), false));
        assert!(matches!(&config.providers[1].kind, ProviderKind::OpenAi(azure) if azure.azure));
        let simulated = &config.providers[2].kind;
        assert!(matches!(simulated, ProviderKind::Simulated(latency) if *latency == LatencyRange::ZERO));
        assert_eq!(config.rules.len(), 1);
        let expected = Budget { period: Period::Month, limit: 50_000_000, warn_at: 40_000_000 };
        assert_eq!((config.budgets[0].name.as_str(), config.budgets[0].budget), ("monthly", expected));
    }

    #[test]
    fn one_provider_of_the_environment_needs_no_file() {
        let mut layers = Layers::default();
        let name = |layers: &Layers| layers.config().expect("valid").providers.providers[0].name.to_string();
        assert_eq!(name(&layers), "simulated");
        layers.add_environment([("OPENAI_API_KEY".to_owned(), "sk-secret".to_owned())], "the environment");
        assert_eq!(name(&layers), "openai");
    }

    #[test]
    fn keys_are_never_shown() {
        let layers = layers(FILE);
        let config = layers.config().expect("valid");
        let shown = format!("{config:?} {layers:?} {:?}", layers.show());
        assert!(!shown.contains("sk-secret"), "{shown}");
        let broken =
            FILE.replace("api_key = \"sk-secret\"", "api_key = \"sk-secret\"\napi_kee = \"sk-secret\"");
        let error = Layers::default().add_file(&broken, "test.toml").expect_err("a typo");
        assert!(
            format!("{error:#}").contains("api_kee") && !format!("{error:#}").contains("sk-secret"),
            "{error:#}"
        );
    }

    #[test]
    fn mistakes_are_named() {
        let one = |more: &str| format!("[[providers]]\nname = \"a\"\nkind = \"openai\"\n{more}");
        for (file, part) in [
            (one("kind2 = 1"), "kind2"),
            (one("models = []"), "models"),
            (one("max_in_flight = 0"), "max_in_flight"),
            (one("first_token_target = '2s'"), "goes with max_in_flight"),
            (one("batch = { reserve = '2h' }"), "reserve is not below at_least"),
            (one("batch = { percent = 150 }"), "percent"),
            (one("batch = { most_requests = 50001 }"), "most_requests"),
            ("[[providers]]\nname = 'a'\nkind = 'simulated'\nbatch = {}".to_owned(), "no Batch API"),
            (one("max_in_flight = 5\nfirst_token_target = '0s'"), "first_token_target"),
            (one("total_timeout = 'soon'"), "total_timeout"),
            (one("latency = '0s'"), "latency"),
            (one("quotas = [{ models = '*' }]"), "neither"),
            (one("quotas = [{ models = '*', requests_per_minute = 0 }]"), "requests_per_minute"),
            (one("quotas = [{ models = '*', requests_per_minute = 5, burst = '10s' }]"), "not even one"),
            (one("quotas = [{ models = '*', tokens_per_minute = 5, burst = '2h' }]"), "longer than an hour"),
            (one("api_key_env = 'NO_SUCH_KEY'"), "NO_SUCH_KEY"),
            (one("api_key_env = 'A'\napi_key = 'b'"), "together"),
            (one("prices = [{ models = '*', input = -1 }]"), "prices"),
            (one("[[models]]\nmodels = '*'\nproviders = ['b']"), "called b"),
            (one("[[budgets]]\nname = 'x'\nperiod = 'week'\nlimit = 1"), "neither day nor month"),
            (one("[[budgets]]\nname = 'x'\nperiod = 'day'\nlimit = -1"), "limit"),
            (one("[[budgets]]\nname = 'x'\nper = 'user'\nperiod = 'day'\nlimit = 1"), "neither tenant nor"),
            (one("[[budgets]]\nname = 'x'\nperiod = 'day'\nlimit = 1\nwarn_at = 80"), "warn_at"),
            (one("[[budgets]]\nname = 'x'\nproviders = ['b']\nperiod = 'day'\nlimit = 1"), "called b"),
            (one("[[models]]\nmodels = '*'\nproviders = ['a']\nfall_back_on = ['luck']"), "luck"),
            ("[[providers]]\nname = 'a'\nkind = 'azure'".to_owned(), "base_url"),
            ("[[providers]]\nname = 'a b'\nkind = 'openai'".to_owned(), "provider name"),
            ("[[providers]]\nname = 'a'\nkind = 'oracle'".to_owned(), "oracle"),
        ] {
            let mut layers = Layers::default();
            let read = layers.add_file(&file, "test.toml").and_then(|()| layers.config().map(drop));
            let error = format!("{:#}", read.expect_err(&file));
            assert!(error.contains(part), "{file}: {error}");
        }
    }
}
