//! PostgreSQL's protocol, as far as it takes to know when a change is committed.
//!
//! <https://www.postgresql.org/docs/current/protocol-flow.html>: the client's messages up to a Sync or a Query are
//! answered by messages up to a ReadyForQuery, which says whether a transaction is open. So a change is committed once a
//! ReadyForQuery with status `I` comes after statements that change something, none of which failed. The answers to
//! such statements are held back until then: a client that has seen any of them would know more than it should.

use std::collections::{HashMap, VecDeque};

use super::link::Verdict;

const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;
const PROTOCOL_3: u32 = 196_608;

/// What passed on one connection.
#[derive(Default)]
pub(super) struct Session {
    phase: Phase,
    client: Vec<u8>,
    server: Vec<u8>,
    /// Single bytes that the server owes: answers to requests for encryption.
    single_bytes: usize,
    /// Prepared statements that change something, by name.
    changing: HashMap<Vec<u8>, bool>,
    /// Whether what the client has said since its last Sync changes something.
    saying: bool,
    /// Of each Sync and Query that is not answered yet: whether it changes something.
    asked: VecDeque<bool>,
    /// Whether the open transaction has changed something, and whether it has failed or been rolled back.
    changed: bool,
    failed: bool,
    /// The answers to the statement at the front that wait for its end.
    held: Vec<u8>,
}

#[derive(Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Starting,
    Talking,
    /// Encrypted, or a request to cancel: nothing to be understood.
    Opaque,
}

impl Session {
    /// What the client sends, before it is forwarded.
    pub(super) fn hear_client(&mut self, bytes: &[u8]) {
        self.client.extend_from_slice(bytes);
        loop {
            match self.phase {
                Phase::Opaque => {
                    self.client.clear();
                    return;
                }
                Phase::Starting => {
                    let Some(message) = take(&mut self.client, 0) else { return };
                    let code = message.get(4..8).map_or(0, number);
                    match code {
                        SSL_REQUEST | GSS_REQUEST => self.single_bytes += 1,
                        PROTOCOL_3 => self.phase = Phase::Talking,
                        _ => self.phase = Phase::Opaque,
                    }
                }
                Phase::Talking => {
                    let Some(message) = take(&mut self.client, 1) else { return };
                    self.hear_client_say(message[0], &message[5..]);
                }
            }
        }
    }

    fn hear_client_say(&mut self, kind: u8, body: &[u8]) {
        match kind {
            b'P' => {
                let (name, rest) = text(body);
                let (sql, _) = text(rest);
                self.changing.insert(name.to_vec(), changes_something(sql));
            }
            b'B' => {
                let (_portal, rest) = text(body);
                let (statement, _) = text(rest);
                self.saying |= self.changing.get(statement).copied().unwrap_or(false);
            }
            b'Q' => {
                let (sql, _) = text(body);
                self.asked.push_back(changes_something(sql));
            }
            b'S' => self.asked.push_back(std::mem::take(&mut self.saying)),
            _ => {}
        }
    }

    /// What the server sends; `cut` is asked at each commit of a change.
    pub(super) fn hear_server(&mut self, bytes: &[u8], mut cut: impl FnMut() -> bool) -> Verdict {
        let mut out = Vec::with_capacity(bytes.len());
        self.server.extend_from_slice(bytes);
        while self.single_bytes > 0 && !self.server.is_empty() {
            let answer = self.server.remove(0);
            out.push(answer);
            self.single_bytes -= 1;
            if answer != b'N' {
                self.phase = Phase::Opaque;
            }
        }
        if self.phase == Phase::Opaque {
            out.append(&mut self.held);
            out.append(&mut self.server);
            return Verdict { bytes: out, cut: false };
        }
        while let Some(message) = take(&mut self.server, 1) {
            match message[0] {
                b'E' => self.failed = true,
                b'C' if message[5..].starts_with(b"ROLLBACK") => self.failed = true,
                _ => {}
            }
            let holds = self.changed || self.asked.front().copied().unwrap_or(false);
            let ready = (message[0] == b'Z').then(|| message.get(5).copied().unwrap_or(b'I'));
            self.held.extend_from_slice(&message);
            if let Some(status) = ready {
                self.changed |= self.asked.pop_front().unwrap_or(false);
                if status == b'I' {
                    let committed = std::mem::take(&mut self.changed) && !self.failed;
                    self.failed = false;
                    if committed && cut() {
                        return Verdict { bytes: out, cut: true };
                    }
                }
                out.append(&mut self.held);
            } else if !holds {
                out.append(&mut self.held);
            }
        }
        Verdict { bytes: out, cut: false }
    }
}

/// The first whole message of a buffer, whose length stands after so many bytes.
fn take(buffer: &mut Vec<u8>, length_at: usize) -> Option<Vec<u8>> {
    let length = number(buffer.get(length_at..length_at + 4)?) as usize + length_at;
    (buffer.len() >= length.max(length_at + 4)).then(|| buffer.drain(..length.max(length_at + 4)).collect())
}

