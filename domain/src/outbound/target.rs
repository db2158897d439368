//! Which URLs may be called.

use std::{fmt, net::IpAddr};

use url::{Host, Url};

use super::address::{AddressClass, Allowed, classify};

/// A URL that may be called as far as its text tells: what its host name resolves to is judged when a connection is
/// made, by [`OutboundRules::permits`].
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    url: Url,
}

impl Target {
    /// Longer URLs are refused.
    pub const MAX_LENGTH: usize = 2_000;

    /// The whole URL. Its path and query may be secrets of the receiver's.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// What may be shown in messages and logs: scheme, host and port.
    pub fn shown(&self) -> String {
        self.url.origin().ascii_serialization()
    }

    /// Whether the connection is encrypted.
    pub fn is_https(&self) -> bool {
        self.url.scheme() == "https"
    }
}

/// Without path and query.
impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({})", self.shown())
    }
}

/// Why a URL may not be called. The texts name scheme, host and port, never the rest, which may be secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTarget {
    /// Not a URL.
    #[error("it is no URL ({0}); write it as https://example.org/hook")]
    NotAUrl(String),
    /// Too long.
    #[error("it is longer than {} bytes", Target::MAX_LENGTH)]
    TooLong,
    /// Another scheme.
    #[error("it starts with {0}:, and only http: and https: URLs are called")]
    Scheme(String),
    /// A user name or a password in it.
    #[error("it holds a user name or password; send credentials in a header instead")]
    Credentials,
    /// A port that is not called.
    #[error("port {port} is not called; only {ports} (outbound_ports in the configuration)")]
    Port {
        /// The URL's.
        port: u16,
        /// Those that may be.
        ports: String,
    },
    /// An address or a host inside.
    #[error("{host} is {class}, which is not called unless outbound_allow in the configuration names it")]
    Forbidden {
        /// The URL's, or the address that it resolved to.
        host: String,
        /// What it is.
        class: &'static str,
    },
}

/// The ports that may be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ports {
    /// All of them.
    Any,
    /// These.
    These(Vec<u16>),
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::These(ports) => {
                f.write_str(&ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", "))
            }
        }
    }
}

/// What may be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboundRules {
    /// Beside what is public.
    pub allow: Vec<Allowed>,
    /// On these ports.
    pub ports: Ports,
}

impl Default for OutboundRules {
    /// Public addresses, on the usual ports of HTTP.
    fn default() -> Self {
        Self { allow: Vec::new(), ports: Ports::These(vec![80, 443, 8080, 8443]) }
    }
}

