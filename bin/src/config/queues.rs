//! What the configuration says of queues, and which of them a worker serves.

use std::collections::BTreeMap;

use anyhow::{Context, Result, anyhow, bail};
use domain::{
    LimitOverrides, Limits, QueueLimits, QueueName, QueueOrder, QueueSettings, RateLimit, RetryTerms,
};

use super::{Layers, parse_duration};

/// The shortest time after which waiting makes a task more urgent.
const SHORTEST_AGEING: std::time::Duration = std::time::Duration::from_secs(1);

/// One entry of `[[queues]]`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    max_running: Option<u32>,
    rate_limit: Option<String>,
    rate_burst: Option<u32>,
    max_attempts: Option<u32>,
    time_limit: Option<String>,
    soft_time_limit: Option<String>,
    priority_ageing: Option<String>,
    fair: Option<bool>,
    retry: Option<RetryTerms>,
}

/// Reads `[[queues]]`: each queue once.
pub(super) fn read_queues(value: toml::Value) -> Result<BTreeMap<QueueName, QueueSettings>> {
    let entries: Vec<Entry> = value.try_into().context("queues: a list of tables with a name is expected")?;
    let mut all = BTreeMap::new();
    for entry in entries {
        let name = QueueName::new(&entry.name)?;
        let settings = entry.read().with_context(|| format!("queue {name}"))?;
        if all.insert(name.clone(), settings).is_some() {
            bail!("queue {name} stands there twice");
        }
    }
    Ok(all)
}

impl Entry {
    fn read(self) -> Result<QueueSettings> {
        let duration = |field: &str, text: Option<String>| -> Result<Option<std::time::Duration>> {
            let Some(text) = text else { return Ok(None) };
            let duration = parse_duration(&text).map_err(|why| anyhow!("{field}: {why}"))?;
            if duration.is_zero() || duration > Limits::LONGEST {
                bail!("{field} = {text:?} is not above 0 and at most {} h", Limits::LONGEST.as_secs() / 3600);
            }
            Ok(Some(duration))
        };
        if self.max_running == Some(0) {
            bail!("max_running = 0 would never let a task run; pause the queue to let it stand still");
        }
        let most = Limits::MOST_ATTEMPTS;
        if self.max_attempts.is_some_and(|attempts| !(1..=most).contains(&attempts)) {
            bail!("max_attempts is not between 1 and {most}");
        }
        let rate = self.rate_limit.map(|text| text.parse::<RateLimit>()).transpose().context("rate_limit")?;
        let rate = match (rate, self.rate_burst) {
            (Some(rate), Some(burst)) => {
                let most = RateLimit::LARGEST_BURST;
                Some(
                    rate.with_burst(burst)
                        .ok_or_else(|| anyhow!("rate_burst is not between 1 and {most}"))?,
                )
            }
            (None, Some(_)) => bail!("rate_burst goes with rate_limit"),
            (rate, None) => rate,
        };
        let defaults = LimitOverrides {
            max_attempts: self.max_attempts,
            soft_time_limit: duration("soft_time_limit", self.soft_time_limit)?,
            time_limit: duration("time_limit", self.time_limit)?,
        };
        if let (Some(soft), Some(hard)) = (defaults.soft_time_limit, defaults.time_limit)
            && soft >= hard
        {
            bail!("soft_time_limit is not below time_limit");
        }
        let ageing = duration("priority_ageing", self.priority_ageing)?;
        if ageing.is_some_and(|every| every < SHORTEST_AGEING) {
            bail!("priority_ageing is less than a second");
        }
        let retry = self.retry.as_ref().map(RetryTerms::policy).transpose().map_err(|wrong| {
            anyhow!(wrong.iter().map(|wrong| format!("retry.{wrong}")).collect::<Vec<_>>().join("; "))
        })?;
        let limits = QueueLimits { max_running: self.max_running, rate };
        Ok(QueueSettings { limits, defaults, retry, ageing, fair: self.fair.unwrap_or(false) })
    }
}

