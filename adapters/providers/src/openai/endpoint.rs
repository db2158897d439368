//! Which URL is asked, and how the key is sent: OpenAI's form, and Azure's two.

use reqwest::{
    Url,
    header::{AUTHORIZATION, HeaderName, HeaderValue},
};

use super::config::{OpenAiConfigError, Secret};

/// A checked base URL.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    base: Url,
    azure: bool,
    /// Azure's older form: `…/openai/deployments/{model}/chat/completions`.
    by_deployment: bool,
}

const CALL: &str = "/chat/completions";
const AZURE_HOSTS: [&str; 3] =
    [".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com"];

impl Endpoint {
    /// `azure` says that it is, where the URL does not show it.
    pub(super) fn new(text: &str, azure: bool) -> Result<Self, OpenAiConfigError> {
        let text = text.trim();
        let refuse = |problem: &str| {
            Err(OpenAiConfigError::BaseUrl { url: without_secrets(text), problem: problem.to_owned() })
        };
        let mut base = match Url::parse(text) {
            Ok(base) => base,
            Err(error) => {
                return refuse(&format!("is no URL ({error}); write it as https://api.openai.com/v1"));
            }
        };
        if !matches!(base.scheme(), "http" | "https") {
            return refuse("does not start with http:// or https://; write it as https://api.openai.com/v1");
        }
        if !base.username().is_empty() || base.password().is_some() {
            return refuse("holds a user name or password; give the secret as the API key instead");
        }
        base.set_fragment(None);
        let path = base.path().trim_end_matches('/');
        let path = path.strip_suffix(CALL).unwrap_or(path).trim_end_matches('/').to_owned();
        base.set_path(&path);
        let versioned = base.query_pairs().any(|(name, _)| name == "api-version");
        let host = base.host_str().unwrap_or_default().to_ascii_lowercase();
        let azure = azure || versioned || AZURE_HOSTS.iter().any(|suffix| host.ends_with(suffix));
        let by_deployment = azure && (path.is_empty() || path.ends_with("/openai"));
        if by_deployment && !versioned {
            return refuse(
                "is Azure's, without a version; add ?api-version=2024-10-21, or end it in /openai/v1",
            );
        }
        Ok(Self { base, azure, by_deployment })
    }

    /// Where a completion of `model` is asked for.
    pub(super) fn completions(&self, model: &str) -> Url {
        self.url(model, &["chat", "completions"])
    }

    /// Where vectors by `model` are asked for.
    pub(super) fn embeddings(&self, model: &str) -> Url {
        self.url(model, &["embeddings"])
    }

    /// Where files are kept, or one of them.
    pub(super) fn files(&self, path: &[&str]) -> Url {
        self.beside("files", path)
    }

    /// Where batches are made, or one of them.
    pub(super) fn batches(&self, path: &[&str]) -> Url {
        self.beside("batches", path)
    }

