//! What is measured against what, and the table of it.

use std::fmt::Write as _;

use serde::Serialize;

use crate::stats;

/// One figure of a row, over all repetitions.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    /// Such as `P2`.
    pub row: &'static str,
    /// What exactly, with what matters of how.
    pub setting: String,
    /// By which comparisons with peers find it.
    pub id: Option<&'static str>,
    /// Of the values, such as `tasks/s`.
    pub unit: &'static str,
    /// One of each repetition.
    pub values: Vec<f64>,
    /// What it is held against.
    pub against: Option<Against>,
    /// What it should be.
    pub goal: Option<Goal>,
}

/// A limit or a peer, measured in the same run.
#[derive(Debug, Clone, Serialize)]
pub struct Against {
    /// Who or what.
    pub name: String,
    /// Its median, in the line's unit. `None`: it was not measured in this run.
    pub median: Option<f64>,
}

/// What a figure should be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "value")]
pub enum Goal {
    /// The median itself, at least.
    AtLeast(f64),
    /// The median itself, at most.
    AtMost(f64),
    /// The median over that of the limit or peer, at least.
    TimesAtLeast(f64),
    /// The median over that of the limit or peer, at most.
    TimesAtMost(f64),
}

/// How a figure stands to its goal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It has none.
    NoGoal,
    /// Reached.
    Met,
    /// Not reached.
    Missed,
    /// What it is held against was not measured, or it was not measured itself.
    Unknown,
}

impl Line {
    /// A figure on its own.
    pub fn new(row: &'static str, setting: impl Into<String>, unit: &'static str, values: Vec<f64>) -> Self {
        Self { row, setting: setting.into(), id: None, unit, values, against: None, goal: None }
    }

    /// Gives it a name for comparisons with peers.
    #[must_use]
    pub fn id(mut self, id: &'static str) -> Self {
        self.id = Some(id);
        self
    }

    /// Holds it against a limit or a peer.
    #[must_use]
    pub fn against(mut self, name: impl Into<String>, values: &[f64]) -> Self {
        self.against = Some(Against { name: name.into(), median: stats::median(values) });
        self
    }

    /// Says what it should be.
    #[must_use]
    pub fn goal(mut self, goal: Goal) -> Self {
        self.goal = Some(goal);
        self
    }

    /// The middle of the repetitions.
    pub fn median(&self) -> Option<f64> {
        stats::median(&self.values).filter(|median| median.is_finite())
    }

    /// The median over that of the limit or peer.
    pub fn ratio(&self) -> Option<f64> {
        let other = self.against.as_ref()?.median.filter(|other| *other > 0.0)?;
        Some(self.median()? / other)
    }

    /// How it stands to its goal.
    pub fn verdict(&self) -> Verdict {
        let Some(goal) = self.goal else { return Verdict::NoGoal };
        let met = match goal {
            Goal::AtLeast(bound) => self.median().map(|median| median >= bound),
            Goal::AtMost(bound) => self.median().map(|median| median <= bound),
            Goal::TimesAtLeast(bound) => self.ratio().map(|ratio| ratio >= bound),
            Goal::TimesAtMost(bound) => self.ratio().map(|ratio| ratio <= bound),
        };
        match met {
            Some(true) => Verdict::Met,
            Some(false) => Verdict::Missed,
            None => Verdict::Unknown,
        }
    }

    /// For machines: what it was given and what follows from it.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "row": self.row, "setting": self.setting, "unit": self.unit, "values": self.values,
            "median": self.median(), "spread": stats::spread(&self.values),
            "against": self.against, "ratio": self.ratio(), "goal": self.goal, "verdict": self.verdict(),
        })
    }
}

impl Goal {
    fn text(self) -> String {
        match self {
            Self::AtLeast(bound) => format!("≥ {}", number(bound)),
            Self::AtMost(bound) => format!("≤ {}", number(bound)),
            Self::TimesAtLeast(bound) => format!("≥ {} ×", number(bound)),
            Self::TimesAtMost(bound) => format!("≤ {} ×", number(bound)),
        }
    }
}

impl Verdict {
    fn text(self) -> &'static str {
        match self {
            Self::NoGoal => "",
            Self::Met => "yes",
            Self::Missed => "NO",
            Self::Unknown => "not measured",
        }
    }
}

const HEADS: [&str; 8] = ["row", "setting", "median", "spread", "limit or peer", "ratio", "goal", "met"];

/// All lines as one Markdown table, its columns as wide as they need to be.
pub fn table(lines: &[Line]) -> String {
    let rows: Vec<[String; 8]> = lines.iter().map(cells).collect();
    let mut widths = HEADS.map(|head| head.chars().count());
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let mut write = |row: &[String; 8]| {
        for (cell, width) in row.iter().zip(widths) {
            // Writing to a string cannot fail.
            let _ = write!(text, "| {cell:<width$} ");
        }
        text.push_str("|\n");
    };
    write(&HEADS.map(str::to_owned));
    write(&widths.map(|width| "-".repeat(width)));
    rows.iter().for_each(write);
    text
}

