//! Calls against receivers of our own, which misbehave at any byte.
#![allow(clippy::unwrap_used)] // a panic is how a test fails

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use application::ports::{Delivered, NotDelivered, Outbound, Post};
use domain::{
    Json, TaskId, Tenant, Timestamp,
    outbound::{MessageId, Missed, OutboundRules, Ports, SigningKeys, SigningSecret},
};
use outbound_adapter::{HttpOutbound, Lookup, OutboundConfig, Resolved};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);
/// For what is meant to run out.
const SHORT: Duration = Duration::from_millis(300);

/// Reads one request of each connection, answers it with these bytes, and then closes or falls silent.
struct Receiver {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

#[derive(Clone, Copy, PartialEq)]
enum Then {
    Close,
    StaySilent,
}

impl Receiver {
    async fn start(answer: impl Into<String>, then: Then) -> Self {
        let answer = answer.into();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (heard, connections) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<AtomicUsize>::default());
        let (hearing, counting) = (Arc::clone(&heard), Arc::clone(&connections));
        let accepting = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                counting.fetch_add(1, Ordering::SeqCst);
                let (answer, hearing) = (answer.clone(), Arc::clone(&hearing));
                tokio::spawn(async move { serve(socket, &answer, then, &hearing).await });
            }
        });
        Self { address, heard, connections, accepting }
    }

    async fn answering(status: &str, headers: &str, body: &str) -> Self {
        let length = body.len();
        let answer = format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\n\r\n{body}");
        Self::start(answer, Then::Close).await
    }

    fn url(&self) -> String {
        format!("http://{}/hook/sesame?key=open", self.address)
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(mut socket: TcpStream, answer: &str, then: Then, heard: &Mutex<Vec<String>>) {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let lower = head.to_lowercase();
            let length = lower.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.map_or(0, |length| length.parse().unwrap());
            if body.len() >= length {
                heard.lock().unwrap().push(text);
                break;
            }
        }
        if socket.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let _ = socket.write_all(answer.as_bytes()).await;
    if then == Then::StaySilent {
        let mut rest = [0; 64];
        while matches!(socket.read(&mut rest).await, Ok(1..)) {}
    }
}

fn config(allow: &[&str]) -> OutboundConfig {
    let allow = allow.iter().map(|entry| entry.parse().unwrap()).collect();
    OutboundConfig {
        rules: OutboundRules { allow, ports: Ports::Any },
        keys: SigningKeys::new(vec![SECRET.parse().unwrap()]),
        connect_timeout: PATIENCE,
        timeout: PATIENCE,
        ..OutboundConfig::default()
    }
}

fn local() -> HttpOutbound {
    HttpOutbound::new(config(&["127.0.0.0/8"]))
}

