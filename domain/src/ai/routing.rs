//! Which provider is asked for a model, and who is asked next when one cannot answer.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{ErrorClass, name::name, routing::glob_matches};

name!(
    /// What the configuration calls a provider: 1–64 letters, digits, `_`, `-` or `.`.
    ProviderName, "provider name", max 64, |c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'),
    "1 to 64 letters, digits, '_', '-' or '.'"
);

impl Serialize for ProviderName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for ProviderName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// A glob over the names of models: `*` stands for any run of characters, `?` for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelGlob(String);

/// Longer names of models, and longer globs, are refused.
const LONGEST_MODEL: usize = 200;

/// Why a rule about models is none; reads as a sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidRule(pub String);

impl ModelGlob {
    /// 1 to 200 characters without white space.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidRule> {
        let text = text.into();
        let odd = |c: char| c.is_whitespace() || c.is_control();
        if text.is_empty() || text.len() > LONGEST_MODEL || text.chars().any(odd) {
            let shown: String = text.chars().take(80).collect();
            return Err(InvalidRule(format!(
                "{shown:?} is not a pattern of models: 1 to {LONGEST_MODEL} characters without spaces, such as gpt-*"
            )));
        }
        Ok(Self(text))
    }

    /// Whether the rule takes this model.
    pub fn matches(&self, model: &str) -> bool {
        glob_matches(self.0.as_bytes(), model.as_bytes())
    }
}

impl std::fmt::Display for ModelGlob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which models a provider serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedModels {
    /// Who.
    pub provider: ProviderName,
    /// Any of these.
    pub models: Vec<ModelGlob>,
}

/// Why a provider did not answer: decides whether another one is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Trouble {
    /// No connection came about.
    Unreachable,
    /// It is busy or broken (5xx, 529, 408, 409, a cut before the first token).
    Overloaded,
    /// It said nothing in time.
    TimedOut,
    /// Its rate limit, or ours for it.
    RateLimited,
    /// Its account is out of credit.
    Quota,
    /// It does not take our key.
    Unauthorized,
    /// It does not know the model.
    UnknownModel,
    /// The request is at fault, or its answer is: another provider would say the same.
    Refused,
}

impl Trouble {
    /// Every kind, for tables.
    pub const ALL: [Self; 8] = [
        Self::Unreachable,
        Self::Overloaded,
        Self::TimedOut,
        Self::RateLimited,
        Self::Quota,
        Self::Unauthorized,
        Self::UnknownModel,
        Self::Refused,
    ];

    /// What leads to the next provider unless a rule says otherwise.
    pub const DEFAULT_FALLBACK: [Self; 5] =
        [Self::Unreachable, Self::Overloaded, Self::TimedOut, Self::RateLimited, Self::Quota];

    /// The name in configurations.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Overloaded => "overloaded",
            Self::TimedOut => "timed_out",
            Self::RateLimited => "rate_limited",
            Self::Quota => "quota",
            Self::Unauthorized => "unauthorized",
            Self::UnknownModel => "unknown_model",
            Self::Refused => "refused",
        }
    }

    /// Reads a name; what is refused leads to nobody else, so that it cannot be asked for.
    pub fn parse(text: &str) -> Result<Self, InvalidRule> {
        let known = || Self::ALL.into_iter().filter(|trouble| *trouble != Self::Refused);
        known().find(|trouble| trouble.as_str() == text).ok_or_else(|| {
            let names: Vec<_> = known().map(Self::as_str).collect();
            let shown: String = text.chars().take(80).collect();
            InvalidRule(format!("{shown:?} is none of {}", names.join(", ")))
        })
    }
}

/// A provider to be asked, and for which model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Who.
    pub provider: ProviderName,
    /// What the model is called there.
    pub model: String,
}

/// Who is asked for models of some names, in order, and what leads from one to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelRule {
    models: ModelGlob,
    /// With the model's name there, where it has another one.
    chain: Vec<(ProviderName, Option<String>)>,
    fall_back_on: Vec<Trouble>,
}

/// The most providers that one attempt asks.
pub const MOST_CANDIDATES: usize = 8;

