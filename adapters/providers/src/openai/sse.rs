//! Server-sent events, read as they arrive. Pure: bytes in, events out, whatever the network cut them into.
//! Source: <https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation>.

use std::collections::VecDeque;

/// One event. `id` and `retry` are dropped: an upstream call is never resumed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SseEvent {
    /// The `event` field; empty where absent.
    pub(crate) name: String,
    /// The `data` lines, joined by line feeds.
    pub(crate) data: String,
}

/// A line or an event passed its limit in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TooLong {
    #[error("a line of the stream is longer than {0} bytes")]
    Line(usize),
    #[error("an event of the stream is longer than {0} bytes")]
    Event(usize),
}

/// The parser's state between two pieces of the stream.
#[derive(Debug)]
pub(crate) struct SseParser {
    line_limit: usize,
    event_limit: usize,
    /// The bytes of the unfinished line: text is decoded by whole lines, so a cut inside a character does no harm.
    line: Vec<u8>,
    /// The last byte was a CR: a LF that follows belongs to it.
    after_cr: bool,
    /// No line has ended yet: a byte order mark may stand here.
    first_line: bool,
    name: String,
    data: Option<String>,
}

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

impl SseParser {
    /// Limits in bytes, line ends not counted.
    pub(crate) fn new(line_limit: usize, event_limit: usize) -> Self {
        let (line, name) = (Vec::new(), String::new());
        Self { line_limit, event_limit, line, after_cr: false, first_line: true, name, data: None }
    }

    /// Takes the next piece; complete events are added to `events`, also those before an error. After an error the
    /// parser must not be used again.
    pub(crate) fn push(&mut self, mut bytes: &[u8], events: &mut VecDeque<SseEvent>) -> Result<(), TooLong> {
        while !bytes.is_empty() {
            if std::mem::take(&mut self.after_cr) && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let end = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let piece = &bytes[..end.unwrap_or(bytes.len())];
            if self.line.len() + piece.len() > self.line_limit {
                return Err(TooLong::Line(self.line_limit));
            }
            self.line.extend_from_slice(piece);
            let Some(end) = end else { return Ok(()) };
            self.after_cr = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            events.extend(self.end_line()?);
        }
        Ok(())
    }

    /// The stream is over: the event that no blank line ended, if there is one. The specification drops it; some
    /// servers leave the last blank line out, and whether it is whole is for its reader to find out.
    pub(crate) fn finish(&mut self) -> Result<Option<SseEvent>, TooLong> {
        if !self.line.is_empty() {
            self.end_line()?;
        }
        Ok(self.end_event())
    }

    fn end_line(&mut self) -> Result<Option<SseEvent>, TooLong> {
        let line = std::mem::take(&mut self.line);
        let mut bytes = line.as_slice();
        if std::mem::take(&mut self.first_line) {
            bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
        }
        if bytes.is_empty() {
            return Ok(self.end_event());
        }
        let colon = bytes.iter().position(|byte| *byte == b':');
        let (field, value) = match colon {
            Some(at) => (&bytes[..at], &bytes[at + 1..]),
            None => (bytes, &b""[..]),
        };
        let value = String::from_utf8_lossy(value.strip_prefix(b" ").unwrap_or(value));
        match field {
            b"data" => match &mut self.data {
                None => self.data = Some(value.into_owned()),
                Some(data) => {
                    data.push('\n');
                    data.push_str(&value);
                }
            },
            b"event" => self.name = value.into_owned(),
            // Comments (an empty field name), id, retry and whatever else.
            _ => {}
        }
        if self.data.as_ref().map_or(0, String::len) > self.event_limit {
            return Err(TooLong::Event(self.event_limit));
        }
        // Keeps the line's memory for the next line.
        self.line = line;
        self.line.clear();
        Ok(None)
    }

