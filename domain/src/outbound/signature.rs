//! Signatures as in Standard Webhooks
//! (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>).

use std::{fmt, str::FromStr};

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::{TaskId, Tenant, Timestamp};

/// What `webhook-id` is: names one message, whatever the number of tries, so that receivers can drop repeats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageId(String);

impl MessageId {
    /// A task's message. Its time of submission tells it from a task of the same number in another installation.
    pub fn of_task(id: TaskId, created_at: Timestamp) -> Self {
        Self(format!("msg_{}_{:x}", id.0, created_at.timestamp_micros()))
    }

    /// As it is sent.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A symmetric key, written `whsec_` and base64. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningSecret(Vec<u8>);

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Why a secret cannot be used. The text does not hold it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSecret {
    /// Not in the form of Standard Webhooks.
    #[error("a secret is written whsec_ and base64; `openssl rand -base64 32` makes one")]
    Form,
    /// Too short or too long.
    #[error("a secret holds 24 to 64 bytes before base64, and one of these holds {0}")]
    Length(usize),
}

impl FromStr for SigningSecret {
    type Err = InvalidSecret;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let encoded = text.trim().strip_prefix("whsec_").ok_or(InvalidSecret::Form)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| InvalidSecret::Form)?;
        if !(24..=64).contains(&bytes.len()) {
            return Err(InvalidSecret::Length(bytes.len()));
        }
        Ok(Self(bytes))
    }
}

impl SigningSecret {
    /// The signature of `id.timestamp.body`; the timestamp in whole seconds since 1970.
    pub fn sign(&self, id: &MessageId, timestamp: i64, body: &str) -> String {
        self.sign_text(&format!("{id}.{timestamp}.{body}"))
    }

    /// `v1,` and the base64 of HMAC-SHA256 over this text.
    pub fn sign_text(&self, text: &str) -> String {
        // HMAC takes keys of any length.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.0) else { return String::new() };
        mac.update(text.as_bytes());
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

/// The secrets that messages are signed with. All of them sign, so that receivers can change over from one to the next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SigningKeys {
    all: Vec<SigningSecret>,
}

impl SigningKeys {
    /// The most secrets at once.
    pub const MOST: usize = 10;

    /// These; none sign nothing.
    pub fn new(all: Vec<SigningSecret>) -> Self {
        Self { all }
    }

    /// Whether nothing is signed.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// What signs this tenant's messages. Every tenant's are signed alike so far.
    pub fn of(&self, _tenant: &Tenant) -> &[SigningSecret] {
        &self.all
    }

    /// The value of `webhook-signature`; `None` when there is no secret.
    pub fn sign(&self, tenant: &Tenant, id: &MessageId, timestamp: i64, body: &str) -> Option<String> {
        let all: Vec<String> =
            self.of(tenant).iter().map(|secret| secret.sign(id, timestamp, body)).collect();
        (!all.is_empty()).then(|| all.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the reference libraries: `standardwebhooks` for Python, JavaScript, Go and Rust share it.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    fn message() -> (MessageId, i64, &'static str) {
        (MessageId("msg_p5jXN8AQM9LWM0D4loKWxJek".into()), 1_614_265_330, r#"{"test": 2432232314}"#)
    }

    #[test]
    fn the_vector_of_standard_webhooks_is_signed_alike() {
        let (id, timestamp, body) = message();
        let secret: SigningSecret = SECRET.parse().expect("a secret");
        assert_eq!(secret.sign(&id, timestamp, body), SIGNATURE);
        assert_ne!(secret.sign(&id, timestamp + 1, body), SIGNATURE);
        assert_ne!(secret.sign(&id, timestamp, "{}"), SIGNATURE);
    }

    #[test]
    fn every_secret_signs_while_keys_are_changed() {
        let (id, timestamp, body) = message();
        let other = format!("whsec_{}", STANDARD.encode([7; 32]));
        let keys =
            SigningKeys::new(vec![other.parse().expect("a secret"), SECRET.parse().expect("a secret")]);
        let header = keys.sign(&Tenant::default(), &id, timestamp, body).expect("signed");
        let signatures: Vec<&str> = header.split(' ').collect();
        assert_eq!((signatures.len(), signatures[1]), (2, SIGNATURE));
        assert_eq!(SigningKeys::default().sign(&Tenant::default(), &id, timestamp, body), None);
    }

    #[test]
    fn wrong_secrets_are_refused_without_being_shown() {
        let short = format!("whsec_{}", STANDARD.encode([1; 23]));
        let long = format!("whsec_{}", STANDARD.encode([1; 65]));
        for (text, refusal) in [
            ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", InvalidSecret::Form),
            ("whsec_not base64", InvalidSecret::Form),
            ("whsec_", InvalidSecret::Length(0)),
            (&short, InvalidSecret::Length(23)),
            (&long, InvalidSecret::Length(65)),
        ] {
            assert_eq!(text.parse::<SigningSecret>(), Err(refusal), "{text}");
        }
        let secret: SigningSecret = SECRET.parse().expect("a secret");
        assert_eq!(format!("{secret:?}"), "[redacted]");
    }

    #[test]
    fn a_message_is_named_by_its_task_and_not_by_the_try() {
        let at = |seconds| Timestamp::from_timestamp(seconds, 0).expect("a moment");
        let id = MessageId::of_task(TaskId(7), at(1_800_000_000));
        assert_eq!(id, MessageId::of_task(TaskId(7), at(1_800_000_000)));
        assert_ne!(id, MessageId::of_task(TaskId(7), at(1_800_000_001)), "another installation's task 7");
        assert_ne!(id, MessageId::of_task(TaskId(8), at(1_800_000_000)));
        assert_eq!(id.as_str(), "msg_7_6651728988000");
    }
}