impl ModelRule {
    /// A rule; each step is a provider, or a provider and the model's name there, as `azure/my-deployment`.
    pub fn new(models: ModelGlob, chain: &[String], fall_back_on: Vec<Trouble>) -> Result<Self, InvalidRule> {
        if chain.is_empty() || chain.len() > MOST_CANDIDATES {
            return Err(InvalidRule(format!(
                "a rule names 1 to {MOST_CANDIDATES} providers, not {}",
                chain.len()
            )));
        }
        let step = |text: &String| -> Result<_, InvalidRule> {
            let (provider, model) = match text.split_once('/') {
                Some((provider, model)) => (provider, Some(model.to_owned())),
                None => (text.as_str(), None),
            };
            let provider = ProviderName::new(provider).map_err(|error| InvalidRule(error.to_string()))?;
            if model.as_ref().is_some_and(|model| model.is_empty() || model.len() > LONGEST_MODEL) {
                return Err(InvalidRule(format!(
                    "the model's name at {provider} is not 1 to {LONGEST_MODEL} characters long"
                )));
            }
            Ok((provider, model))
        };
        Ok(Self { models, chain: chain.iter().map(step).collect::<Result<_, _>>()?, fall_back_on })
    }

    /// The providers that it names.
    pub fn providers(&self) -> impl Iterator<Item = &ProviderName> {
        self.chain.iter().map(|(provider, _)| provider)
    }
}

/// Every rule of a configuration. The first that a model matches counts; without one, the providers that serve the model
/// are asked in their order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ModelRules {
    rules: Vec<ModelRule>,
    served: Vec<ServedModels>,
}

impl ModelRules {
    /// Rules over these providers; refused where one names a provider that there is not.
    pub fn new(rules: Vec<ModelRule>, served: Vec<ServedModels>) -> Result<Self, InvalidRule> {
        let is_known = |name: &ProviderName| served.iter().any(|known| known.provider == *name);
        if let Some(stranger) = rules.iter().flat_map(ModelRule::providers).find(|name| !is_known(name)) {
            let known: Vec<_> = served.iter().map(|known| known.provider.as_str()).collect();
            return Err(InvalidRule(format!(
                "no provider is called {stranger}; there are {}",
                known.join(", ")
            )));
        }
        Ok(Self { rules, served })
    }

    /// Who is asked for this model, in order, and what leads to the next; empty where nobody serves it.
    pub fn candidates(&self, model: &str) -> (Vec<Candidate>, &[Trouble]) {
        if let Some(rule) = self.rules.iter().find(|rule| rule.models.matches(model)) {
            let named = |(provider, name): &(ProviderName, Option<String>)| Candidate {
                provider: provider.clone(),
                model: name.clone().unwrap_or_else(|| model.to_owned()),
            };
            return (rule.chain.iter().map(named).collect(), &rule.fall_back_on);
        }
        let serves = |served: &&ServedModels| served.models.iter().any(|models| models.matches(model));
        let candidate =
            |served: &ServedModels| Candidate { provider: served.provider.clone(), model: model.to_owned() };
        let serving = self.served.iter().filter(serves).take(MOST_CANDIDATES);
        (serving.map(candidate).collect(), &Trouble::DEFAULT_FALLBACK)
    }
}

