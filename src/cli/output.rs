//! What commands print: tables, ages and JSON, safe for a terminal whatever the clients wrote, and quiet when the reader
//! has gone.

use std::io::{self, IsTerminal, Write};

use jiff::Timestamp;
use serde_json::Value;

use super::CliError;

/// Prints a text that ends in a newline. That a pipe was closed (by `head`, say) is no error.
pub(super) fn print(text: &str) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(source) if source.kind() != io::ErrorKind::BrokenPipe => {
            Err(CliError::Process { what: "write to standard output", source })
        }
        _ => Ok(()),
    }
}

/// A line on standard error that says how far something is, where a person watches. It goes when this is dropped.
#[derive(Debug)]
pub(super) struct Progress {
    is_shown: bool,
}

impl Progress {
    /// None is shown for programs: when the result is JSON, or standard error is no terminal.
    pub(super) fn new(is_json: bool) -> Self {
        Self { is_shown: !is_json && io::stderr().is_terminal() }
    }

    /// Replaces the line.
    pub(super) fn show(&self, line: &str) {
        if self.is_shown {
            eprint!("\r{line}\u{1b}[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.show("");
    }
}

/// Prints JSON, indented.
pub(super) fn print_json(value: &Value) -> Result<(), CliError> {
    print(&format!("{value:#}\n"))
}

/// The text without anything that a terminal would obey, or that would turn the order of the characters around: clients
/// may name their pins as they like.
pub(super) fn clean(text: &str) -> String {
    let harmful = |character: char| {
        character.is_control()
            || matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|character| if harmful(character) { '\u{fffd}' } else { character }).collect()
}

/// Lines whose columns begin at the same place; the last column is as long as it is.
pub(super) fn table(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// How long ago a time (as in RFC 3339) was, in its largest unit.
pub(super) fn age(time: &str, now: Timestamp) -> String {
    let Ok(time) = time.parse::<Timestamp>() else { return "?".to_owned() };
    duration(now.duration_since(time).as_secs().max(0).unsigned_abs())
}

/// So many seconds, about.
pub(super) fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_end_without_spaces() {
        let rows = [vec!["a", "bb", "long last"], vec!["äää", "b", ""], vec!["a"]];
        let rows = rows.map(|row| row.into_iter().map(str::to_owned).collect());
        assert_eq!(table(&rows), ["a    bb  long last", "äää  b", "a"]);
        assert!(table(&[]).is_empty());
    }

    #[test]
    fn ages_are_in_their_largest_unit() {
        let now = "2026-01-31T12:00:00Z".parse().unwrap();
        for (time, expected) in [
            ("2026-01-31T12:00:01.000Z", "0 s"),
            ("2026-01-31T11:59:01.000Z", "59 s"),
            ("2026-01-31T11:00:01Z", "59 min"),
            ("2026-01-30T12:00:01Z", "23 h"),
            ("2025-12-31T12:00:00Z", "31 d"),
            ("yesterday", "?"),
        ] {
            assert_eq!(age(time, now), expected, "{time}");
        }
    }

    #[test]
    fn a_terminal_is_not_at_the_mercy_of_names() {
        assert_eq!(clean("plain ünïcode"), "plain ünïcode");
        assert_eq!(clean("\x1b[2Jred\r\n\u{202e}x"), "\u{fffd}[2Jred\u{fffd}\u{fffd}\u{fffd}x");
    }
}
