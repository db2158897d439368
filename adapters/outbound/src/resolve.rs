//! Host names, judged by what they resolve to. The connection is made to the addresses that were judged and to no others,
//! so a name that resolves to something else a moment later (DNS rebinding) gains nothing.

use std::{future::Future, io, net::SocketAddr, pin::Pin, sync::Arc};

use domain::outbound::{InvalidTarget, OutboundRules};
use reqwest::dns::{Name, Resolve, Resolving};

/// What a look-up comes to.
pub type Resolved = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

/// Where names are looked up.
pub trait Lookup: Send + Sync {
    /// Every address of this host; ports are ignored.
    fn lookup(&self, host: &str) -> Resolved;
}

/// The operating system's resolver.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemLookup;

impl Lookup for SystemLookup {
    fn lookup(&self, host: &str) -> Resolved {
        let host = host.to_owned();
        Box::pin(async move { Ok(tokio::net::lookup_host((host, 0)).await?.collect()) })
    }
}

/// A name that leads nowhere that may be called. Found again among the causes of the client's error.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) struct Forbidden(pub(crate) InvalidTarget);

/// Lets through what the rules permit.
pub(crate) struct Guard {
    pub(crate) rules: Arc<OutboundRules>,
    pub(crate) lookup: Arc<dyn Lookup>,
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let (rules, looking) = (Arc::clone(&self.rules), self.lookup.lookup(name.as_str()));
        Box::pin(async move {
            let (mut permitted, mut refusal) = (Vec::new(), None);
            for address in looking.await? {
                match rules.permits(Some(name.as_str()), address.ip()) {
                    Ok(()) => permitted.push(address),
                    Err(error) => refusal = Some(error),
                }
            }
            match refusal {
                Some(refusal) if permitted.is_empty() => Err(Forbidden(refusal).into()),
                _ if permitted.is_empty() => Err(format!("{} has no address", name.as_str()).into()),
                _ => Ok(Box::new(permitted.into_iter()) as reqwest::dns::Addrs),
            }
        })
    }
}