fn post(outbound: &HttpOutbound, url: &str) -> Post {
    let created_at = Timestamp::from_timestamp(1_800_000_000, 0).unwrap();
    Post {
        tenant: Tenant::default(),
        target: outbound.target(url).unwrap(),
        id: MessageId::of_task(TaskId(7), created_at),
        timestamp: created_at,
        headers: vec![("Authorization".into(), "Bearer token-4242".into())],
        body: Json::parse(r#"{ "n": 1.0e2 }"#).unwrap(),
    }
}

async fn call(outbound: &HttpOutbound, url: &str) -> Result<Delivered, NotDelivered> {
    outbound.post(&post(outbound, url)).await
}

#[tokio::test]
async fn publishing_sends_a_message_signed_as_in_standard_webhooks() {
    let receiver = Receiver::answering("200 OK", "", "thanks").await;
    let accepted = call(&local(), &receiver.url()).await.unwrap();
    assert_eq!(accepted, Delivered { status: 200, text: "thanks".into(), signed: true });
    let heard = receiver.heard.lock().unwrap().clone();
    let [request] = heard.as_slice() else { panic!("one request, not {heard:?}") };
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /hook/sesame?key=open HTTP/1.1\r\n"), "{head}");
    assert_eq!(body, r#"{ "n": 1.0e2 }"#, "byte for byte");
    let header = |name: &str| {
        let mut lines = head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value).unwrap_or_default()
    };
    assert_eq!(header("webhook-id"), "msg_7_6651728988000");
    assert_eq!(header("webhook-timestamp"), "1800000000");
    assert_eq!(header("content-type"), "application/json");
    assert_eq!(header("authorization"), "Bearer token-4242");
    let secret: SigningSecret = SECRET.parse().unwrap();
    let id = MessageId::of_task(TaskId(7), Timestamp::from_timestamp(1_800_000_000, 0).unwrap());
    assert_eq!(header("webhook-signature"), secret.sign(&id, 1_800_000_000, body));
}

#[tokio::test]
async fn without_a_secret_a_message_says_so() {
    let receiver = Receiver::answering("204 No Content", "", "").await;
    let outbound =
        HttpOutbound::new(OutboundConfig { keys: SigningKeys::default(), ..config(&["127.0.0.1"]) });
    let accepted = call(&outbound, &receiver.url()).await.unwrap();
    assert_eq!((accepted.status, accepted.signed), (204, false));
    assert!(!receiver.heard.lock().unwrap()[0].contains("webhook-signature"));
    assert!(outbound.describe().contains("not signed"));
}

#[tokio::test]
async fn a_status_that_is_no_success_is_a_refusal() {
    for (status, headers, missed, asked) in [
        ("400 Bad Request", "", 400, None),
        ("404 Not Found", "", 404, None),
        ("410 Gone", "", 410, None),
        ("429 Too Many Requests", "retry-after: 7\r\n", 429, Some(7)),
        ("503 Service Unavailable", "retry-after: 0\r\n", 503, Some(0)),
        ("500 Internal Server Error", "retry-after: soon\r\n", 500, None),
    ] {
        let receiver = Receiver::answering(status, headers, "no, because\u{1}").await;
        let refused = call(&local(), &receiver.url()).await.unwrap_err();
        assert_eq!(refused.missed, Missed::Refused(missed), "{refused}");
        assert_eq!(refused.retry_after, asked.map(Duration::from_secs), "{status}");
        assert!(refused.message.contains(status) && refused.message.contains("no, because"), "{refused}");
        assert_eq!(receiver.connections(), 1, "a call is made once");
    }
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let elsewhere = Receiver::answering("200 OK", "", "").await;
    for status in ["301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"] {
        let receiver = Receiver::answering(status, &format!("location: {}\r\n", elsewhere.url()), "").await;
        let refused = call(&local(), &receiver.url()).await.unwrap_err();
        assert!(matches!(refused.missed, Missed::Refused(301..=308)), "{refused}");
        assert!(refused.message.contains("redirects") && !refused.message.contains("sesame"), "{refused}");
    }
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn what_a_receiver_repeats_of_the_request_is_not_kept() {
    let body = "Cannot POST /hook/sesame?key=open with Bearer token-4242 or token-4242";
    for status in ["404 Not Found", "200 OK"] {
        let receiver = Receiver::answering(status, "", body).await;
        let text = match call(&local(), &receiver.url()).await {
            Ok(accepted) => accepted.text,
            Err(refused) => refused.message,
        };
        assert!(text.contains("Cannot POST"), "{text}");
        for secret in ["sesame", "key=open", "4242"] {
            assert!(!text.contains(secret), "{secret} is in {text}");
        }
    }
}

#[tokio::test]
async fn without_a_connection_nothing_was_sent() {
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let no_tls = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let without_tls = no_tls.local_addr().unwrap();
    let plain = tokio::spawn(async move {
        let (mut socket, _) = no_tls.accept().await.unwrap();
        socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    });
    let hung = {
        let config = OutboundConfig { connect_timeout: SHORT, ..config(&["127.0.0.0/8"]) };
        HttpOutbound::with_lookup(config, Arc::new(Answers::hanging()))
    };
    let unknown = HttpOutbound::with_lookup(config(&[]), Arc::new(Answers::new([])));
    for (outbound, url, part) in [
        (&local(), format!("http://{closed}/"), "nothing was sent"),
        (&local(), format!("https://{without_tls}/"), "nothing was sent"),
        (&hung, "http://slow.example/".to_owned(), "within 0.3 s"),
        (&unknown, "http://unknown.example/".to_owned(), "no address"),
    ] {
        let missed = call(outbound, &url).await.unwrap_err();
        assert_eq!(missed.missed, Missed::NothingSent, "{missed}");
        assert!(missed.message.contains(part), "{missed}");
    }
    plain.await.unwrap();
}

#[tokio::test]
async fn without_an_answer_something_may_have_been_sent() {
    for (answer, then, part) in [
        ("", Then::Close, "was lost"),
        ("HTTP/1.1 200 OK\r\ncontent-le", Then::Close, "was lost"),
        ("SSH-2.0-OpenSSH_9.2\r\n\r\n", Then::Close, "was lost"),
        ("", Then::StaySilent, "did not answer within 0.3 s"),
        ("HTTP/1.1 200 OK\r\n", Then::StaySilent, "did not answer within 0.3 s"),
    ] {
        let receiver = Receiver::start(answer, then).await;
        let timeout = if then == Then::StaySilent { SHORT } else { PATIENCE };
        let outbound = HttpOutbound::new(OutboundConfig { timeout, ..config(&["127.0.0.0/8"]) });
        let missed = call(&outbound, &receiver.url()).await.unwrap_err();
        assert_eq!(missed.missed, Missed::MaybeSent, "{answer:?}: {missed}");
        assert!(missed.message.contains(part) && !missed.message.contains("sesame"), "{missed}");
        assert_eq!((receiver.heard.lock().unwrap().len(), receiver.connections()), (1, 1), "{answer:?}");
    }
}

#[tokio::test]
async fn an_answer_without_end_is_read_up_to_its_bound() {
    let endless = format!("HTTP/1.1 200 OK\r\ncontent-length: 9999999999\r\n\r\n{}", "x".repeat(100_000));
    let receiver = Receiver::start(endless, Then::StaySilent).await;
    let accepted = call(&local(), &receiver.url()).await.unwrap();
    assert_eq!((accepted.status, accepted.text.len()), (200, 1_000));
    // Where the body falls silent below the bound, the time-out ends the reading, and the status stands.
    let silent =
        Receiver::start("HTTP/1.1 202 Accepted\r\ncontent-length: 10\r\n\r\nab", Then::StaySilent).await;
    let outbound = HttpOutbound::new(OutboundConfig { timeout: SHORT, ..config(&["127.0.0.0/8"]) });
    let accepted = call(&outbound, &silent.url()).await.unwrap();
    assert_eq!((accepted.status, accepted.text.as_str()), (202, "ab"));
}

#[tokio::test]
async fn a_message_beyond_the_bound_stays_here() {
    let receiver = Receiver::answering("200 OK", "", "").await;
    let outbound = HttpOutbound::new(OutboundConfig { max_request: 13, ..config(&["127.0.0.0/8"]) });
    let missed = call(&outbound, &receiver.url()).await.unwrap_err();
    assert_eq!(missed.missed, Missed::KeptBack, "{missed}");
    assert!(missed.message.contains("14 bytes") && missed.message.contains("13"), "{missed}");
    assert_eq!(receiver.connections(), 0);
}

/// Answers each look-up with the next of these lists of addresses, the last again and again.
struct Answers {
    lists: Mutex<Vec<Vec<IpAddr>>>,
    hangs: bool,
}

impl Answers {
    fn new<const N: usize>(lists: [&[&str]; N]) -> Self {
        let parse = |list: &&[&str]| list.iter().map(|address| address.parse().unwrap()).collect();
        Self { lists: Mutex::new(lists.iter().map(parse).collect()), hangs: false }
    }

    fn hanging() -> Self {
        Self { lists: Mutex::default(), hangs: true }
    }
}

impl Lookup for Answers {
    fn lookup(&self, _: &str) -> Resolved {
        if self.hangs {
            return Box::pin(std::future::pending());
        }
        let mut lists = self.lists.lock().unwrap();
        let list = if lists.len() > 1 { lists.remove(0) } else { lists.first().cloned().unwrap_or_default() };
        Box::pin(async move { Ok(list.into_iter().map(|address| SocketAddr::new(address, 0)).collect()) })
    }
}

#[tokio::test]
async fn a_name_that_leads_inside_is_not_called() {
    let inside = Receiver::answering("200 OK", "", "").await;
    let url = format!("http://hooks.example:{}/", inside.address.port());
    for addresses in [
        &["127.0.0.1"][..],
        &["::ffff:127.0.0.1"],
        &["10.0.0.1", "169.254.169.254", "127.0.0.1"],
        &["::1", "fe80::1", "fd00::1"],
    ] {
        let outbound = HttpOutbound::with_lookup(config(&[]), Arc::new(Answers::new([addresses])));
        let missed = call(&outbound, &url).await.unwrap_err();
        assert_eq!(missed.missed, Missed::KeptBack, "{missed}");
        assert!(
            missed.message.contains("hooks.example") && missed.message.contains("outbound_allow"),
            "{missed}"
        );
    }
    assert_eq!(inside.connections(), 0, "no connection was even tried");
}

#[tokio::test]
async fn a_name_that_leads_elsewhere_with_the_next_question_gains_nothing() {
    let allowed = Receiver::answering("200 OK", "", "").await;
    let lookup = Answers::new([&["127.0.0.1"], &["127.0.0.2"]]);
    let outbound = HttpOutbound::with_lookup(config(&["127.0.0.1"]), Arc::new(lookup));
    let url = format!("http://rebinding.example:{}/", allowed.address.port());
    assert_eq!(call(&outbound, &url).await.unwrap().status, 200);
    let missed = call(&outbound, &url).await.unwrap_err();
    assert_eq!(missed.missed, Missed::KeptBack, "{missed}");
    assert!(missed.message.contains("127.0.0.2"), "{missed}");
}

#[tokio::test]
async fn of_several_addresses_only_those_that_are_allowed_are_called() {
    let receiver = Receiver::answering("200 OK", "", "").await;
    let lookup = Answers::new([&["10.255.255.1", "169.254.169.254", "127.0.0.1"]]);
    let outbound = HttpOutbound::with_lookup(config(&["127.0.0.1"]), Arc::new(lookup));
    let url = format!("http://several.example:{}/", receiver.address.port());
    assert_eq!(call(&outbound, &url).await.unwrap().status, 200);
}

#[tokio::test]
async fn a_host_that_the_configuration_names_is_called_wherever_it_is() {
    let receiver = Receiver::answering("200 OK", "", "").await;
    for (name, called) in [("hooks.internal", true), ("evil.internal", false)] {
        let lookup = Arc::new(Answers::new([&["127.0.0.1"]]));
        let outbound = HttpOutbound::with_lookup(config(&["hooks.internal"]), lookup);
        let url = format!("http://{name}:{}/", receiver.address.port());
        assert_eq!(call(&outbound, &url).await.is_ok(), called, "{name}");
    }
    assert_eq!(receiver.connections(), 1);
}