impl OutboundRules {
    /// Reads a URL of a user's. Addresses in every spelling that a browser takes (`127.1`, `0x7f000001`, `[::ffff:7f00:1]`)
    /// are judged here; host names by [`OutboundRules::permits`] once they are resolved.
    pub fn target(&self, text: &str) -> Result<Target, InvalidTarget> {
        if text.len() > Target::MAX_LENGTH {
            return Err(InvalidTarget::TooLong);
        }
        let url = Url::parse(text).map_err(|error| InvalidTarget::NotAUrl(error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(InvalidTarget::Scheme(url.scheme().chars().take(20).collect()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(InvalidTarget::Credentials);
        }
        match (&self.ports, url.port_or_known_default()) {
            (Ports::These(ports), Some(port)) if !ports.contains(&port) => {
                return Err(InvalidTarget::Port { port, ports: self.ports.to_string() });
            }
            (Ports::Any | Ports::These(_), _) => {}
        }
        match url.host() {
            None => return Err(InvalidTarget::NotAUrl("empty host".to_owned())),
            Some(Host::Ipv4(address)) => self.permits(None, address.into())?,
            Some(Host::Ipv6(address)) => self.permits(None, address.into())?,
            Some(Host::Domain(name)) => {
                let name = bare(name);
                if (name == "localhost" || name.ends_with(".localhost")) && !self.allows_host(&name) {
                    // It may still be allowed by its address, which every system knows.
                    let local = [IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])];
                    if local.iter().all(|address| self.permits(None, *address).is_err()) {
                        let class = AddressClass::Loopback.as_str();
                        return Err(InvalidTarget::Forbidden { host: name, class });
                    }
                }
            }
        }
        Ok(Target { url })
    }

    /// Whether a connection to this address may be made, for this host name if there is one.
    pub fn permits(&self, host: Option<&str>, address: IpAddr) -> Result<(), InvalidTarget> {
        let class = classify(address);
        let allowed = class == AddressClass::Public
            || host.is_some_and(|host| self.allows_host(&bare(host)))
            || self
                .allow
                .iter()
                .any(|entry| matches!(entry, Allowed::Block(block) if block.contains(address)));
        if allowed {
            return Ok(());
        }
        let host = match host {
            Some(host) => format!("{host} ({address})"),
            None => address.to_string(),
        };
        Err(InvalidTarget::Forbidden { host, class: class.as_str() })
    }

    fn allows_host(&self, name: &str) -> bool {
        self.allow.iter().any(|entry| match entry {
            Allowed::Host(host) => host == name,
            Allowed::Below(domain) => name.ends_with(domain.as_str()),
            Allowed::Block(_) => false,
        })
    }
}

fn bare(host: &str) -> String {
    host.trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(allow: &[&str]) -> OutboundRules {
        let allow = allow.iter().map(|entry| entry.parse().expect("an entry")).collect();
        OutboundRules { allow, ports: Ports::Any }
    }

    #[test]
    fn urls_are_judged_in_every_spelling() {
        for good in [
            "https://example.org",
            "http://example.org:80/a?b=c#d",
            "https://1.1.1.1/",
            "HTTPS://EXAMPLE.org",
        ] {
            assert!(OutboundRules::default().target(good).is_ok(), "{good}");
        }
        for (bad, part) in [
            ("example.org/hook", "no URL"),
            ("", "no URL"),
            ("https://", "no URL"),
            ("ftp://example.org", "ftp:"),
            ("file:///etc/passwd", "file:"),
            ("gopher://example.org", "gopher:"),
            ("https://user@example.org", "user name"),
            ("https://user:secret@example.org", "user name"),
            ("https://example.org:22/", "port 22"),
            ("http://127.0.0.1/", "loopback"),
            ("http://127.1/", "loopback"),
            ("http://127.0.0.1./", "loopback"),
            ("http://%31%32%37.0.0.1/", "loopback"),
            ("http://2130706433/", "loopback"),
            ("http://0x7f.0.0.1/", "loopback"),
            ("http://0177.0.0.1/", "loopback"),
            ("http://１２７.0.0.1/", "loopback"),
            ("http://[::1]/", "loopback"),
            ("http://[::ffff:127.0.0.1]/", "loopback"),
            ("http://[::ffff:7f00:1]/", "loopback"),
            ("http://localhost/", "loopback"),
            ("http://LOCALHOST./", "loopback"),
            ("http://a.localhost/", "loopback"),
            ("http://0/", "unspecified"),
            ("http://10.0.0.1/", "private"),
            ("http://169.254.169.254/latest/meta-data", "metadata"),
            ("http://[fd00:ec2::254]/", "metadata"),
            ("http://[fe80::1]/", "link-local"),
            ("http://100.64.0.1/", "carrier"),
            ("http://224.0.0.1/", "multicast"),
        ] {
            let refusal = OutboundRules::default().target(bad).expect_err(bad).to_string();
            assert!(refusal.contains(part), "{bad}: {refusal}");
            assert!(!refusal.contains("secret"), "{refusal}");
        }
        let long = format!("https://example.org/{}", "x".repeat(Target::MAX_LENGTH));
        assert_eq!(OutboundRules::default().target(&long), Err(InvalidTarget::TooLong));
    }

    #[test]
    fn the_configuration_allows_blocks_and_hosts() {
        let rules = rules(&["10.0.0.0/8", "hooks.internal", "*.svc.local"]);
        assert!(rules.target("http://10.1.2.3:9/").is_ok());
        assert!(rules.target("http://[::ffff:10.1.2.3]/").is_ok());
        assert!(rules.target("http://192.168.0.1/").is_err());
        let inside = IpAddr::from([192, 168, 0, 1]);
        for (host, allowed) in [
            ("hooks.internal", true),
            ("Hooks.Internal.", true),
            ("evil.hooks.internal", false),
            ("a.svc.local", true),
            ("svc.local", false),
            ("notsvc.local", false),
        ] {
            assert_eq!(rules.permits(Some(host), inside).is_ok(), allowed, "{host}");
        }
        assert!(rules.permits(Some("example.org"), IpAddr::from([10, 0, 0, 9])).is_ok());
        let refusal = rules.permits(Some("example.org"), IpAddr::from([127, 0, 0, 1])).expect_err("loopback");
        assert!(
            refusal.to_string().starts_with("example.org (127.0.0.1) is a loopback address"),
            "{refusal}"
        );
    }

    #[test]
    fn localhost_is_allowed_by_name_or_by_address() {
        for allow in ["localhost", "127.0.0.0/8", "::1"] {
            assert!(rules(&[allow]).target("http://localhost:5000/").is_ok(), "{allow}");
        }
        assert!(rules(&["10.0.0.0/8"]).target("http://localhost:5000/").is_err());
    }

    #[test]
    fn what_is_shown_of_a_target_holds_no_secret() {
        let target =
            OutboundRules::default().target("https://example.org/T0/secret?key=secret").expect("good");
        assert_eq!(target.shown(), "https://example.org");
        assert!(!format!("{target:?}").contains("secret"));
    }
}
