//! The keys of calls to endpoints of users'.

use anyhow::Result;
use domain::outbound::{Allowed, OutboundRules, Ports, SigningKeys, SigningSecret};
use outbound_adapter::OutboundConfig;

use super::{Layers, parse_size};

impl Layers {
    pub(super) fn outbound(&self) -> Result<OutboundConfig> {
        let each = |name| self.list(name).into_iter();
        let secrets = each("webhook_secrets")
            .map(|text| text.parse::<SigningSecret>().map_err(|error| self.bad("webhook_secrets", error)))
            .collect::<Result<Vec<_>>>()?;
        if secrets.len() > SigningKeys::MOST {
            let (many, most) = (secrets.len(), SigningKeys::MOST);
            return Err(self.bad("webhook_secrets", format!("{many} are more than {most}")));
        }
        let allow = each("outbound_allow")
            .map(|text| text.parse::<Allowed>().map_err(|error| self.bad("outbound_allow", error)))
            .collect::<Result<_>>()?;
        let ports = match self.list("outbound_ports").as_slice() {
            [any] if any == "*" => Ports::Any,
            listed => Ports::These(
                listed
                    .iter()
                    .map(|port| match port.parse() {
                        Ok(port @ 1..) => Ok(port),
                        Ok(0) | Err(_) => {
                            Err(self.bad("outbound_ports", format!("{port:?} is not a port from 1 to 65535")))
                        }
                    })
                    .collect::<Result<_>>()?,
            ),
        };
        let (connect_timeout, timeout) =
            (self.duration("outbound_connect_timeout")?, self.duration("outbound_timeout")?);
        if connect_timeout.is_zero() {
            return Err(self.bad("outbound_connect_timeout", "not above 0"));
        }
        if timeout <= connect_timeout {
            let why = "not above OUTBOUND_CONNECT_TIMEOUT, so that its end would not say whether something was sent";
            return Err(self.bad("outbound_timeout", why));
        }
        Ok(OutboundConfig {
            rules: OutboundRules { allow, ports },
            keys: SigningKeys::new(secrets),
            connect_timeout,
            timeout,
            max_request: self.bytes("outbound_max_request", 100_000_000)?,
            max_response: self.bytes("outbound_max_response", 10_000_000)?,
        })
    }

    /// A size from 1 kB on.
    fn bytes(&self, name: &str, most: u64) -> Result<usize> {
        let bytes = parse_size(self.text(name)).map_err(|why| self.bad(name, why))?;
        if !(1_000..=most).contains(&bytes) {
            return Err(self.bad(name, format!("not between 1KB and {}MB", most / 1_000_000)));
        }
        usize::try_from(bytes).map_err(|error| self.bad(name, error))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn layers(file: &str) -> Layers {
        let mut layers = Layers::default();
        layers.add_file(file, "test.toml").expect("TOML");
        layers
    }

    #[test]
    fn nothing_inside_is_called_unless_it_is_said() {
        let config = Layers::default().config().expect("valid").outbound;
        assert_eq!(config.rules, OutboundRules::default());
        assert!(config.keys.is_empty() && config.timeout > config.connect_timeout);
        let file = "outbound_allow = ['10.0.0.0/8', 'hooks.internal']\noutbound_ports = '*'\noutbound_timeout = '1m'";
        let config = layers(file).config().expect("valid").outbound;
        assert!(config.rules.target("http://10.1.1.1:9/").is_ok());
        assert_eq!((config.rules.allow.len(), config.timeout), (2, Duration::from_secs(60)));
    }

    #[test]
    fn mistakes_are_named() {
        for (file, part) in [
            ("outbound_allow = '10.0.0.0/99'", "10.0.0.0/99"),
            ("outbound_ports = '80,http'", "http"),
            ("outbound_ports = '0'", "65535"),
            ("outbound_timeout = '5s'", "OUTBOUND_CONNECT_TIMEOUT"),
            ("outbound_connect_timeout = '0s'", "above 0"),
            ("outbound_max_request = '7'", "1KB"),
            ("webhook_secrets = 'sesame'", "whsec_"),
        ] {
            let error = layers(file).config().expect_err(file).to_string();
            assert!(error.contains(part) && !error.contains("sesame"), "{error}");
        }
    }

    #[test]
    fn secrets_are_never_shown() {
        let layers = layers(&format!("webhook_secrets = ['{SECRET}', '{SECRET}']"));
        let config = layers.config().expect("valid");
        assert_eq!(config.outbound.keys.of(&domain::Tenant::default()).len(), 2);
        assert!(!format!("{config:?}").contains("MfKQ9r8GKYq"));
        let shown = layers.show();
        assert!(shown.iter().all(|(_, value, _)| !value.contains("MfKQ9r8GKYq")));
        assert!(shown.iter().any(|(key, value, _)| key.name == "webhook_secrets" && value == "(set)"));
    }
}
