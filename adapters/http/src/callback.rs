//! Who is to be told of a task's end: `callback_url` and `callback_events`.

use application::task_types::Callback;
use domain::outbound::CallbackEvent;

use crate::fields::{Fields, shorten};

/// Takes both fields. Whether the URL may be called is for the use case to say.
pub(crate) fn read(fields: &mut Fields<'_>) -> Option<Callback> {
    let url = fields.take::<String>("callback_url", "a text");
    let names = fields.take::<Vec<String>>("callback_events", "a list of events");
    let mut events = Vec::new();
    for name in names.iter().flatten() {
        match CallbackEvent::parse(name) {
            Some(event) if !events.contains(&event) => events.push(event),
            Some(_) => {}
            None => {
                let known = CallbackEvent::ALL.map(CallbackEvent::as_str).join(", ");
                fields.refuse("callback_events", format!("{:?} is none of {known}", shorten(name)));
            }
        }
    }
    if names.as_ref().is_some_and(Vec::is_empty) {
        fields.refuse("callback_events", "it names no event; leave it out for all of them");
    }
    if names.is_some() && url.is_none() && fields.is_fine("callback_url") {
        fields.refuse("callback_url", "it is missing: callback_events are about it");
    }
    Some(Callback { url: url?, events })
}