    fn end_event(&mut self) -> Option<SseEvent> {
        let name = std::mem::take(&mut self.name);
        self.data.take().map(|data| SseEvent { name, data })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 64;

    fn read(pieces: &[&[u8]]) -> (Vec<(String, String)>, Option<TooLong>) {
        let mut parser = SseParser::new(LIMIT, 2 * LIMIT);
        let mut events = VecDeque::new();
        let mut error = None;
        for piece in pieces {
            if let Err(too_long) = parser.push(piece, &mut events) {
                error = Some(too_long);
                break;
            }
        }
        if error.is_none() {
            match parser.finish() {
                Ok(last) => events.extend(last),
                Err(too_long) => error = Some(too_long),
            }
        }
        (events.into_iter().map(|event| (event.name, event.data)).collect(), error)
    }

    fn data(stream: &str) -> Vec<String> {
        let (events, error) = read(&[stream.as_bytes()]);
        assert_eq!(error, None);
        events.into_iter().map(|(_, data)| data).collect()
    }

    #[test]
    fn every_line_ending_ends_a_line() {
        assert_eq!(data("data: a\n\ndata: b\r\n\r\ndata: c\r\rdata: d\r\n\n"), ["a", "b", "c", "d"]);
    }

    #[test]
    fn a_line_feed_after_a_carriage_return_is_no_line_of_its_own() {
        assert_eq!(data("data: a\r\ndata: b\r\n\r\n"), ["a\nb"]);
        assert_eq!(read(&[b"data: a\r", b"\ndata: b\r\n\r", b"\n"]).0[0].1, "a\nb");
    }

    #[test]
    fn data_lines_are_joined_and_only_one_space_is_dropped() {
        assert_eq!(data("data: a\ndata:b\ndata:  c\ndata\n\n"), ["a\nb\n c\n"]);
    }

    #[test]
    fn comments_pings_and_unknown_fields_are_no_events() {
        assert_eq!(data(": ping\n\nid: 7\nretry: 3\nfoo: bar\n\n: x\ndata: a\n:y\n\n\n\n"), ["a"]);
    }

    #[test]
    fn names_belong_to_one_event() {
        let (events, _) = read(&[b"event: error\ndata: a\n\nevent: lost\n\ndata: b\n\n"]);
        let expected = [("error", "a"), ("", "b")].map(|(name, data)| (name.to_owned(), data.to_owned()));
        assert_eq!(events, expected);
    }

    #[test]
    fn a_byte_order_mark_is_dropped_at_the_start_only() {
        assert_eq!(data("\u{feff}data: a\n\n"), ["a"]);
        assert_eq!(data("\n\u{feff}data: a\n\n"), Vec::<String>::new());
        let (events, _) = read(&[b"\xEF", b"\xBB", b"\xBFda", b"ta: a\n\n"]);
        assert_eq!(events.len(), 1);
    }

    #[test]
    fn characters_cut_by_the_network_are_whole_again() {
        let stream = "data: Grüße 🦀\n\n".as_bytes();
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(read(&bytes).0[0].1, "Grüße 🦀");
    }

    #[test]
    fn an_event_without_its_blank_line_comes_at_the_end() {
        assert_eq!(data("data: a\n\ndata: b"), ["a", "b"]);
        assert_eq!(data("data: a\n\ndata: b\n"), ["a", "b"]);
    }

    #[test]
    fn limits_hold_to_the_byte() {
        let line = |length: usize| format!("data:{}\n\n", "x".repeat(length - 5));
        assert_eq!(read(&[line(LIMIT).as_bytes()]).1, None);
        assert_eq!(read(&[line(LIMIT + 1).as_bytes()]).1, Some(TooLong::Line(LIMIT)));
        let endless = vec![b'x'; LIMIT + 1];
        assert_eq!(read(&[&endless]).1, Some(TooLong::Line(LIMIT)));
        let event = format!("data:{}\n", "x".repeat(42)).repeat(3);
        assert_eq!(read(&[event.as_bytes()]).1, None, "3 * 42 + 2 line feeds are the limit");
        assert_eq!(read(&[event.as_bytes(), b"data:\n"]).1, Some(TooLong::Event(2 * LIMIT)));
    }

    #[test]
    fn events_before_an_error_are_kept() {
        let stream = format!("data: a\n\n{}", "x".repeat(LIMIT + 1));
        let (events, error) = read(&[stream.as_bytes()]);
        assert_eq!((events.len(), error), (1, Some(TooLong::Line(LIMIT))));
    }

    /// Streams made of what matters: fields, line ends, characters of several bytes, and noise.
    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let token = prop_oneof![
            Just(b"data: ".to_vec()),
            Just(b"data".to_vec()),
            Just(b"event: error".to_vec()),
            Just(b":".to_vec()),
            Just(b"\n".to_vec()),
            Just(b"\r".to_vec()),
            Just(b"\r\n".to_vec()),
            Just(b"\n\n".to_vec()),
            Just("\u{feff}".as_bytes().to_vec()),
            Just("🦀ü".as_bytes().to_vec()),
            proptest::collection::vec(any::<u8>(), 0..12),
        ];
        proptest::collection::vec(token, 0..40).prop_map(|tokens| tokens.concat())
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_events(stream in stream(), cuts in proptest::collection::vec(any::<u16>(), 0..20)) {
            let mut cuts: Vec<usize> =
                cuts.into_iter().map(|cut| usize::from(cut) % (stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &stream[pair[0]..pair[1]]).collect();
            prop_assert_eq!(read(&pieces), read(&[&stream]));
        }

        #[test]
        fn what_is_written_is_read(texts in proptest::collection::vec("[a-z:🦀 ]{0,12}(\n[a-z]{0,12}){0,2}", 0..8)) {
            let written: String = texts
                .iter()
                .map(|text| {
                    let lines: String = text.split('\n').map(|line| format!("data: {line}\n")).collect();
                    format!("{lines}\n")
                })
                .collect();
            prop_assert_eq!(data(&written), texts);
        }
    }
}
