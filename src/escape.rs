//! Escapes untrusted text for a terminal and a log.

use std::fmt::{self, Write as _};

/// The letter, escaped if it is not plainly visible: controls and bidirectional overrides can control a terminal or
/// forge a line.
pub(crate) fn visible(letter: char) -> impl Iterator<Item = char> {
    let is_visible = matches!(letter, '"' | '\'' | '\\'); // Rust escapes these, although they are visible.
    letter.escape_debug().skip(usize::from(is_visible))
}

/// The text with all letters escaped that are not plainly visible, cut after [`LINE_CHARS_MAX`] letters.
pub(crate) fn printable(text: fmt::Arguments<'_>) -> String {
    struct Escape(String, usize);
    impl fmt::Write for Escape {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            for letter in text.chars() {
                if self.1 == LINE_CHARS_MAX {
                    self.0.push('…');
                    self.1 += 1;
                }
                if self.1 > LINE_CHARS_MAX {
                    return Err(fmt::Error);
                }
                self.0.extend(visible(letter));
                self.1 += 1;
            }
            Ok(())
        }
    }
    let mut escape = Escape(String::new(), 0);
    let _ = escape.write_fmt(text); // An error only means that the line was cut.
    escape.0
}

const LINE_CHARS_MAX: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_peer_cannot_forge_a_line_or_control_a_terminal() {
        assert_eq!(printable(format_args!("a\nb\x1b[2J \u{202e}c 'é'")), "a\\nb\\u{1b}[2J \\u{202e}c 'é'");
    }

    #[test]
    fn a_line_is_cut() {
        assert_eq!(printable(format_args!("{}", "x".repeat(5_000))).chars().count(), LINE_CHARS_MAX + 1);
    }
}
