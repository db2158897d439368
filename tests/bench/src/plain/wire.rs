//! The least of PostgreSQL's protocol (version 3) that runs one prepared statement again and again:
//! <https://www.postgresql.org/docs/current/protocol-message-formats.html>.

use anyhow::{Context as _, Result, bail};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// A connection to a server that trusts us.
#[derive(Debug)]
pub(super) struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Wire {
    /// Connects to a URL of the form `postgres://user@host:port/database`.
    pub(super) async fn open(url: &str) -> Result<Self> {
        let (user, server, database) = parts(url).with_context(|| {
            format!("the plain connection needs postgres://user@host:port/database, not {url}")
        })?;
        let stream =
            TcpStream::connect(server).await.with_context(|| format!("no PostgreSQL at {server}"))?;
        stream.set_nodelay(true)?;
        let mut wire = Self { stream, buffer: Vec::with_capacity(4096) };
        wire.ask(&startup(user, database)).await?;
        Ok(wire)
    }

    /// Prepares the statement that [`execution`] runs.
    pub(super) async fn prepare(&mut self, sql: &str) -> Result<()> {
        // Parse: no name, the text, no types given. Sync.
        let mut bytes = message(Some(b'P'), &[b"\0", sql.as_bytes(), b"\0", &[0, 0]].concat());
        bytes.extend(message(Some(b'S'), &[]));
        self.ask(&bytes).await
    }

    /// Sends messages and reads until the server is ready for more.
    pub(super) async fn ask(&mut self, messages: &[u8]) -> Result<()> {
        self.stream.write_all(messages).await?;
        self.buffer.clear();
        let mut at = 0;
        loop {
            while let Some((kind, body)) = next(&self.buffer[at..]) {
                match kind {
                    b'E' => bail!("PostgreSQL refused: {}", readable(body)),
                    b'R' if body != [0, 0, 0, 0] => bail!("PostgreSQL wants a password"),
                    b'Z' => return Ok(()),
                    _ => at += 5 + body.len(),
                }
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                bail!("PostgreSQL closed the connection");
            }
        }
    }
}

/// Bind with these parameters as text, Execute, Sync.
pub(super) fn execution(values: &[&str]) -> Vec<u8> {
    // No name of a portal and of a statement, no formats: text.
    let mut bind = vec![0, 0, 0, 0];
    bind.extend((values.len() as u16).to_be_bytes());
    for value in values {
        bind.extend((value.len() as u32).to_be_bytes());
        bind.extend(value.as_bytes());
    }
    bind.extend([0, 0]);
    let mut bytes = message(Some(b'B'), &bind);
    // No name of a portal, all rows.
    bytes.extend(message(Some(b'E'), &[0; 5]));
    bytes.extend(message(Some(b'S'), &[]));
    bytes
}

fn startup(user: &str, database: &str) -> Vec<u8> {
    let mut body = 196_608_u32.to_be_bytes().to_vec();
    for text in ["user", user, "database", database] {
        body.extend(text.as_bytes());
        body.push(0);
    }
    body.push(0);
    message(None, &body)
}

/// The first message has no kind. The length counts itself.
fn message(kind: Option<u8>, body: &[u8]) -> Vec<u8> {
    let mut bytes: Vec<u8> = kind.into_iter().collect();
    bytes.extend((body.len() as u32 + 4).to_be_bytes());
    bytes.extend(body);
    bytes
}

/// The first message of these bytes, once it is complete.
fn next(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let (kind, rest) = bytes.split_first()?;
    let length = u32::from_be_bytes(rest.get(..4)?.try_into().ok()?) as usize;
    Some((*kind, rest.get(4..length)?))
}

/// The fields of an error: a letter and a text each.
fn readable(body: &[u8]) -> String {
    let fields = body.split(|byte| *byte == 0).filter_map(|field| match field.split_first() {
        Some((b'C' | b'M' | b'D', text)) => Some(String::from_utf8_lossy(text)),
        _ => None,
    });
    fields.collect::<Vec<_>>().join(": ")
}

fn parts(url: &str) -> Option<(&str, &str, &str)> {
    let (user, rest) = url.strip_prefix("postgres://")?.split_once('@')?;
    let (server, database) = rest.split_once('/')?;
    (!user.contains(':') && server.contains(':') && !database.contains('?'))
        .then_some((user, server, database))
}

#[cfg(test)]
mod tests {
    use contract_tests::servers::PostgresServer;

    use super::*;

    #[test]
    fn messages_are_read_when_they_are_complete() {
        let bytes = message(Some(b'Z'), b"I");
        assert_eq!(bytes, [b'Z', 0, 0, 0, 5, b'I']);
        assert_eq!(next(&bytes), Some((b'Z', &b"I"[..])));
        for length in 0..bytes.len() {
            assert_eq!(next(&bytes[..length]), None, "{length}");
        }
    }

    #[test]
    fn only_urls_without_a_password_are_understood() {
        assert_eq!(parts("postgres://me@127.0.0.1:5432/db"), Some(("me", "127.0.0.1:5432", "db")));
        for url in
            ["postgres://me:secret@h:1/db", "postgres://h:1/db", "postgres://me@h/db", "mysql://me@h:1/d"]
        {
            assert_eq!(parts(url), None, "{url}");
        }
    }

    #[tokio::test]
    async fn a_prepared_statement_runs_again_and_again() {
        let url = PostgresServer::shared().create_empty_database().await;
        let mut wire = Wire::open(&url).await.unwrap();
        wire.prepare("CREATE TABLE t (a text)").await.unwrap();
        wire.ask(&execution(&[])).await.unwrap();
        wire.prepare("INSERT INTO t VALUES ($1)").await.unwrap();
        for _ in 0..3 {
            wire.ask(&execution(&["x"])).await.unwrap();
        }
        wire.prepare("SELECT 1 / (count(*) - 3) FROM t").await.unwrap();
        let error = wire.ask(&execution(&[])).await.unwrap_err().to_string();
        assert!(error.contains("division by zero"), "three rows: {error}");
    }
}
