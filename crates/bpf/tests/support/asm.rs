//! The assembler itself: two passes, the first of which notes labels.

use relpoline_bpf::insn::Insn;
use std::collections::HashMap;

/// Assembles `text`, or says which line is wrong.
pub fn assemble(text: &str) -> Result<Vec<Insn>, String> {
    let mut labels = HashMap::new();
    let mut lines = Vec::new();
    let mut at = 0;
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or("").trim();
        if line.is_empty() {
            continue;
        }
        if let Some(label) = line.strip_suffix(':') {
            labels.insert(label.trim().to_string(), at);
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().map(|w| w.trim_end_matches(',')).collect();
        if words[0] == "exit" {
            labels.entry("exit".into()).or_insert(at);
        }
        let slots = if matches!(words[0], "lddw" | "ldmap") { 2 } else { 1 };
        lines.push((at, line, words));
        at += slots;
    }
    let mut out = Vec::new();
    for (at, line, words) in lines {
        let before = out.len();
        one(&words, at, &labels, &mut out).ok_or_else(|| format!("cannot assemble '{line}'"))?;
        debug_assert!(out.len() > before);
    }
    Ok(out)
}

fn reg(word: &str) -> Option<u8> {
    word.strip_prefix("%r")?.parse().ok()
}

pub fn number(word: &str) -> Option<i64> {
    let (negative, digits) = match word.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, word.strip_prefix('+').unwrap_or(word)),
    };
    let value = match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok()?,
        None => digits.parse().ok()?,
    }
    .cast_signed();
    Some(if negative { value.wrapping_neg() } else { value })
}

/// `[%r1+8]`.
fn memory(word: &str) -> Option<(u8, i16)> {
    let inside = word.strip_prefix('[')?.strip_suffix(']')?;
    let split = inside.find(['+', '-']).unwrap_or(inside.len());
    let offset = if split == inside.len() { 0 } else { number(&inside[split..])? };
    Some((reg(&inside[..split])?, offset as i16))
}

fn distance(word: &str, at: usize, labels: &HashMap<String, usize>) -> Option<i64> {
    if word.starts_with(['+', '-']) {
        return number(word);
    }
    Some(*labels.get(word)? as i64 - at as i64 - 1)
}

fn one(words: &[&str], at: usize, labels: &HashMap<String, usize>, out: &mut Vec<Insn>) -> Option<()> {
    let mut i = Insn::default();
    match words {
        ["exit"] => i.opcode = 0x95,
        ["lddw", dst, value] => {
            let value = number(value)?.cast_unsigned();
            out.push(Insn { opcode: 0x18, dst: reg(dst)?, imm: value as u32 as i32, ..i });
            i.imm = (value >> 32) as u32 as i32;
        }
        // Ours: the handle of map number `map`.
        ["ldmap", dst, map] => out.push(Insn { opcode: 0x18, dst: reg(dst)?, src: 1, imm: number(map)? as i32, ..i }),
        ["call", "local", target] => {
            (i.opcode, i.src) = (0x85, 1);
            i.imm = distance(target, at, labels)? as i32;
        }
        ["call", "helper", target] | ["call", target] => {
            i.opcode = 0x85;
            match reg(target) {
                Some(r) => (i.opcode, i.dst) = (0x8d, r),
                None => i.imm = number(target)? as i32,
            }
        }
        ["ja", target] => (i.opcode, i.offset) = (0x05, distance(target, at, labels)? as i16),
        ["ja32", target] => (i.opcode, i.imm) = (0x06, distance(target, at, labels)? as i32),
        ["lock", rest @ ..] => i = atomic(rest)?,
        [op, dst, src] if op.starts_with("ldx") => {
            let (base, offset) = memory(src)?;
            (i.opcode, i.dst, i.src, i.offset) = (size(&op[3..], 0x61)?, reg(dst)?, base, offset);
        }
        [op, dst, src] if op.starts_with("stx") => {
            let (base, offset) = memory(dst)?;
            (i.opcode, i.dst, i.src, i.offset) = (size(&op[3..], 0x63)?, base, reg(src)?, offset);
        }
        [op, dst, src] if op.starts_with("st") => {
            let (base, offset) = memory(dst)?;
            (i.opcode, i.dst, i.offset, i.imm) = (size(&op[2..], 0x62)?, base, offset, number(src)? as i32);
        }
        [op, dst, src, target] => {
            let (name, class) = op.strip_suffix("32").map_or((*op, 5), |name| (name, 6));
            i = operands(class | condition(name)? << 4, dst, Some(src))?;
            i.offset = distance(target, at, labels)? as i16;
        }
        [op, dst] => i = unary(op, dst)?,
        [op, dst, src] => i = binary(op, dst, src)?,
        _ => return None,
    }
    out.push(i);
    Some(())
}

