//! What commands print. Where nobody reads on, as in `task-runner config | head`, a command ends without a word, as others do.

use std::{
    fmt,
    io::{self, Write as _},
};

/// What a shell shows of a program that ended because nobody read on.
const NOBODY_READS: i32 = 128 + 13;

/// Prints a line.
#[macro_export]
macro_rules! say {
    ($($text:tt)*) => { $crate::say::line(format_args!($($text)*)) };
}

/// Prints a line; see [`say!`].
pub fn line(text: fmt::Arguments<'_>) {
    piece(format_args!("{text}\n"));
}

/// Prints a part of a line at once.
pub fn piece(text: fmt::Arguments<'_>) {
    let mut out = io::stdout().lock();
    if let Err(error) = out.write_fmt(text).and_then(|()| out.flush()) {
        if error.kind() != io::ErrorKind::BrokenPipe {
            eprintln!("the output cannot be written: {error}");
        }
        std::process::exit(NOBODY_READS);
    }
}