impl Layers {
    /// What is said of queues, as it would stand in the file.
    pub fn show_queues(&self) -> Vec<String> {
        let show = |(name, settings): (&QueueName, &QueueSettings)| {
            let QueueSettings { limits, defaults, retry, ageing, fair } = settings;
            let retry =
                retry.as_ref().and_then(|policy| toml::Value::try_from(RetryTerms::from(policy)).ok());
            let seconds = |limit: Option<std::time::Duration>| {
                limit.map(|limit| format!("\"{}s\"", limit.as_secs_f64()))
            };
            let lines = [
                ("max_running", limits.max_running.map(|most| most.to_string())),
                ("rate_limit", limits.rate.map(|rate| format!("\"{rate}\""))),
                ("rate_burst", limits.rate.map(|rate| rate.burst().to_string())),
                ("max_attempts", defaults.max_attempts.map(|most| most.to_string())),
                ("time_limit", seconds(defaults.time_limit)),
                ("soft_time_limit", seconds(defaults.soft_time_limit)),
                ("priority_ageing", seconds(*ageing)),
                ("fair", fair.then(|| "true".to_owned())),
                ("retry", retry.map(|terms| terms.to_string())),
            ];
            let said = lines.into_iter().filter_map(|(key, value)| Some(format!("{key} = {}\n", value?)));
            format!("[[queues]]\nname = \"{name}\"\n{}", said.collect::<String>())
        };
        self.queues.iter().map(show).collect()
    }

    /// What the worker serves, what it does not, and in which order: `worker_queues`, where a name with a minus before it is
    /// excluded and one with a number behind a colon has that weight, `worker_exclude_queues`, and `worker_queue_order`.
    pub(super) fn served_queues(&self) -> Result<(Vec<QueueName>, Vec<QueueName>, QueueOrder)> {
        let (mut only, mut except): (Vec<QueueName>, Vec<QueueName>) = (Vec::new(), Vec::new());
        let mut weights: Vec<(QueueName, u32)> = Vec::new();
        for key in ["worker_queues", "worker_exclude_queues"] {
            for text in self.list(key) {
                let (text, excluded) = match text.strip_prefix('-') {
                    Some(name) => (name, true),
                    None => (text.as_str(), key == "worker_exclude_queues"),
                };
                let (name, weight) = match text.split_once(':') {
                    Some((name, weight)) if !excluded => (name, Some(self.weight(key, weight)?)),
                    _ => (text, None),
                };
                let name = QueueName::new(name).map_err(|error| self.bad(key, error))?;
                let queues = if excluded { &mut except } else { &mut only };
                if !queues.contains(&name) {
                    weights.extend(weight.map(|weight| (name.clone(), weight)));
                    queues.push(name);
                }
            }
        }
        if !only.is_empty() && only.iter().all(|queue| except.contains(queue)) {
            return Err(self.bad("worker_queues", "every queue that it names is excluded as well"));
        }
        let order = self.text("worker_queue_order");
        let order = match (order, weights.is_empty()) {
            ("priority", true) => QueueOrder::Priority,
            // Weights say it all.
            ("priority" | "weighted", false) => QueueOrder::Weighted(weights),
            ("strict", true) if !only.is_empty() => QueueOrder::Strict(only.clone()),
            ("strict", true) => {
                return Err(
                    self.bad("worker_queue_order", "worker_queues lists no queues, so there is no first one")
                );
            }
            ("strict", false) => {
                return Err(self.bad("worker_queues", "weights do not go with a strict order"));
            }
            ("weighted", true) => {
                return Err(
                    self.bad("worker_queue_order", "worker_queues has no weights; write them as a:3,b:1")
                );
            }
            _ => return Err(self.bad("worker_queue_order", "none of priority, strict and weighted")),
        };
        Ok((only, except, order))
    }