fn number(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte))
}

/// A text that ends with a zero, and what follows.
fn text(bytes: &[u8]) -> (&[u8], &[u8]) {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    (&bytes[..end], bytes.get(end + 1..).unwrap_or_default())
}

/// Whether a statement may change rows: also one that begins with WITH or SELECT. Locks alone are no change.
fn changes_something(sql: &[u8]) -> bool {
    let sql = String::from_utf8_lossy(sql).to_ascii_uppercase();
    let words: Vec<&str> = sql
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| !word.is_empty())
        .collect();
    words.iter().enumerate().any(|(at, word)| match *word {
        "INSERT" | "DELETE" | "MERGE" | "TRUNCATE" => true,
        "UPDATE" => !matches!(at.checked_sub(1).map(|before| words[before]), Some("FOR" | "KEY" | "DO")),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_told_from_reads_and_locks() {
        for (sql, expected) in [
            ("SELECT 1", false),
            ("INSERT INTO a VALUES (1)", true),
            ("with x as (delete from a returning id) select * from x", true),
            ("SELECT id FROM worker WHERE id = $1 FOR UPDATE", false),
            ("SELECT id FROM worker FOR NO KEY UPDATE", false),
            ("UPDATE live SET worker = $1", true),
            ("SELECT updated_at FROM progress", false),
            ("COMMIT", false),
        ] {
            assert_eq!(changes_something(sql.as_bytes()), expected, "{sql}");
        }
    }

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut message = vec![kind];
        message.extend((body.len() as u32 + 4).to_be_bytes());
        message.extend(body);
        message
    }

    fn started() -> Session {
        let mut session = Session::default();
        let mut request = 8_u32.to_be_bytes().to_vec();
        request.extend(SSL_REQUEST.to_be_bytes());
        session.hear_client(&request);
        assert_eq!(session.hear_server(b"N", || panic!("no change")).bytes, b"N");
        let mut start = 9_u32.to_be_bytes().to_vec();
        start.extend(PROTOCOL_3.to_be_bytes());
        start.push(0);
        // In two pieces, as networks do.
        session.hear_client(&start[..5]);
        session.hear_client(&start[5..]);
        let welcome = [message(b'R', &[0; 4]), message(b'Z', b"I")].concat();
        assert_eq!(session.hear_server(&welcome, || panic!("no change")).bytes, welcome);
        session
    }

    #[test]
    fn an_autocommitted_change_is_cut_at_its_end_and_its_answers_are_held_back() {
        let mut session = started();
        session.hear_client(&message(b'P', b"s1\0INSERT INTO a VALUES (1) RETURNING id\0\0\0"));
        session.hear_client(&message(b'S', b""));
        let prepared = [message(b'1', b""), message(b'Z', b"I")].concat();
        let verdict = session.hear_server(&prepared, || panic!("nothing was executed"));
        assert_eq!(verdict.bytes, prepared);
        for cut in [false, true] {
            session.hear_client(
                &[message(b'B', b"\0s1\0\0\0\0\0\0\0"), message(b'E', b"\0\0\0\0\0"), message(b'S', b"")]
                    .concat(),
            );
            let row = [message(b'2', b""), message(b'D', b"row"), message(b'C', b"INSERT 0 1\0")].concat();
            assert!(session.hear_server(&row, || panic!("not yet committed")).bytes.is_empty());
            let verdict = session.hear_server(&message(b'Z', b"I"), || cut);
            assert_eq!(verdict.cut, cut);
            assert_eq!(verdict.bytes.is_empty(), cut);
        }
    }

    #[test]
    fn a_transaction_is_cut_at_its_commit_only() {
        let mut session = started();
        let query = |sql: &str| message(b'Q', format!("{sql}\0").as_bytes());
        for (end, expected) in [("COMMIT", 1), ("ROLLBACK", 0)] {
            let mut asked = 0;
            session.hear_client(&query("BEGIN"));
            session.hear_server(&[message(b'C', b"BEGIN\0"), message(b'Z', b"T")].concat(), || {
                panic!("no change")
            });
            session.hear_client(&query("UPDATE a SET b = 1"));
            let answer = [message(b'C', b"UPDATE 1\0"), message(b'Z', b"T")].concat();
            assert_eq!(session.hear_server(&answer, || panic!("not committed")).bytes, answer);
            session.hear_client(&query(end));
            let answer = [message(b'C', format!("{end}\0").as_bytes()), message(b'Z', b"I")].concat();
            session.hear_server(&answer, || {
                asked += 1;
                false
            });
            assert_eq!(asked, expected, "{end}");
        }
    }

    #[test]
    fn a_change_that_failed_is_not_committed() {
        let mut session = started();
        session.hear_client(&message(b'Q', b"DELETE FROM a\0"));
        let answer = [message(b'E', b"no\0"), message(b'Z', b"I")].concat();
        assert_eq!(session.hear_server(&answer, || panic!("it failed")).bytes, answer);
    }
}
