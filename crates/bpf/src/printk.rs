//! The formats of `bpf_trace_printk`.

use crate::helper::HelperCall;
use crate::trap::TrapKind;
use std::fmt::Write;

/// Longest string that `%s` prints.
const LONGEST: usize = 512;

/// The text of `format` with the call's arguments r3 to r5. Unknown conversions are printed as they stand.
pub fn format(call: &HelperCall<'_>, format: &[u8]) -> Result<String, TrapKind> {
    let mut out = String::new();
    let mut args = call.args[2..].iter().copied();
    let mut bytes = format.iter().copied().take_while(|b| *b != 0);
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte.into());
            continue;
        }
        let mut long = false;
        let conversion = loop {
            match bytes.next() {
                Some(b'l') => long = true,
                Some(b'0'..=b'9' | b'#' | b'-') => {}
                other => break other,
            }
        };
        if conversion == Some(b'%') {
            out.push('%');
            continue;
        }
        one(call, &mut out, conversion, long, args.next().unwrap_or(0))?;
    }
    Ok(out)
}

fn one(call: &HelperCall<'_>, out: &mut String, conversion: Option<u8>, long: bool, arg: u64) -> Result<(), TrapKind> {
    let unsigned = if long { arg } else { arg & 0xffff_ffff };
    let signed = if long { arg.cast_signed() } else { i64::from(arg as u32 as i32) };
    // Writing to a string cannot fail.
    let _ = match conversion {
        Some(b'd' | b'i') => write!(out, "{signed}"),
        Some(b'u') => write!(out, "{unsigned}"),
        Some(b'x') => write!(out, "{unsigned:x}"),
        Some(b'p') => write!(out, "{arg:#x}"),
        Some(b'c') => write!(out, "{}", char::from(arg as u8)),
        Some(b's') => {
            out.push_str(&string(call, arg)?);
            Ok(())
        }
        Some(other) => write!(out, "%{}", char::from(other)),
        None => write!(out, "%"),
    };
    Ok(())
}

fn string(call: &HelperCall<'_>, mut at: u64) -> Result<String, TrapKind> {
    let mut bytes = Vec::new();
    while bytes.len() < LONGEST {
        match call.read(at, 1)?[0] {
            0 => break,
            byte => bytes.push(byte),
        }
        at += 1;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
