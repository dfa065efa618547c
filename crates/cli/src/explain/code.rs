//! The code that a site's calls run through now, disassembled: the caller around the site, the gate, the
//! tree.

use std::io;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Formatter, GasFormatter, Instruction, OpKind};
use relpoline_stats::{Kind, SiteRecord, State};
use serde::Serialize;

use super::Subject;
use crate::live::memory;
use crate::shown::Shown;

/// Bytes of a cell.
const CELL: usize = 64;
/// Instructions of the caller that are shown before the site and behind it.
const BEFORE: usize = 5;
const BEHIND: usize = 2;
/// A function is decoded from its start when the site is not farther in than this.
const FAR: u64 = 64 * 1024;
/// Longest instruction.
const LONGEST: usize = 15;
/// Larger than any tree.
const LARGEST: usize = 1 << 16;
/// Where the parts of a gate's cell lie (`relpoline_text::gate`).
const GATE_WORD: usize = 8;
const MISS: usize = 24;
const COUNTING: usize = 32;
const SLOW: usize = 46;
const NUMBER: usize = 60;

/// A piece of code.
#[derive(Debug, Serialize)]
pub struct Part {
    /// What it is.
    pub title: Shown,
    /// Its instructions.
    pub lines: Vec<CodeLine>,
}

/// An instruction.
#[derive(Debug, Serialize)]
pub struct CodeLine {
    /// Where it is, `0x…`.
    pub address: Shown,
    /// Its bytes in hexadecimal.
    pub bytes: Shown,
    /// The instruction, in the assembler's words.
    pub text: Shown,
    /// What its address or constant is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<Shown>,
    /// It is the site.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_site: bool,
}

/// All parts.
///
/// # Errors
/// When the process' memory cannot be read.
pub fn parts(subject: &Subject, record: &SiteRecord) -> io::Result<Vec<Part>> {
    let mut parts = vec![caller(subject, record)?];
    if record.gate != 0 && State::from_number(record.state) != Some(State::Gone) {
        parts.extend(gate(subject, record)?);
    }
    if State::from_number(record.state) == Some(State::Learning) && record.recording != 0 {
        parts.push(part(subject, "recording stub", record.recording, CELL)?);
    }
    if record.tree != 0 {
        parts.push(part(subject, "tree", record.tree, CELL)?);
    }
    if record.tree_body != 0 {
        parts.push(part(subject, "tree's rest", record.tree_body, record.tree_body_bytes as usize)?);
    }
    Ok(parts)
}

/// The caller, from a few instructions before the site on.
fn caller(subject: &Subject, record: &SiteRecord) -> io::Result<Part> {
    let site = record.address;
    let start = subject.symbols.start(&subject.mapped, site).filter(|start| site - start <= FAR).unwrap_or(site);
    let length = usize::try_from(site - start).unwrap_or(0) + (BEHIND + 1) * LONGEST;
    let mut bytes = vec![0; length];
    if memory::read(subject.engine.process.pid, start, &mut bytes).is_err() {
        // The end of the mapping.
        bytes.truncate(length - BEHIND * LONGEST);
        memory::read(subject.engine.process.pid, start, &mut bytes)?;
    }
    let mut lines = Vec::new();
    for instruction in Decoder::with_ip(64, &bytes, start, DecoderOptions::NONE).iter() {
        let behind = lines.iter().position(|line: &CodeLine| line.is_site).map_or(0, |at| lines.len() - at);
        if behind > BEHIND {
            break;
        }
        lines.push(CodeLine { is_site: instruction.ip() == site, ..line(subject, &bytes, start, &instruction) });
        if instruction.ip() < site && lines.len() > BEFORE {
            lines.remove(0);
        }
    }
    Ok(Part { title: "caller".into(), lines })
}