fn cells(line: &Line) -> [String; 8] {
    let with_unit = |value: f64| format!("{} {}", number(value), line.unit).trim_end().to_owned();
    let spread = match stats::spread(&line.values) {
        Some((smallest, largest)) if line.values.len() > 1 => {
            format!("[{}–{}]", number(smallest), number(largest))
        }
        _ => String::new(),
    };
    let against = line.against.as_ref().map(|against| match against.median {
        Some(median) => format!("{} {}", against.name, number(median)),
        None => against.name.clone(),
    });
    [
        line.row.to_owned(),
        line.setting.clone(),
        line.median().map(with_unit).unwrap_or_else(|| "–".to_owned()),
        spread,
        against.unwrap_or_default(),
        line.ratio().map(number).unwrap_or_default(),
        line.goal.map(Goal::text).unwrap_or_default(),
        line.verdict().text().to_owned(),
    ]
}

/// Three significant digits, and thousands apart.
fn number(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    match value.abs() {
        0.0 => "0".to_owned(),
        large if large >= 999.5 => thousands(value.round() as i64),
        large if large >= 99.95 => format!("{value:.0}"),
        large if large >= 9.995 => trimmed(format!("{value:.1}")),
        large if large >= 0.1 => trimmed(format!("{value:.2}")),
        _ => trimmed(format!("{value:.4}")),
    }
}

/// A number of tasks and the like, thousands apart.
pub fn counted(number: usize) -> String {
    thousands(i64::try_from(number).unwrap_or(i64::MAX))
}

/// A number of connections, in words.
pub fn connections(number: usize) -> String {
    if number == 1 { "1 connection".to_owned() } else { format!("{} connections", counted(number)) }
}

fn trimmed(text: String) -> String {
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn thousands(value: i64) -> String {
    let digits = value.unsigned_abs().to_string();
    let mut text = if value < 0 { "-".to_owned() } else { String::new() };
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(values: &[f64]) -> Line {
        Line::new("P2", "drain", "tasks/s", values.to_vec())
    }

    #[test]
    fn goals_of_the_median_itself() {
        let measured = line(&[90.0, 100.0, 120.0]);
        for (goal, verdict) in [
            (Goal::AtLeast(100.0), Verdict::Met),
            (Goal::AtLeast(100.1), Verdict::Missed),
            (Goal::AtMost(100.0), Verdict::Met),
            (Goal::AtMost(99.9), Verdict::Missed),
        ] {
            assert_eq!(measured.clone().goal(goal).verdict(), verdict, "{goal:?}");
        }
        assert_eq!(measured.verdict(), Verdict::NoGoal);
    }

    #[test]
    fn goals_of_a_ratio_compare_medians() {
        let measured = line(&[90.0, 100.0, 120.0]).against("plain SQL", &[190.0, 200.0, 500.0]);
        assert_eq!(measured.ratio(), Some(0.5));
        for (goal, verdict) in [
            (Goal::TimesAtLeast(0.5), Verdict::Met),
            (Goal::TimesAtLeast(0.51), Verdict::Missed),
            (Goal::TimesAtMost(0.5), Verdict::Met),
            (Goal::TimesAtMost(0.49), Verdict::Missed),
        ] {
            assert_eq!(measured.clone().goal(goal).verdict(), verdict, "{goal:?}");
        }
    }

    #[test]
    fn what_was_not_measured_is_neither_met_nor_missed() {
        let goal = Goal::TimesAtLeast(60.0);
        assert_eq!(line(&[1.0]).against("seeds", &[]).goal(goal).verdict(), Verdict::Unknown);
        assert_eq!(line(&[1.0]).against("seeds", &[0.0]).goal(goal).verdict(), Verdict::Unknown);
        assert_eq!(line(&[]).goal(Goal::AtLeast(1.0)).verdict(), Verdict::Unknown);
        assert_eq!(line(&[f64::NAN]).goal(Goal::AtMost(1.0)).verdict(), Verdict::Unknown);
    }

    #[test]
    fn numbers_are_short_and_readable() {
        for (value, text) in [
            (0.0, "0"),
            (0.01234, "0.0123"),
            (0.5, "0.5"),
            (1.305, "1.3"),
            (12.34, "12.3"),
            (123.4, "123"),
            (999.6, "1,000"),
            (1_234_567.0, "1,234,567"),
            (f64::NAN, "–"),
        ] {
            assert_eq!(number(value), text, "{value}");
        }
    }

    #[test]
    fn the_table_has_one_line_for_each_figure() {
        let lines = [
            line(&[90.0, 100.0, 120.0]).against("plain SQL", &[200.0]).goal(Goal::TimesAtLeast(0.7)),
            line(&[1.0]),
        ];
        let table = table(&lines);
        let rows: Vec<_> = table.lines().collect();
        assert_eq!(rows.len(), 4);
        for part in ["100 tasks/s", "[90–120]", "plain SQL 200", "0.5", "≥ 0.7 ×", "NO"] {
            assert!(rows[2].contains(part), "{part} in {}", rows[2]);
        }
        let widths: Vec<_> = rows.iter().map(|row| row.chars().count()).collect();
        assert!(widths.iter().all(|width| *width == widths[0]), "{widths:?}");
    }
}