    /// What belongs to no model.
    fn beside(&self, what: &str, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            if self.by_deployment && !self.base.path().ends_with("/openai") {
                segments.push("openai");
            }
            segments.push(what).extend(path);
        }
        url
    }

    fn url(&self, model: &str, call: &[&str]) -> Url {
        let mut url = self.base.clone();
        // A URL with a host always has path segments.
        if let Ok(mut path) = url.path_segments_mut() {
            if self.by_deployment {
                if !self.base.path().ends_with("/openai") {
                    path.push("openai");
                }
                path.extend(["deployments", model]);
            }
            path.extend(call);
        }
        url
    }

    /// The header that carries the key, marked as sensitive.
    pub(super) fn authorization(&self, key: &Secret) -> Result<(HeaderName, HeaderValue), OpenAiConfigError> {
        if key.expose().is_empty() {
            return Err(OpenAiConfigError::ApiKey("empty"));
        }
        let (name, value) = if self.azure {
            (HeaderName::from_static("api-key"), key.expose().to_owned())
        } else {
            (AUTHORIZATION, format!("Bearer {}", key.expose()))
        };
        let refused = |_| OpenAiConfigError::ApiKey("not plain printable text");
        let mut value = HeaderValue::try_from(value).map_err(refused)?;
        value.set_sensitive(true);
        Ok((name, value))
    }

    /// Without the query, which may hold secrets.
    pub(super) fn shown(&self) -> String {
        without_secrets(self.base.as_str())
    }

    pub(super) fn is_https(&self) -> bool {
        self.base.scheme() == "https"
    }

    /// Whether the server is on this machine: then no proxy is asked.
    pub(super) fn is_local(&self) -> bool {
        let host = self.base.host_str().unwrap_or_default().trim_matches(['[', ']']);
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

/// What may be shown of a URL, or of what was meant to be one: no query and nothing that could be user information.
fn without_secrets(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://{rest}"),
        (None, Some((_, rest))) => rest.to_owned(),
        (_, None) => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_has_its_path() {
        for (base, url) in [
            ("https://api.openai.com/v1", "https://api.openai.com/v1/chat/completions"),
            ("https://api.openai.com/v1/", "https://api.openai.com/v1/chat/completions"),
            ("http://localhost:4010", "http://localhost:4010/chat/completions"),
            ("http://localhost:4010/v1/chat/completions", "http://localhost:4010/v1/chat/completions"),
            ("http://gateway/llm/v1?team=a", "http://gateway/llm/v1/chat/completions?team=a"),
            ("https://x.openai.azure.com/openai/v1", "https://x.openai.azure.com/openai/v1/chat/completions"),
            (
                "https://x.openai.azure.com?api-version=2024-10-21",
                "https://x.openai.azure.com/openai/deployments/m%2F1/chat/completions?api-version=2024-10-21",
            ),
            (
                "http://localhost:1/openai/?api-version=1",
                "http://localhost:1/openai/deployments/m%2F1/chat/completions?api-version=1",
            ),
            (
                "https://x.openai.azure.com/openai/deployments/fixed?api-version=1",
                "https://x.openai.azure.com/openai/deployments/fixed/chat/completions?api-version=1",
            ),
        ] {
            assert_eq!(Endpoint::new(base, false).unwrap().completions("m/1").as_str(), url, "{base}");
        }
    }

    #[test]
    fn vectors_have_a_path_of_their_own() {
        let url = |base| Endpoint::new(base, false).unwrap().embeddings("m").to_string();
        assert_eq!(url("https://api.openai.com/v1"), "https://api.openai.com/v1/embeddings");
        assert_eq!(
            url("https://x.openai.azure.com?api-version=1"),
            "https://x.openai.azure.com/openai/deployments/m/embeddings?api-version=1"
        );
    }

    #[test]
    fn azure_behind_another_name_can_be_said() {
        let endpoint = Endpoint::new("https://gateway.example/openai/v1", true).unwrap();
        assert_eq!(endpoint.authorization(&Secret::new("k")).unwrap().0, "api-key");
        let error = Endpoint::new("https://gateway.example", true).unwrap_err().to_string();
        assert!(error.contains("api-version"), "{error}");
    }

    #[test]
    fn the_key_goes_where_the_server_looks_for_it() {
        let header = |base: &str| {
            let (name, value) = Endpoint::new(base, false).unwrap().authorization(&Secret::new("k")).unwrap();
            assert!(value.is_sensitive());
            format!("{name}: {}", value.to_str().unwrap())
        };
        assert_eq!(header("https://api.openai.com/v1"), "authorization: Bearer k");
        assert_eq!(header("https://x.openai.azure.com/openai/v1"), "api-key: k");
        assert_eq!(header("http://localhost?api-version=1"), "api-key: k");
    }

    #[test]
    fn what_cannot_work_is_refused_without_showing_secrets() {
        for (base, part) in [
            ("", "is no URL"),
            ("localhost:4010", "does not start with http"),
            ("me:geheim@nowhere:port?key=geheim", "does not start with http"),
            ("http://me:geheim@nowhere:port?key=geheim", "is no URL"),
            ("ftp://me:geheim@host/?key=geheim", "does not start with http"),
            ("https://me:geheim@host/v1?key=geheim", "holds a user name or password"),
            ("https://x.openai.azure.com", "add ?api-version="),
        ] {
            let error = Endpoint::new(base, false).unwrap_err().to_string();
            assert!(error.contains(part), "{base}: {error}");
            assert!(!error.contains("geheim"), "{error}");
        }
        let plain = Endpoint::new("http://localhost", false).unwrap();
        assert_eq!(plain.authorization(&Secret::new(" ")), Err(OpenAiConfigError::ApiKey("empty")));
        let error = plain.authorization(&Secret::new("ge\nheim")).unwrap_err().to_string();
        assert!(error.contains("on one line") && !error.contains("heim"), "{error}");
    }

    #[test]
    fn it_is_shown_without_its_query() {
        assert_eq!(Endpoint::new("http://h:1/v1/?key=geheim", false).unwrap().shown(), "http://h:1/v1");
    }

    #[test]
    fn local_servers_are_known() {
        let local = |base: &str| Endpoint::new(base, false).unwrap().is_local();
        assert!(local("http://localhost:1") && local("http://127.0.0.2") && local("http://[::1]:8080/v1"));
        assert!(!local("http://10.0.0.1") && !local("https://api.openai.com/v1"));
    }
}