fn size(word: &str, opcode: u8) -> Option<u8> {
    let bits = match word.trim_start_matches('s') {
        "w" => 0x00,
        "h" => 0x08,
        "b" => 0x10,
        "dw" => 0x18,
        _ => return None,
    };
    Some(if word.starts_with('s') { 0x81 | bits } else { opcode | bits })
}

fn condition(name: &str) -> Option<u8> {
    const NAMES: [(&str, u8); 11] = [
        ("jeq", 1),
        ("jgt", 2),
        ("jge", 3),
        ("jset", 4),
        ("jne", 5),
        ("jsgt", 6),
        ("jsge", 7),
        ("jlt", 10),
        ("jle", 11),
        ("jslt", 12),
        ("jsle", 13),
    ];
    NAMES.iter().find(|(n, _)| *n == name).map(|(_, code)| *code)
}

fn operands(opcode: u8, dst: &str, src: Option<&&str>) -> Option<Insn> {
    let mut i = Insn { opcode, dst: reg(dst)?, ..Insn::default() };
    if let Some(src) = src {
        match reg(src) {
            Some(r) => (i.opcode, i.src) = (opcode | 8, r),
            None => i.imm = number(src)? as i32,
        }
    }
    Some(i)
}

fn unary(op: &str, dst: &str) -> Option<Insn> {
    for (name, opcode) in [("be", 0xdc), ("le", 0xd4), ("bswap", 0xd7), ("swap", 0xd7)] {
        if let Some(bits) = op.strip_prefix(name) {
            return Some(Insn { opcode, dst: reg(dst)?, imm: number(bits)? as i32, ..Insn::default() });
        }
    }
    match op {
        "neg" | "neg64" => operands(0x87, dst, None),
        "neg32" => operands(0x84, dst, None),
        _ => None,
    }
}

fn binary(op: &str, dst: &str, src: &str) -> Option<Insn> {
    const NAMES: [(&str, u8, i16); 14] = [
        ("add", 0, 0),
        ("sub", 1, 0),
        ("mul", 2, 0),
        ("div", 3, 0),
        ("sdiv", 3, 1),
        ("or", 4, 0),
        ("and", 5, 0),
        ("lsh", 6, 0),
        ("rsh", 7, 0),
        ("mod", 9, 0),
        ("smod", 9, 1),
        ("xor", 10, 0),
        ("mov", 11, 0),
        ("arsh", 12, 0),
    ];
    let (name, class) = match (op.strip_suffix("32"), op.strip_suffix("64")) {
        (Some(name), _) => (name, 4),
        (_, Some(name)) => (name, 7),
        _ => (op, 7),
    };
    if let Some(bits) = name.strip_prefix("movsx") {
        let mut i = operands(class | 0xb0, dst, Some(&src))?;
        i.offset = number(bits)? as i16;
        return Some(i);
    }
    let (_, code, offset) = NAMES.iter().find(|(n, ..)| *n == name)?;
    let mut i = operands(class | code << 4, dst, Some(&src))?;
    i.offset = *offset;
    Some(i)
}

fn atomic(words: &[&str]) -> Option<Insn> {
    let (fetch, rest) = match words {
        ["fetch", rest @ ..] => (1, rest),
        rest => (0, rest),
    };
    let [op, dst, src] = rest else { return None };
    let (name, opcode) = op.strip_suffix("32").map_or((*op, 0xdb), |name| (name, 0xc3));
    let imm = match name {
        "add" => fetch,
        "or" => 0x40 | fetch,
        "and" => 0x50 | fetch,
        "xor" => 0xa0 | fetch,
        "xchg" => 0xe1,
        "cmpxchg" => 0xf1,
        _ => return None,
    };
    let (base, offset) = memory(dst)?;
    Some(Insn { opcode, dst: base, src: reg(src)?, offset, imm })
}