/// Which of several providers' errors speaks for all of them: one that passes by itself before one that does not, and of
/// those that pass a rate limit, which costs the task nothing. Answers its place, and the shortest wait among the limits.
pub fn gravest(errors: &[(ErrorClass, Option<Duration>)]) -> Option<(usize, Option<Duration>)> {
    let rank = |class: ErrorClass| match class {
        ErrorClass::RateLimited => 0,
        ErrorClass::Transient | ErrorClass::TimedOut | ErrorClass::Panicked => 1,
        ErrorClass::Permanent => 2,
    };
    let (place, (class, wait)) = errors.iter().enumerate().min_by_key(|(_, (class, _))| rank(*class))?;
    let limits = errors.iter().filter(|(class, _)| *class == ErrorClass::RateLimited);
    let shortest = limits.filter_map(|(_, wait)| *wait).min();
    Some((place, if *class == ErrorClass::RateLimited { shortest } else { *wait }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ProviderName {
        ProviderName::new(text).expect("a name")
    }

    fn glob(text: &str) -> ModelGlob {
        ModelGlob::new(text).expect("a glob")
    }

    fn served(provider: &str, models: &[&str]) -> ServedModels {
        ServedModels { provider: name(provider), models: models.iter().copied().map(glob).collect() }
    }

    fn shown(rules: &ModelRules, model: &str) -> Vec<String> {
        let shown = |candidate: Candidate| format!("{}/{}", candidate.provider, candidate.model);
        rules.candidates(model).0.into_iter().map(shown).collect()
    }

    #[test]
    fn rules_go_before_the_order_of_the_providers() {
        let chain = ["azure/eu-gpt".to_owned(), "main".to_owned()];
        let rule = ModelRule::new(glob("gpt-4*"), &chain, vec![Trouble::Quota]).expect("a rule");
        let providers =
            vec![served("main", &["gpt-*", "o?"]), served("azure", &["*"]), served("own", &["llama/*"])];
        let rules = ModelRules::new(vec![rule], providers).expect("rules");
        for (model, expected) in [
            ("gpt-4o", &["azure/eu-gpt", "main/gpt-4o"][..]),
            ("gpt-3.5-turbo", &["main/gpt-3.5-turbo", "azure/gpt-3.5-turbo"]),
            ("o3", &["main/o3", "azure/o3"]),
            ("llama/70b", &["azure/llama/70b", "own/llama/70b"]),
        ] {
            assert_eq!(shown(&rules, model), expected, "{model}");
        }
        assert_eq!(rules.candidates("gpt-4o").1, [Trouble::Quota]);
        assert_eq!(rules.candidates("o3").1, Trouble::DEFAULT_FALLBACK);
        let picky = ModelRules::new(Vec::new(), vec![served("main", &["gpt-*"])]).expect("rules");
        assert!(picky.candidates("llama").0.is_empty(), "nobody serves it");
    }

    #[test]
    fn what_makes_no_rule_is_named() {
        let rule = |chain: &[&str]| {
            let chain: Vec<_> = chain.iter().map(|step| (*step).to_owned()).collect();
            ModelRule::new(glob("*"), &chain, Vec::new())
        };
        for (chain, part) in [
            (&[][..], "1 to 8"),
            (&["a"; 9], "1 to 8"),
            (&["no spaces"], "provider name"),
            (&["a/"], "characters long"),
        ] {
            let error = rule(chain).expect_err("no rule").to_string();
            assert!(error.contains(part), "{chain:?}: {error}");
        }
        let stranger = ModelRules::new(vec![rule(&["b"]).expect("a rule")], vec![served("a", &["*"])]);
        assert!(stranger.expect_err("no such provider").to_string().contains("called b; there are a"));
        assert!(ModelGlob::new("").is_err() && ModelGlob::new("a b").is_err());
    }

    #[test]
    fn a_refused_request_leads_to_nobody_else() {
        for trouble in Trouble::ALL {
            let may = trouble != Trouble::Refused;
            assert_eq!(Trouble::parse(trouble.as_str()).is_ok(), may, "{trouble:?}");
        }
        let error = Trouble::parse("bad luck").expect_err("no trouble").to_string();
        assert!(error.contains("bad luck") && error.contains("rate_limited"), "{error}");
    }

    #[test]
    fn what_passes_by_itself_speaks_for_all() {
        use ErrorClass::{Permanent, RateLimited, Transient};
        let wait = |seconds| Some(Duration::from_secs(seconds));
        for (errors, expected) in [
            (&[][..], None),
            (&[(Permanent, None)], Some((0, None))),
            (&[(Permanent, None), (Transient, wait(3))], Some((1, wait(3)))),
            (&[(Transient, None), (RateLimited, wait(9)), (RateLimited, wait(4))], Some((1, wait(4)))),
            (&[(RateLimited, None), (Permanent, None)], Some((0, None))),
        ] {
            assert_eq!(gravest(errors), expected, "{errors:?}");
        }
    }
}
