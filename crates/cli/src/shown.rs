//! What is shown: on a terminal, in HTML, SVG and JSON, in labels and other tools' files.
//!
//! Names come from everywhere: symbols and paths of programs that somebody else has built, what processes
//! call themselves, what they wrote into their statistics. A terminal takes some characters for orders, a
//! reader takes others for something that is not there, and a line feed makes a second line of one. So all
//! that comes from outside becomes [`Shown`], and there is one way to make one: control characters, marks
//! that turn the direction of writing, invisible ones and bytes that are no text are written as escapes
//! (`\x1b`, `\u{202e}`, `\xff`), and the middle of what is too long makes way. What reports and lists are
//! made of is of this type, so that nothing else gets into them. As a second line of defence [`page`] looks
//! at a finished text before it is written, and `complain` at messages.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::io;
use std::ops::Deref;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The most characters that are shown of one name.
pub const LONGEST: usize = 512;

/// Text from outside, fit to be shown.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shown(Arc<str>);

impl Shown {
    /// Of bytes that may be no text.
    #[must_use]
    pub fn of_bytes(bytes: &[u8]) -> Self {
        let bytes = bytes.get(..4 * LONGEST).map_or(Cow::Borrowed(bytes), |start| {
            // Enough of both ends: the middle makes way anyway.
            if bytes.len() <= 8 * LONGEST {
                bytes.into()
            } else {
                [start, &bytes[bytes.len() - 4 * LONGEST..]].concat().into()
            }
        });
        let mut text = String::with_capacity(bytes.len());
        for chunk in bytes.utf8_chunks() {
            clean_into(&mut text, chunk.valid(), |_| false);
            for byte in chunk.invalid() {
                // Writing to a string does not fail.
                let _ = write!(text, "\\x{byte:02x}");
            }
        }
        Self(shortened(&text).into())
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a character may be shown as it is: it is no order, it does not turn the direction of writing or
/// end a line, and it can be seen. What cannot be seen is what Unicode lets a display leave out
/// (`Default_Ignorable_Code_Point`).
fn is_harmless(c: char) -> bool {
    let ignorable = matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fff8}'
        | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}');
    let misleads = matches!(c, '\u{2028}' | '\u{2029}' | '\u{fff9}'..='\u{fffb}' | '\u{fffe}' | '\u{ffff}');
    !c.is_control() && !ignorable && !misleads
}

/// Appends `text`, with what may not be shown escaped, but for what is `kept`.
fn clean_into(out: &mut String, text: &str, kept: impl Fn(char) -> bool) {
    for c in text.chars() {
        // Writing to a string does not fail.
        let _ = match c {
            c if is_harmless(c) || kept(c) => out.write_char(c),
            '\n' => out.write_str("\\n"),
            '\t' => out.write_str("\\t"),
            '\r' => out.write_str("\\r"),
            c if c.is_ascii() => write!(out, "\\x{:02x}", u32::from(c)),
            c => write!(out, "\\u{{{:x}}}", u32::from(c)),
        };
    }
}

fn shortened(text: &str) -> Cow<'_, str> {
    if text.len() <= LONGEST { text.into() } else { cut(text, LONGEST).into() }
}

/// At most `width` characters: the middle of a long name makes way.
#[must_use]
pub fn cut(name: &str, width: usize) -> String {
    let length = name.chars().count();
    if length <= width {
        return name.to_owned();
    }
    let tail = width / 3;
    let head = width.saturating_sub(tail + 1);
    name.chars().take(head).chain(['…']).chain(name.chars().skip(length - tail)).collect()
}

/// A finished text of many lines, with everything but its line feeds fit to be shown.
#[must_use]
pub fn page(text: &str) -> Cow<'_, str> {
    let is_kept = |c| c == '\n';
    if text.chars().all(|c| is_harmless(c) || is_kept(c)) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len());
    clean_into(&mut out, text, is_kept);
    out.into()
}

/// One line, whatever was in it.
#[must_use]
pub fn line(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_harmless) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len());
    clean_into(&mut out, text, |_| false);
    out.into()
}

/// Whether a name is one word of another tool's file, and fit to be shown.
#[must_use]
pub fn is_word(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| is_harmless(c) && !c.is_whitespace())
}

/// Writes a finished text.
///
/// # Errors
/// When it cannot be written.
pub fn write(out: &mut impl io::Write, text: &str) -> io::Result<()> {
    out.write_all(page(text).as_bytes())
}

/// Writes a value as JSON, as it is made: a report may be long.
///
/// # Errors
/// When it cannot be written.
pub fn write_json(out: impl io::Write, value: &impl Serialize) -> io::Result<()> {
    let mut out = io::BufWriter::new(out);
    serde_json::to_writer_pretty(&mut out, value)?;
    io::Write::write_all(&mut out, b"\n")?;
    io::Write::flush(&mut out)
}

/// Decimals of a share, at most.
const DECIMALS: usize = 4;

/// A share in per cent, without the sign, with at least so many decimals: with more where it would be rounded
/// to all, and is not. An estimate is told without any, and has one then.
#[must_use]
pub fn percent(share: f64, decimals: usize) -> String {
    let rounded = |decimals: usize| format!("{:.decimals$}", share * 100.0);
    let is_true = |text: &String| share >= 1.0 || !text.starts_with("100");
    let (most, nearly) = if decimals == 0 { (1, "99.9") } else { (DECIMALS, "99.9999") };
    (decimals..=most).map(rounded).find(is_true).unwrap_or_else(|| nearly.into())
}

