//! Tables for people: aligned columns, numbers to the right.

use std::fmt;

use serde_json::Value;

/// Rows under a head.
#[derive(Debug)]
pub(crate) struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(head: &[&'static str]) -> Self {
        Self { head: head.to_vec(), rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.head.len();
        let cell = |row: &[String], column: usize| row.get(column).cloned().unwrap_or_default();
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| cell(row, column).chars().count());
            cells.chain([self.head[column].len()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let numbers: Vec<bool> = (0..columns)
            .map(|column| self.rows.iter().all(|row| cell(row, column).parse::<f64>().is_ok()))
            .collect();
        let head: Vec<String> = self.head.iter().map(|title| (*title).to_owned()).collect();
        for (line, row) in std::iter::once(&head).chain(&self.rows).enumerate() {
            let mut text = String::new();
            for (column, width) in widths.iter().enumerate() {
                let cell = cell(row, column);
                let gap = " ".repeat(width - cell.chars().count());
                text += &if numbers[column] { format!("{gap}{cell}") } else { format!("{cell}{gap}") };
                text += "  ";
            }
            if line > 0 {
                f.write_str("\n")?;
            }
            f.write_str(text.trim_end())?;
        }
        Ok(())
    }
}

/// A value as it stands in a cell.
pub(crate) fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// A moment without the fractions of its second.
pub(crate) fn moment(value: &Value) -> String {
    match value.as_str() {
        Some(text) => text.split(['.', 'Z']).next().unwrap_or(text).replacen('T', " ", 1),
        None => "-".to_owned(),
    }
}

/// A time such as `1d 2h`, `3m 4s` or `5s`.
pub(crate) fn time(seconds: Option<f64>) -> String {
    let Some(seconds) = seconds.filter(|seconds| *seconds >= 0.0) else { return "-".to_owned() };
    let whole = seconds as u64;
    let units = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let (mut left, mut parts) = (whole, Vec::new());
    for (length, unit) in units {
        if left >= length && parts.len() < 2 {
            parts.push(format!("{}{unit}", left / length));
            left %= length;
        } else if !parts.is_empty() {
            break;
        }
    }
    if parts.is_empty() { format!("{seconds:.1}s") } else { parts.join(" ") }
}

/// Bytes such as `12.3 MB`.
pub(crate) fn size(bytes: Option<u64>) -> String {
    match bytes {
        None => "-".to_owned(),
        Some(bytes) if bytes >= 1_000_000_000 => format!("{:.1} GB", bytes as f64 / 1e9),
        Some(bytes) if bytes >= 1_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        Some(bytes) => format!("{:.0} kB", bytes as f64 / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_numbers_stand_to_the_right() {
        let mut table = Table::new(&["NAME", "N"]);
        table.row(["a".to_owned(), "10".to_owned()]);
        table.row(["longer-ä".to_owned(), "7".to_owned()]);
        assert_eq!(table.to_string(), "NAME       N\na         10\nlonger-ä   7");
    }

    #[test]
    fn times_and_sizes_are_for_people() {
        for (seconds, shown) in [
            (0.25, "0.2s"),
            (5.0, "5s"),
            (65.0, "1m 5s"),
            (3_600.0, "1h"),
            (90_061.0, "1d 1h"),
            (86_465.0, "1d"),
        ] {
            assert_eq!(time(Some(seconds)), shown);
        }
        assert_eq!(time(None), "-");
        assert_eq!((size(Some(12_345_678)), size(Some(4_000))), ("12.3 MB".to_owned(), "4 kB".to_owned()));
        assert_eq!(moment(&Value::from("2027-01-15T08:00:00.000000Z")), "2027-01-15 08:00:00");
    }
}
