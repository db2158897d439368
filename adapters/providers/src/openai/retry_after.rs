//! How long a provider asks us to wait.

use std::time::Duration;

use chrono::DateTime;
use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};

/// `retry-after-ms`, else `Retry-After` as seconds (fractions too) or as an HTTP date. A date is taken relative to the
/// answer's own `Date`: the two come from one clock, which need not be ours. What makes no sense is ignored.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    if let Some(wait) = text("retry-after-ms").and_then(|millis| seconds(millis, 1_000.0)) {
        return Some(wait);
    }
    let wait = text(RETRY_AFTER.as_str())?;
    seconds(wait, 1.0).or_else(|| {
        let until = DateTime::parse_from_rfc2822(wait).ok()?;
        let now = DateTime::parse_from_rfc2822(text(DATE.as_str())?).ok()?;
        // A date in the past asks for no wait.
        Some((until - now).to_std().unwrap_or_default())
    })
}

fn seconds(text: &str, parts: f64) -> Option<Duration> {
    let number: f64 = text.parse().ok()?;
    Duration::try_from_secs_f64(number / parts).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use reqwest::header::{HeaderName, HeaderValue};

    use super::*;

    fn read(headers: &[(&'static str, &str)]) -> Option<Duration> {
        let pairs = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()));
        retry_after(&pairs.collect())
    }

    #[test]
    fn every_form_is_read() {
        let date = ("date", "Wed, 21 Oct 2015 07:28:00 GMT");
        for (headers, millis) in [
            (vec![("retry-after-ms", "1500")], Some(1_500)),
            (vec![("retry-after-ms", "0.5"), ("retry-after", "7")], Some(0)),
            (vec![("retry-after-ms", "soon"), ("retry-after", "7")], Some(7_000)),
            (vec![("retry-after", "7")], Some(7_000)),
            (vec![("retry-after", " 0.25 ")], Some(250)),
            (vec![("retry-after", "Wed, 21 Oct 2015 07:28:30 GMT"), date], Some(30_000)),
            (vec![("retry-after", "Wed, 21 Oct 2015 07:27:00 GMT"), date], Some(0)),
            (vec![("retry-after", "Wed, 21 Oct 2015 07:28:30 GMT")], None),
            (vec![("retry-after", "-1")], None),
            (vec![("retry-after", "NaN")], None),
            (vec![("retry-after", "inf")], None),
            (vec![("retry-after", "1e300")], None),
            (vec![("retry-after", "")], None),
            (vec![], None),
        ] {
            assert_eq!(read(&headers).map(|wait| wait.as_millis()), millis, "{headers:?}");
        }
    }

    proptest! {
        #[test]
        fn any_header_is_read_or_ignored(value in "[ -~]{0,40}", date in "[ -~]{0,40}") {
            read(&[("retry-after-ms", &value), ("retry-after", &value), ("date", &date)]);
        }
    }
}
