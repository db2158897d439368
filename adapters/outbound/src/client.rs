//! One call.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use application::ports::{Delivered, NotDelivered, Outbound, Post};
use async_trait::async_trait;
use domain::outbound::{InvalidTarget, Missed, OutboundRules, SigningKeys, Target};
use reqwest::{
    Client,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER},
    redirect::Policy,
};
use tokio::time::{Instant, timeout_at};

use crate::{
    resolve::{Guard, Lookup, SystemLookup},
    trouble::{broken, excerpt, missed, refused},
};

/// Characters of a receiver's answer that are kept with a success.
const KEPT: usize = 1_000;

/// How calls are made.
#[derive(Debug, Clone)]
pub struct OutboundConfig {
    /// What may be called.
    pub rules: OutboundRules,
    /// What signs.
    pub keys: SigningKeys,
    /// Name look-up, TCP and TLS.
    pub connect_timeout: Duration,
    /// The whole call; longer than the connect time-out, so that its end says whether something was sent.
    pub timeout: Duration,
    /// The largest message, in bytes.
    pub max_request: usize,
    /// How much is read of an answer, in bytes.
    pub max_response: usize,
}

impl Default for OutboundConfig {
    fn default() -> Self {
        Self {
            rules: OutboundRules::default(),
            keys: SigningKeys::default(),
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(20),
            max_request: 5_000_000,
            max_response: 64_000,
        }
    }
}

/// Calls over HTTP/1.1, each on a connection of its own: one that was kept open could be closed by the other side at
/// the moment of the next call, and then nobody knows whether that was sent.
pub struct HttpOutbound {
    config: OutboundConfig,
    rules: Arc<OutboundRules>,
    lookup: Arc<dyn Lookup>,
    /// Needs no root certificates, and so runs where none are installed.
    plain: OnceLock<Result<Client, String>>,
    encrypted: OnceLock<Result<Client, String>>,
}

impl HttpOutbound {
    /// Ready to call; makes no connection.
    pub fn new(config: OutboundConfig) -> Self {
        Self::with_lookup(config, Arc::new(SystemLookup))
    }

    /// The same, with another place to look names up in.
    pub fn with_lookup(config: OutboundConfig, lookup: Arc<dyn Lookup>) -> Self {
        let rules = Arc::new(config.rules.clone());
        Self { config, rules, lookup, plain: OnceLock::new(), encrypted: OnceLock::new() }
    }

    /// Made with the first call that needs it: the root certificates take memory.
    fn client(&self, https: bool) -> Result<&Client, NotDelivered> {
        let slot = if https { &self.encrypted } else { &self.plain };
        slot.get_or_init(|| self.build(https)).as_ref().map_err(|error| {
            let message = format!(
                "the HTTP client cannot start, nothing was sent: {error}; for https, root certificates must be installed \
                 (ca-certificates)"
            );
            missed(Missed::NothingSent, message)
        })
    }

    fn build(&self, https: bool) -> Result<Client, String> {
        // Fails only where another provider was installed before, which does as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let guard = Guard { rules: Arc::clone(&self.rules), lookup: Arc::clone(&self.lookup) };
        let mut client = Client::builder()
            .user_agent(concat!("task-runner/", env!("CARGO_PKG_VERSION")))
            .dns_resolver(guard)
            .no_proxy()
            .redirect(Policy::none())
            .retry(reqwest::retry::never())
            .http1_only()
            .pool_max_idle_per_host(0)
            .connect_timeout(self.config.connect_timeout);
        if !https {
            client = client.tls_certs_only([]);
        }
        client.build().map_err(|error| error.to_string())
    }

    /// The request's headers, and whether they hold a signature.
    fn headers(&self, post: &Post) -> Result<(HeaderMap, bool), NotDelivered> {
        let mut headers = HeaderMap::new();
        let mut put = |name: &str, value: &str, sensitive: bool| {
            let wrong = |_| missed(Missed::KeptBack, format!("headers: {name} cannot be sent"));
            let known = HeaderName::try_from(name).map_err(|_| wrong(()))?;
            let mut value = HeaderValue::try_from(value).map_err(|_| wrong(()))?;
            value.set_sensitive(sensitive);
            headers.insert(known, value);
            Ok(())
        };
        for (name, value) in &post.headers {
            put(name, value, true)?;
        }
        let timestamp = post.timestamp.timestamp();
        put(CONTENT_TYPE.as_str(), "application/json", false)?;
        put("webhook-id", post.id.as_str(), false)?;
        put("webhook-timestamp", &timestamp.to_string(), false)?;
        let body = post.body.as_str();
        let signature = self.config.keys.sign(&post.tenant, &post.id, timestamp, body);
        if let Some(signature) = &signature {
            put("webhook-signature", signature, true)?;
        }
        Ok((headers, signature.is_some()))
    }
}

#[async_trait]
impl Outbound for HttpOutbound {
    fn target(&self, url: &str) -> Result<Target, InvalidTarget> {
        self.rules.target(url)
    }

    fn largest(&self) -> usize {
        self.config.max_request
    }

    async fn post(&self, post: &Post) -> Result<Delivered, NotDelivered> {
        let (size, most) = (post.body.as_str().len(), self.config.max_request);
        if size > most {
            let message =
                format!("the message holds {size} bytes, and at most {most} are sent (outbound_max_request)");
            return Err(missed(Missed::KeptBack, message));
        }
        let (headers, signed) = self.headers(post)?;
        let client = self.client(post.target.is_https())?;
        let until = Instant::now() + self.config.timeout;
        let call =
            client.post(post.target.url().clone()).headers(headers).body(post.body.as_str().to_owned());
        let mut response = match timeout_at(until, call.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(broken(post, error, self.config.connect_timeout)),
            Err(_) => {
                let message = format!(
                    "{} did not answer within {} s, so it may have got the message; find out there, then retry or \
                     discard the task",
                    post.target.shown(),
                    self.config.timeout.as_secs_f64()
                );
                return Err(missed(Missed::MaybeSent, message));
            }
        };
        // The status is the answer. What more it says is of use to people, as far as it comes in time.
        let mut body = Vec::new();
        while let Ok(Ok(Some(bytes))) = timeout_at(until, response.chunk()).await {
            let room = self.config.max_response - body.len();
            body.extend_from_slice(&bytes[..bytes.len().min(room)]);
            if bytes.len() >= room {
                break;
            }
        }
        let text = String::from_utf8_lossy(&body);
        let status = response.status();
        if status.is_success() {
            return Ok(Delivered { status: status.as_u16(), text: excerpt(post, &text, KEPT), signed });
        }
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let error = refused(post, status, header(LOCATION).unwrap_or_default(), &text);
        let asked = header(RETRY_AFTER).and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
        Err(NotDelivered { retry_after: asked, ..error })
    }

    fn describe(&self) -> String {
        match self.config.keys.of(&domain::Tenant::default()).len() {
            0 => "not signed (set WEBHOOK_SECRETS)".to_owned(),
            1 => "signed with 1 secret".to_owned(),
            many => format!("signed with {many} secrets"),
        }
    }
}
