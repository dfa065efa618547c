//! The formats of `bpf_trace_printk` and `bpf_snprintf`, and what the kernel refuses about them
//! (`bpf_bprintf_prepare`).

use super::HelperCall;
use crate::trap::TrapKind;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Longest string that `%s` prints.
const LONGEST: usize = 512;
/// Widest field.
const WIDEST: usize = 512;

/// What a format's conversions take, in order.
pub struct Arguments<'a>(std::slice::Iter<'a, u64>);

impl<'a> From<&'a [u64]> for Arguments<'a> {
    fn from(words: &'a [u64]) -> Self {
        Arguments(words.iter())
    }
}

/// Width and flags of a conversion.
#[derive(Default)]
struct Field {
    width: usize,
    zeros: bool,
    left: bool,
    plus: bool,
    space: bool,
}

/// The text of `format`, up to its first zero, with the arguments; `None` where the kernel would refuse it.
pub fn format(c: &HelperCall<'_>, format: &[u8], mut arguments: Arguments<'_>) -> Result<Option<Vec<u8>>, TrapKind> {
    let Some(end) = format.iter().position(|b| *b == 0) else { return Ok(None) };
    let format = &format[..end];
    if !format.iter().all(|b| matches!(*b, b' '..=b'~' | b'\t'..=b'\r' | 0x80..)) {
        return Ok(None);
    }
    let mut out = Vec::new();
    let mut rest = format;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match (byte, rest.first()) {
            (b'%', Some(b'%')) => {
                out.push(b'%');
                rest = &rest[1..];
            }
            (b'%', _) => match one(c, rest, &mut arguments)? {
                None => return Ok(None),
                Some((text, used)) => {
                    out.extend(text.into_bytes());
                    rest = &rest[used..];
                }
            },
            _ => out.push(byte),
        }
    }
    Ok(Some(out))
}

/// One conversion, behind its per cent sign: its text, and how much of the format it was.
fn one(c: &HelperCall<'_>, spec: &[u8], arguments: &mut Arguments<'_>) -> Result<Option<(String, usize)>, TrapKind> {
    let Some(&argument) = arguments.0.next() else { return Ok(None) };
    let mut field = Field::default();
    let mut at = 0;
    while let Some(flag @ (b'0' | b'+' | b'-' | b' ')) = spec.get(at) {
        match flag {
            b'0' => field.zeros = true,
            b'+' => field.plus = true,
            b'-' => field.left = true,
            _ => field.space = true,
        }
        at += 1;
    }
    while let Some(digit @ b'0'..=b'9') = spec.get(at) {
        field.width = (field.width * 10 + usize::from(digit - b'0')).min(WIDEST);
        at += 1;
    }
    let text = match spec.get(at) {
        Some(b'p') => match pointer(c, &spec[at + 1..], argument)? {
            None => return Ok(None),
            Some((text, more)) => {
                at += more;
                text
            }
        },
        Some(b's') => String::from_utf8_lossy(&string(c, argument)?).into_owned(),
        Some(b'c') => char::from(argument as u8).to_string(),
        _ => {
            let longs = spec[at..].iter().take(2).take_while(|b| **b == b'l').count();
            at += longs;
            let Some(text) = spec.get(at).and_then(|conversion| number(*conversion, longs > 0, argument, &field))
            else {
                return Ok(None);
            };
            text
        }
    };
    Ok(Some((padded(text, &field), at + 1)))
}

fn number(conversion: u8, long: bool, argument: u64, field: &Field) -> Option<String> {
    let unsigned = if long { argument } else { argument & 0xffff_ffff };
    Some(match conversion {
        b'd' | b'i' => {
            let signed = if long { argument.cast_signed() } else { i64::from(argument as u32 as i32) };
            let sign = match signed {
                ..0 => "-",
                _ if field.plus => "+",
                _ if field.space => " ",
                _ => "",
            };
            let digits = signed.unsigned_abs().to_string();
            let zeros = if field.zeros && !field.left { field.width.saturating_sub(sign.len()) } else { 0 };
            format!("{sign}{digits:0>zeros$}")
        }
        b'u' => unsigned.to_string(),
        b'x' => format!("{unsigned:x}"),
        b'X' => format!("{unsigned:X}"),
        _ => return None,
    })
}

/// `%p` and its kinds: text, and how much of the format follows the letter.
fn pointer(c: &HelperCall<'_>, kind: &[u8], at: u64) -> Result<Option<(String, usize)>, TrapKind> {
    Ok(Some(match kind {
        [b'k' | b'u', b's', ..] => (String::from_utf8_lossy(&string(c, at)?).into_owned(), 2),
        [letter @ (b'i' | b'I'), version @ (b'4' | b'6'), ..] => {
            let dotted = *letter == b'I';
            let text = if *version == b'4' {
                let bytes: [u8; 4] = c.read(at, 4)?.try_into().unwrap_or_default();
                let [a, b, c, d] = bytes;
                if dotted { Ipv4Addr::from(bytes).to_string() } else { format!("{a:03}.{b:03}.{c:03}.{d:03}") }
            } else {
                let address = Ipv6Addr::from(<[u8; 16]>::try_from(c.read(at, 16)?).unwrap_or_default());
                let parts = address.segments().map(|part| format!("{part:04x}"));
                parts.join(if dotted { ":" } else { "" })
            };
            (text, 2)
        }
        [b'i' | b'I', ..] => return Ok(None),
        // As `%px`: an address of this process, which hides nothing from its own programs.
        [b'x' | b'K' | b'B' | b's' | b'S', ..] => (format!("{at:016x}"), 1),
        [] | [b' '..=b'/' | b':'..=b'@' | b'['..=b'`' | b'{'..=b'~' | b'\t'..=b'\r', ..] => (format!("{at:016x}"), 0),
        _ => return Ok(None),
    }))
}

fn padded(text: String, field: &Field) -> String {
    let missing = field.width.saturating_sub(text.chars().count());
    match (field.left, field.zeros) {
        (true, _) => text + &" ".repeat(missing),
        (false, true) => "0".repeat(missing) + &text,
        (false, false) => " ".repeat(missing) + &text,
    }
}

/// The string at `at`, without its end.
pub fn string(c: &HelperCall<'_>, mut at: u64) -> Result<Vec<u8>, TrapKind> {
    let mut bytes = Vec::new();
    while bytes.len() < LONGEST {
        match c.read(at, 1)?[0] {
            0 => break,
            byte => bytes.push(byte),
        }
        at += 1;
    }
    Ok(bytes)
}