    fn weight(&self, key: &str, text: &str) -> Result<u32> {
        let most = QueueOrder::LARGEST_WEIGHT;
        let weight = text.trim().parse().ok().filter(|weight| (1..=most).contains(weight));
        weight.ok_or_else(|| self.bad(key, format!("the weight {text:?} is not between 1 and {most}")))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use domain::Backoff;

    use super::*;

    fn queue(name: &str) -> QueueName {
        QueueName::new(name).expect("a valid name")
    }

    fn read(text: &str) -> Result<BTreeMap<QueueName, QueueSettings>> {
        let table: toml::Table = toml::from_str(text).expect("TOML");
        read_queues(table["queues"].clone())
    }

    #[test]
    fn queues_are_read_with_their_limits_and_defaults() {
        let all = read(
            "[[queues]]\nname = 'ai'\nmax_running = 5\nrate_limit = '600/m'\nrate_burst = 20\nmax_attempts = 2\n\
             time_limit = '10m'\nsoft_time_limit = '8m'\npriority_ageing = '90s'\n\
             retry = { backoff = 'fixed', delay_seconds = 30 }\n[[queues]]\nname = 'plain'",
        )
        .expect("valid");
        let settings = &all[&queue("ai")];
        assert_eq!(settings.limits.max_running, Some(5));
        let rate = settings.limits.rate.expect("a rate");
        assert_eq!((rate.to_string().as_str(), rate.burst()), ("600/m", 20));
        assert_eq!(settings.defaults.max_attempts, Some(2));
        assert_eq!(settings.defaults.time_limit, Some(Duration::from_secs(600)));
        assert_eq!(settings.ageing, Some(Duration::from_secs(90)));
        let retry = settings.retry.as_ref().expect("a policy");
        assert_eq!(retry.backoff, Backoff::Fixed(Duration::from_secs(30)));
        assert_eq!(all[&queue("plain")], QueueSettings::default());
    }

    #[test]
    fn mistakes_name_the_queue_and_the_field() {
        for (text, named) in [
            ("name = 'a b'", "a b"),
            ("name = 'a'\nmax_runing = 1", "max_runing"),
            ("name = 'a'\nmax_running = 0", "max_running"),
            ("name = 'a'\nmax_running = -1", "max_running"),
            ("name = 'a'\nrate_limit = 'many'", "many"),
            ("name = 'a'\nrate_burst = 3", "rate_burst"),
            ("name = 'a'\nrate_limit = '1/s'\nrate_burst = 0", "rate_burst"),
            ("name = 'a'\nmax_attempts = 101", "max_attempts"),
            ("name = 'a'\ntime_limit = '0s'", "time_limit"),
            ("name = 'a'\ntime_limit = '1m'\nsoft_time_limit = '1m'", "soft_time_limit"),
            ("name = 'a'\npriority_ageing = '10ms'", "priority_ageing"),
            ("name = 'a'\nretry = { on = ['luck'] }", "retry.on"),
            ("name = 'a'\n[[queues]]\nname = 'a'", "twice"),
        ] {
            let error = read(&format!("[[queues]]\n{text}")).expect_err(text);
            let told = format!("{error:#}");
            assert!(told.contains(named), "{told}");
        }
    }

    #[test]
    fn a_minus_or_the_other_key_excludes_a_queue() {
        let served = |queues: &str, excluded: &str| {
            let mut layers = Layers::default();
            layers.flag("worker_queues", Some(queues));
            layers.flag("worker_exclude_queues", Some(excluded));
            let served = layers.served_queues().map_err(|error| error.to_string());
            served.map(|(only, except, _)| (only, except))
        };
        assert_eq!(served("", ""), Ok((vec![], vec![])));
        assert_eq!(served("a,b", ""), Ok((vec![queue("a"), queue("b")], vec![])));
        assert_eq!(served("-reports", ""), Ok((vec![], vec![queue("reports")])));
        assert_eq!(served("", "reports, -b"), Ok((vec![], vec![queue("reports"), queue("b")])));
        assert_eq!(served("a,-b", "b"), Ok((vec![queue("a")], vec![queue("b")])));
        assert!(served("a", "a").is_err_and(|told| told.contains("excluded")));
    }

    #[test]
    fn the_order_across_queues_is_one_of_three() {
        let order = |queues: &str, order: &str| {
            let mut layers = Layers::default();
            layers.flag("worker_queues", Some(queues));
            layers.flag("worker_queue_order", Some(order));
            layers.served_queues().map(|(.., order)| order).map_err(|error| error.to_string())
        };
        let weights = QueueOrder::Weighted(vec![(queue("a"), 3), (queue("b"), 1)]);
        assert_eq!(order("a,b", "priority"), Ok(QueueOrder::Priority));
        assert_eq!(order("b,a", "strict"), Ok(QueueOrder::Strict(vec![queue("b"), queue("a")])));
        assert_eq!(order("a:3,b:1", "weighted"), Ok(weights.clone()));
        assert_eq!(order("a:3,b:1", "priority"), Ok(weights));
        for (queues, name, named) in [
            ("", "strict", "lists no queues"),
            ("a:3,b:1", "strict", "do not go with"),
            ("a,b", "weighted", "a:3,b:1"),
            ("a:0", "weighted", "weight"),
            ("a:many", "weighted", "weight"),
            ("a,b", "random", "none of"),
        ] {
            let told = order(queues, name).expect_err(name);
            assert!(told.contains(named), "{told}");
        }
    }
}
