//! Server-sent events as our own server writes them: whole fields per line, LF line ends.

/// One event.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    /// What kind.
    pub(crate) name: String,
    /// The point to resume after, where it has one.
    pub(crate) id: Option<String>,
    /// Its JSON.
    pub(crate) data: String,
}

/// Bytes in, events out.
#[derive(Debug, Default)]
pub(crate) struct Events {
    line: Vec<u8>,
    event: Event,
}

impl Events {
    /// The events that these bytes complete.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Vec<Event> {
        let mut whole = Vec::new();
        for byte in bytes {
            if *byte != b'\n' {
                self.line.push(*byte);
                continue;
            }
            let line = String::from_utf8_lossy(&self.line).into_owned();
            self.line.clear();
            if line.trim_end().is_empty() {
                let event = std::mem::take(&mut self.event);
                if !event.data.is_empty() {
                    whole.push(event);
                }
                continue;
            }
            let (field, value) = line.trim_end_matches('\r').split_once(':').unwrap_or((&line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => self.event.name = value.to_owned(),
                "id" => self.event.id = Some(value.to_owned()),
                "data" if self.event.data.is_empty() => self.event.data = value.to_owned(),
                "data" => {
                    self.event.data.push('\n');
                    self.event.data.push_str(value);
                }
                _ => {} // comments and fields of later versions
            }
        }
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_out_whole_however_the_bytes_are_cut() {
        let stream =
            "event: state\ndata: {\"a\":1}\n\n: ping\n\nid: 1.2\nevent: chunk\ndata: {\"text\":\"ä\"}\n\n";
        for size in 1..stream.len() {
            let mut events = Events::default();
            let all: Vec<_> = stream.as_bytes().chunks(size).flat_map(|bytes| events.feed(bytes)).collect();
            assert_eq!(all.len(), 2, "{size}");
            assert_eq!((all[0].name.as_str(), all[0].id.as_deref()), ("state", None));
            assert_eq!((all[1].data.as_str(), all[1].id.as_deref()), ("{\"text\":\"ä\"}", Some("1.2")));
        }
    }
}
