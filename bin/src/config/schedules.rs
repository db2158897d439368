//! `[[schedules]]`: schedules that every process knows from its configuration, and the one that comes with the product.

use anyhow::{Context, Result, anyhow, bail};
use application::{schedules::ScheduleRequest, task_types::CLEAN_UP_TYPE};
use domain::schedule::{Cadence, ScheduleName};
use http_adapter::read_configured_schedule;

/// What the built-in schedule is called.
pub(super) const CLEAN_UP: &str = "clean-up";

/// The schedules of a configuration.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ConfiguredSchedules {
    /// By name.
    pub list: Vec<(ScheduleName, ScheduleRequest)>,
    /// Whether the file has such a list, which is whole then: what it does not name any more is removed.
    pub whole: bool,
}

/// The list in order: `name`, and the fields of a schedule over the API.
pub(super) fn read(value: toml::Value) -> Result<ConfiguredSchedules> {
    let toml::Value::Array(items) = value else {
        bail!("schedules: a list of {{ name, cron, task, … }} is expected")
    };
    let mut list: Vec<(ScheduleName, ScheduleRequest)> = Vec::new();
    for item in items {
        let toml::Value::Table(mut fields) = item else { bail!("schedules: each is a table") };
        let name = match fields.remove("name") {
            Some(toml::Value::String(name)) => ScheduleName::new(name)?,
            _ => bail!("schedules: each has a name, such as name = \"nightly\""),
        };
        if list.iter().any(|(known, _)| *known == name) {
            bail!("schedules: two are called {name}");
        }
        let text = serde_json::to_string(&fields).with_context(|| format!("schedules, {name}"))?;
        let request = read_configured_schedule(&text).map_err(|why| anyhow!("schedules, {name}: {why}"))?;
        list.push((name, request));
    }
    Ok(ConfiguredSchedules { list, whole: true })
}

/// The daily clean-up at this time, which the file may describe under its name in its own way.
pub(super) fn with_clean_up(
    mut schedules: ConfiguredSchedules,
    at: &str,
) -> Result<ConfiguredSchedules, String> {
    let named = schedules.list.iter().any(|(name, _)| name.as_str() == CLEAN_UP);
    if named || at == "never" {
        return Ok(schedules);
    }
    Cadence::cron(at, "UTC").map_err(|error| format!("{error}, nor never"))?;
    let body =
        serde_json::json!({ "cron": at, "overlap": "skip", "task": { "type": CLEAN_UP_TYPE, "input": {} } });
    let name = ScheduleName::new(CLEAN_UP).map_err(|error| error.to_string())?;
    schedules.list.push((name, read_configured_schedule(&body.to_string())?));
    Ok(schedules)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedules(text: &str) -> Result<ConfiguredSchedules> {
        let mut table: toml::Table = toml::from_str(text).expect("valid TOML");
        read(table.remove("schedules").expect("the list"))
    }

    const NIGHTLY: &str = "[[schedules]]\nname = 'nightly'\ncron = '30 1 * * *'\ntime_zone = 'Europe/Berlin'\n\
        task = { type = 'demo.noop', priority = 9 }";

    #[test]
    fn schedules_come_from_the_file_beside_the_clean_up() {
        let read = schedules(NIGHTLY).expect("valid");
        assert!(read.whole);
        let both = with_clean_up(read.clone(), "0 2 * * *").expect("valid");
        let names: Vec<_> = both.list.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["nightly", "clean-up"]);
        assert_eq!(both.list[1].1.submission.task_type.as_str(), CLEAN_UP_TYPE);
        assert_eq!(with_clean_up(read.clone(), "never"), Ok(read));
        assert!(with_clean_up(ConfiguredSchedules::default(), "at night").is_err());
    }

    #[test]
    fn mistakes_name_the_schedule_and_the_field() {
        for (text, told) in [
            ("[[schedules]]\ncron = '* * * * *'", "name"),
            ("[[schedules]]\nname = 'a'\ncron = 'soon'\ntask = { prompt = 'x' }", "a: cron"),
            ("[[schedules]]\nname = 'a'\nevery_seconds = 5\ntask = { type = 'x', qeue = 'y' }", "task.qeue"),
            (&format!("{NIGHTLY}\n{NIGHTLY}"), "two are called nightly"),
        ] {
            let error = schedules(text).expect_err(text);
            assert!(format!("{error:#}").contains(told), "{text}: {error:#}");
        }
    }
}
