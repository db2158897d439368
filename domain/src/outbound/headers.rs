//! Which request headers a user may set.

use std::collections::BTreeMap;

/// The most headers of one request.
pub const MOST_HEADERS: usize = 20;
/// The longest value, in bytes.
pub const LONGEST_VALUE: usize = 4_096;

/// Those that frame the request, or that are ours to set.
const OURS: [&str; 12] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
];

/// Says what is wrong with these headers, if anything. Values are never repeated: they may be secrets.
pub fn check_headers(headers: &BTreeMap<String, String>) -> Result<(), String> {
    if headers.len() > MOST_HEADERS {
        return Err(format!("headers: {} are more than {MOST_HEADERS}", headers.len()));
    }
    for (name, value) in headers {
        let shown: String = name.chars().take(80).collect();
        let lower = name.to_ascii_lowercase();
        let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if name.is_empty() || name.len() > 100 || !name.chars().all(token) {
            return Err(format!("headers: {shown:?} is not the name of a header"));
        }
        if OURS.contains(&lower.as_str()) || lower.starts_with("webhook-") || lower.starts_with("proxy-") {
            return Err(format!("headers: {shown} is set by the runner and cannot be given"));
        }
        let printable = value.bytes().all(|byte| matches!(byte, b'\t' | b' '..=b'~'));
        if value.len() > LONGEST_VALUE || !printable {
            return Err(format!(
                "headers: the value of {shown} is not printable ASCII of at most {LONGEST_VALUE} bytes"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, value: &str) -> Result<(), String> {
        check_headers(&BTreeMap::from([(name.to_owned(), value.to_owned())]))
    }

    #[test]
    fn headers_of_the_users_own_pass_and_ours_do_not() {
        for (name, value) in [("Authorization", "Bearer x"), ("X-Trace", ""), ("accept", "*/*")] {
            assert_eq!(check(name, value), Ok(()), "{name}");
        }
        for name in [
            "Host",
            "content-length",
            "Transfer-Encoding",
            "Webhook-Signature",
            "Proxy-Authorization",
            "",
            "a b",
            "a:b",
            "ä",
        ] {
            assert!(check(name, "x").is_err(), "{name}");
        }
        for value in ["a\r\nX-Injected: 1", "a\nb", "\0", "ä", &"x".repeat(LONGEST_VALUE + 1)] {
            let refusal = check("X-Key", value).expect_err("refused");
            assert!(refusal.contains("X-Key") && !refusal.contains("Injected"), "{refusal}");
        }
        let many = (0..=MOST_HEADERS).map(|n| (format!("x-{n}"), String::new())).collect();
        assert!(check_headers(&many).expect_err("too many").contains("21"));
    }
}
