//! Printing, and numbers from text.

use super::format::{Arguments, format};
use super::{HelperCall, errno};
use crate::trap::TrapKind;

/// Most bytes of a line that is printed, its end included.
const LONGEST: usize = 1024;
/// Most arguments of a format (`MAX_BPRINTF_VARARGS`).
const ARGUMENTS: u64 = 12;

/// Prints a line, or as much of it as there is room for.
fn print(c: &HelperCall<'_>, line: Option<Vec<u8>>) -> u64 {
    let Some(mut line) = line else { return errno::INVALID };
    line.truncate(LONGEST - 1);
    // SAFETY: the runtime outlives its runs.
    (unsafe { &*c.run.shared }.printk)(&String::from_utf8_lossy(&line));
    line.len() as u64
}

/// `(format, length, …)`: three arguments at most.
pub fn trace_printk(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    let text = c.read(c.args[0], c.args[1] & 0xffff_ffff)?;
    let arguments = c.args;
    let line = format(c, &text, Arguments::from(&arguments[2..]))?;
    Ok(print(c, line))
}

/// The arguments that lie in memory, or `None` for as many as there cannot be.
fn in_memory(c: &HelperCall<'_>, at: u64, len: u64) -> Result<Option<Vec<u64>>, TrapKind> {
    if !len.is_multiple_of(8) || len > ARGUMENTS * 8 || len != 0 && at == 0 {
        return Ok(None);
    }
    let bytes = if len == 0 { Vec::new() } else { c.read(at, len)? };
    let words = bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
    Ok(Some(words.collect()))
}

/// `(format, length, arguments, length)`.
pub fn trace_vprintk(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    let text = c.read(c.args[0], c.args[1] & 0xffff_ffff)?;
    let Some(arguments) = in_memory(c, c.args[2], c.args[3] & 0xffff_ffff)? else { return Ok(errno::INVALID) };
    let line = format(c, &text, Arguments::from(&arguments[..]))?;
    Ok(print(c, line))
}

/// `(text, size, format, arguments, length)`: bytes of the whole text and its end, however much of it there
/// is room for.
pub fn snprintf(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    let [to, size, at, arguments, len] = c.args;
    let size = (size & 0xffff_ffff) as usize;
    let Some(arguments) = in_memory(c, arguments, len & 0xffff_ffff)? else { return Ok(errno::INVALID) };
    let mut text = super::format::string(c, at)?;
    text.push(0);
    let Some(mut line) = format(c, &text, Arguments::from(&arguments[..]))? else { return Ok(errno::INVALID) };
    let whole = line.len() as u64 + 1;
    if size != 0 {
        line.truncate(size - 1);
        line.push(0);
        c.write(to, &line)?;
    }
    Ok(whole)
}

/// `(text, length, base, result)`: bytes that were read.
pub fn parse(c: &mut HelperCall<'_>, signed: bool) -> Result<u64, TrapKind> {
    /// Bytes of a number that are looked at.
    const MOST: usize = 63;
    let [at, len, flags, result, _] = c.args;
    c.write(result, &[0; 8])?;
    let len = len & 0xffff_ffff;
    if at == 0 || len == 0 || !matches!(flags, 0 | 8 | 10 | 16) {
        return Ok(errno::INVALID);
    }
    let text = c.read(at, len)?;
    let is_space = |b: &&u8| matches!(**b, b' ' | b'\t'..=b'\r' | 0xa0);
    let spaces = text.iter().take_while(is_space).count();
    let negative = text.get(spaces) == Some(&b'-');
    let begin = spaces + usize::from(negative);
    if negative && !signed {
        return Ok(errno::INVALID);
    }
    let digits = &text[begin..(begin + MOST).min(text.len())];
    let is_hex = |digits: &[u8]| matches!(digits, [b'0', b'x' | b'X', ..]);
    let base = match flags as u32 {
        0 if is_hex(digits) && digits.get(2).is_some_and(u8::is_ascii_hexdigit) => 16,
        0 if digits.first() == Some(&b'0') => 8,
        0 => 10,
        base => base,
    };
    let prefix = if base == 16 && is_hex(digits) { 2 } else { 0 };
    let (mut value, mut read, mut fits) = (0u64, prefix, true);
    for digit in digits[prefix..].iter().map_while(|b| char::from(*b).to_digit(base)) {
        let next = value.checked_mul(base.into()).and_then(|v| v.checked_add(digit.into()));
        fits &= next.is_some();
        value = next.unwrap_or(value);
        read += 1;
    }
    if !fits {
        return Ok(errno::RANGE);
    }
    if read == prefix {
        return Ok(errno::INVALID);
    }
    let most = i64::MAX as u64 + u64::from(negative);
    if signed && value > most {
        return Ok(errno::RANGE);
    }
    let value = if negative { value.wrapping_neg() } else { value };
    c.write(result, &value.to_le_bytes())?;
    Ok((begin + read) as u64)
}

/// `(text, length, other)`: `strncmp`.
pub fn compare(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    let [one, len, other, ..] = c.args;
    for i in 0..len & 0xffff_ffff {
        let (a, b) = (c.read(one + i, 1)?[0], c.read(other + i, 1)?[0]);
        if a != b {
            return Ok((if a < b { -1i64 } else { 1 }).cast_unsigned());
        }
        if a == 0 {
            break;
        }
        c.charge(1)?;
    }
    Ok(0)
}