/// The parts of a gate's cell that are in use.
fn gate(subject: &Subject, record: &SiteRecord) -> io::Result<Vec<Part>> {
    let mut cell = [0; CELL];
    memory::read(subject.engine.process.pid, record.gate, &mut cell)?;
    // A gate that is not a jump is the thunk itself.
    let is_jump = cell[0] == 0xe9;
    let gate = if is_jump { 0..GATE_WORD } else { 0..MISS };
    let title = if is_jump { "gate" } else { "gate: the thunk itself" };
    // A jump's counting stub has a cell of its own.
    let slow = if record.kind == Kind::Call as u8 { SLOW } else { COUNTING };
    let parts = [(title, gate), ("miss gate", MISS..COUNTING)];
    let stubs = [("counting stub", COUNTING..slow), ("slow entry", slow..NUMBER)];
    let pieces = parts.into_iter().chain(stubs).filter(|(_, range)| !range.is_empty());
    let piece = |(title, range): (&str, std::ops::Range<usize>)| {
        let at = record.gate.wrapping_add(range.start as u64);
        Part { title: title.into(), lines: listing(subject, &cell[range], at) }
    };
    Ok(pieces.map(piece).collect())
}

fn part(subject: &Subject, title: &str, at: u64, length: usize) -> io::Result<Part> {
    let mut bytes = vec![0; length.min(LARGEST)];
    memory::read(subject.engine.process.pid, at, &mut bytes)?;
    Ok(Part { title: title.into(), lines: listing(subject, &bytes, at) })
}

/// The instructions of a piece of our code: up to the constants that lie behind it, without the `int3` that
/// only fill.
fn listing(subject: &Subject, bytes: &[u8], at: u64) -> Vec<CodeLine> {
    let mut end = at.saturating_add(bytes.len() as u64);
    let mut lines = Vec::new();
    for instruction in Decoder::with_ip(64, bytes, at, DecoderOptions::NONE).iter() {
        if instruction.ip() >= end || instruction.is_invalid() {
            break;
        }
        if let Some(constant) =
            constant_at(&instruction).filter(|address| (at..at.saturating_add(bytes.len() as u64)).contains(address))
        {
            end = end.min(constant);
        }
        if instruction.flow_control() != FlowControl::Interrupt {
            lines.push(line(subject, bytes, at, &instruction));
        }
    }
    lines
}

/// The address of a constant that is compared with.
fn constant_at(instruction: &Instruction) -> Option<u64> {
    let compares = instruction.mnemonic() == iced_x86::Mnemonic::Cmp;
    (compares && instruction.is_ip_rel_memory_operand()).then(|| instruction.ip_rel_memory_address())
}

fn line(subject: &Subject, bytes: &[u8], start: u64, instruction: &Instruction) -> CodeLine {
    let offset = usize::try_from(instruction.ip().wrapping_sub(start)).unwrap_or(usize::MAX);
    let own = bytes.get(offset..offset.saturating_add(instruction.len())).unwrap_or_default();
    let mut text = String::new();
    let mut formatter = GasFormatter::new();
    let options = formatter.options_mut();
    options.set_space_after_operand_separator(true);
    options.set_uppercase_hex(false);
    options.set_branch_leading_zeros(false);
    formatter.format(instruction, &mut text);
    CodeLine {
        address: format!("{:#x}", instruction.ip()).into(),
        bytes: own.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into(),
        text: text.into(),
        note: note(subject, instruction),
        is_site: false,
    }
}

/// What an instruction refers to: where a branch goes, what a compare compares with.
fn note(subject: &Subject, instruction: &Instruction) -> Option<Shown> {
    if matches!(instruction.op0_kind(), OpKind::NearBranch64) {
        return subject.name(instruction.near_branch_target());
    }
    let constant = match constant_at(instruction) {
        Some(address) => {
            let mut value = [0; 8];
            memory::read(subject.engine.process.pid, address, &mut value).ok()?;
            u64::from_le_bytes(value)
        }
        None if instruction.mnemonic() == iced_x86::Mnemonic::Cmp && instruction.op_count() == 2 => {
            let immediate = |kind| matches!(kind, OpKind::Immediate32 | OpKind::Immediate32to64);
            immediate(instruction.op1_kind()).then(|| instruction.immediate(1))?
        }
        None => return None,
    };
    subject.name(constant).map(|name| format!("= {name}").into())
}