/// As text in XML or HTML, also in an attribute.
#[must_use]
pub fn markup(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in line(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// As the value of a label in Prometheus' text format.
#[must_use]
pub fn label(text: &str) -> String {
    line(text).replace('\\', "\\\\").replace('"', "\\\"")
}

/// JSON inside of a script element: in a string of JSON, `<` may be written as an escape; then nothing in it
/// can end the element.
#[must_use]
pub fn script(json: &str) -> String {
    json.replace('<', "\\u003c")
}

impl From<&str> for Shown {
    fn from(text: &str) -> Self {
        if text.len() <= LONGEST && text.chars().all(is_harmless) {
            Self(text.into())
        } else {
            Self::of_bytes(text.as_bytes())
        }
    }
}

impl From<String> for Shown {
    fn from(text: String) -> Self {
        Self::from(&*text)
    }
}

impl From<&String> for Shown {
    fn from(text: &String) -> Self {
        Self::from(&**text)
    }
}

impl Default for Shown {
    fn default() -> Self {
        Self("".into())
    }
}

impl Deref for Shown {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Shown {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl PartialEq<str> for Shown {
    fn eq(&self, other: &str) -> bool {
        &*self.0 == other
    }
}

impl PartialEq<&str> for Shown {
    fn eq(&self, other: &&str) -> bool {
        &*self.0 == *other
    }
}

impl PartialEq<String> for Shown {
    fn eq(&self, other: &String) -> bool {
        &*self.0 == other
    }
}

impl Serialize for Shown {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Shown {
    /// A report that was read may have been written by anybody.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::from(&*Cow::<str>::deserialize(deserializer)?))
    }
}

/// A number of things, of which one is singular: `1 target`, `2 targets`.
#[must_use]
pub fn count(number: impl Into<u64>, what: &str) -> String {
    match number.into() {
        1 => format!("1 {what}"),
        number => format!("{number} {what}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Orders for a terminal, a line feed, marks that turn the direction, a NUL, invisible ones.
    const HOSTILE: &str =
        "\u{1b}]0;OWNED\u{7}\u{1b}[31m\u{9b}2J\n\r\t\0\u{7f}\u{202e}\u{2066}\u{200f}\u{2028}\u{feff}\u{e0041}ü";

    #[test]
    fn nothing_that_is_shown_gives_orders() {
        let shown = Shown::from(HOSTILE);
        let wanted = "\\x1b]0;OWNED\\x07\\x1b[31m\\u{9b}2J\\n\\r\\t\\x00\\x7f\\u{202e}\\u{2066}\\u{200f}\\u{2028}\\u{feff}\\u{e0041}ü";
        assert_eq!(shown, wanted);
        assert_eq!(Shown::of_bytes(b"a\xff\xc3(\xe2\x80"), "a\\xff\\xc3(\\xe2\\x80");
        assert_eq!(line(HOSTILE), wanted);
        assert_eq!(page("a\n\u{1b}b\n"), "a\n\\x1bb\n");
    }

    #[test]
    fn nothing_is_there_that_cannot_be_seen() {
        for hidden in "\u{34f}\u{17b4}\u{180b}\u{180f}\u{fe00}\u{fe0f}\u{fff0}\u{1d173}\u{1d17a}\u{e0100}".chars() {
            assert_eq!(line(&format!("a{hidden}b")), format!("a\\u{{{:x}}}b", u32::from(hidden)));
        }
    }

    #[test]
    fn what_is_read_is_fit_to_be_shown() {
        let json = serde_json::to_string(HOSTILE).unwrap();
        let read: Shown = serde_json::from_str(&json).unwrap();
        assert_eq!(read, Shown::from(HOSTILE));
        let again: Shown = serde_json::from_str(&serde_json::to_string(&read).unwrap()).unwrap();
        assert_eq!(again, read);
    }

    #[test]
    fn long_names_lose_their_middle() {
        for name in ["x".repeat(1 << 16), "\u{1b}".repeat(1 << 16), "ü".repeat(LONGEST + 1)] {
            let shown = Shown::from(name);
            assert!(shown.chars().count() <= LONGEST && shown.contains('…'), "{}", shown.len());
        }
        assert_eq!(Shown::of_bytes(&[0xff; 1 << 16]).chars().count(), LONGEST);
        let ends = Shown::from(format!("begin{}end", "-".repeat(1 << 16)));
        assert!(ends.starts_with("begin") && ends.ends_with("end"));
    }

    #[test]
    fn nearly_all_is_not_all() {
        let said = [0.5, 0.9995, 0.999_96, 0.999_999_9, 1.0].map(|share| percent(share, 1));
        assert_eq!(said, ["50.0", "99.95", "99.996", "99.9999", "100.0"]);
        assert_eq!([0.994, 0.996, 0.999_99, 1.0].map(|share| percent(share, 0)), ["99", "99.6", "99.9", "100"]);
    }

    #[test]
    fn nothing_leaves_its_place() {
        assert_eq!(markup("<a b=\"c\">'&\n"), "&lt;a b=&quot;c&quot;&gt;&#39;&amp;\\n");
        assert_eq!(label("a\"b\\c\nd"), "a\\\"b\\\\c\\\\nd");
        assert_eq!(script("</script>"), "\\u003c/script>");
    }
}
