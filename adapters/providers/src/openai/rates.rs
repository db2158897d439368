//! What a provider's headers say of its rates: how long it asks us to wait, and what is left.

use std::time::Duration;

use application::ports::Left;
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

/// What is left of the key's quota. Source: <https://platform.openai.com/docs/guides/rate-limits>.
pub(super) fn left(headers: &HeaderMap) -> Left {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse().ok();
    Left {
        requests: number("x-ratelimit-remaining-requests"),
        tokens: number("x-ratelimit-remaining-tokens"),
    }
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

    #[test]
    fn what_is_left_is_read_where_it_is_a_number() {
        let headers = |requests, tokens| {
            let value = |text| HeaderValue::from_static(text);
            let names = ["x-ratelimit-remaining-requests", "x-ratelimit-remaining-tokens"];
            let pairs = names.map(HeaderName::from_static).into_iter().zip([value(requests), value(tokens)]);
            left(&pairs.collect())
        };
        assert_eq!(headers("59", "149984"), Left { requests: Some(59), tokens: Some(149_984) });
        assert_eq!(headers("-1", "many"), Left::default());
        assert_eq!(left(&HeaderMap::new()), Left::default());
    }

    proptest! {
        #[test]
        fn any_header_is_read_or_ignored(value in "[ -~]{0,40}", date in "[ -~]{0,40}") {
            read(&[("retry-after-ms", &value), ("retry-after", &value), ("date", &date)]);
        }
    }
}
