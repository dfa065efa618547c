//! Sites and function ranges, in compiled programs and in made-up bytes.

mod compiled;

use std::collections::BTreeSet;

use compiled::{Compiler, Segment, cc, clang, symbols, text, unwind};
use iced_x86::{Decoder, DecoderOptions};
use proptest::prelude::*;
use relpoline_core::arch::{
    Reg,
    thunk::{find, gcc_bytes},
};
use relpoline_core::scan::{
    EhFrameHdr, Frame, Function, Functions, ROW_REGISTERS, Refusal, Refused, Region, Row, Site, SiteKind, Sites,
};

const PROGRAM: &str = r#"
#include <stdio.h>
#include <stdlib.h>
typedef int (*op)(int, int);
static int add(int a, int b) { return a + b; }
static int sub(int a, int b) { return a - b; }
op table[] = { add, sub };
struct node { struct node *next; op apply; };
int tail(struct node *n, int x) { return n->apply(x, 1); }
int maybe(struct node *n, int x) { if (x > 3) return n->apply(x, 1); return x; }
int walk(struct node *n, int x) { for (; n; n = n->next) x = n->apply(x, n->apply(x, 2)); return x; }
int compare(const void *a, const void *b) { return *(const int *)a - *(const int *)b; }
int main(int argc, char **argv) {
    int v[4] = { 4, 3, 2, 1 };
    struct node n = { 0, table[argc & 1] };
    qsort(v, 4, sizeof *v, compare);
    printf("%d\n", walk(&n, tail(&n, maybe(&n, v[0]))));
    return table[argc & 1](1, 1);
}
"#;

const GCC: [&str; 3] = ["-fcf-protection=none", "-mindirect-branch=thunk", "-mindirect-branch-register"];

fn region(segment: &Segment) -> Region<'_> {
    Region { address: segment.address, bytes: &segment.bytes }
}

fn thunks(text: Region<'_>) -> Vec<u64> {
    let takes_sites = find(text.bytes).filter(|(_, thunk)| thunk.shape.takes_sites());
    takes_sites.map(|(offset, _)| text.address + offset as u64).collect()
}

fn scan(file: &[u8]) -> Vec<Result<Site, Refused>> {
    let text = text(file);
    let (header, frames) = unwind(file).expect("a program has unwind tables");
    let functions = EhFrameHdr::parse(region(&header), region(&frames)).expect("and they are readable");
    Sites::new(region(&text), &thunks(region(&text)), functions).collect()
}

/// What another decoder finds, reading every function symbol from its start.
fn expected(file: &[u8]) -> BTreeSet<u64> {
    let text = text(file);
    let thunks = thunks(region(&text));
    let mut sites = BTreeSet::new();
    for (_, address, size) in symbols(file) {
        if size == 0 || !region(&text).contains(address) {
            continue;
        }
        let start = (address - text.address) as usize;
        let code = &text.bytes[start..start + size as usize];
        for insn in &mut Decoder::with_ip(64, code, address, DecoderOptions::NONE) {
            if thunks.contains(&insn.near_branch_target()) {
                sites.insert(insn.ip());
            }
        }
    }
    sites
}

fn check_program(compiler: Compiler, flags: &[&str]) {
    let file = compiler.build(PROGRAM, flags);
    let found = scan(&file);
    let sites: BTreeSet<u64> = found.iter().map(|site| site.expect("nothing is refused").address).collect();
    assert_eq!(sites, expected(&file), "{flags:?}");
    assert!(sites.len() >= 4, "{flags:?}: {sites:x?}");
}

#[test]
#[cfg_attr(miri, ignore = "runs a compiler")]
fn gcc_sites_are_found() {
    for level in ["-O0", "-O1", "-O2", "-O3", "-Os"] {
        for pie in ["-pie", "-no-pie"] {
            let position = if pie == "-pie" { "-fPIE" } else { "-fno-pie" };
            check_program(cc(), &[&GCC[..], &[level, pie, position]].concat());
            check_program(cc(), &[&GCC[..], &[level, pie, position, "-mindirect-branch-cs-prefix"]].concat());
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "runs a compiler")]
fn gcc_inline_sites_are_found() {
    let flags = ["-O2", "-fcf-protection=none", "-mindirect-branch=thunk-inline", "-mindirect-branch-register"];
    let file = cc().build(PROGRAM, &flags);
    let found = scan(&file);
    assert!(found.iter().all(Result::is_ok), "{found:?}");
    let calls = found.iter().flatten().filter(|site| site.kind == SiteKind::Call).count();
    assert!(calls >= 3 && calls == found.len(), "{found:?}");
}

#[test]
#[cfg_attr(miri, ignore = "runs a compiler")]
fn clang_sites_are_found() {
    let Some(clang) = clang() else { return };
    for level in ["-O1", "-O2", "-O3"] {
        check_program(clang, &["-mretpoline", level]);
    }
}

#[test]
#[cfg_attr(miri, ignore = "runs a compiler")]
fn a_stripped_program_has_the_same_sites() {
    let flags = [&GCC[..], &["-O2"]].concat();
    let stripped = [&flags[..], &["-s"]].concat();
    let addresses = |file: Vec<u8>| scan(&file).into_iter().flatten().map(|site| site.address).collect::<Vec<_>>();
    assert_eq!(addresses(cc().build(PROGRAM, &flags)), addresses(cc().build(PROGRAM, &stripped)));
}

#[test]
#[cfg_attr(miri, ignore = "runs a compiler")]
fn unwind_tables_know_every_function() {
    let file = cc().build(PROGRAM, &["-O2"]);
    let (header, frames) = unwind(&file).unwrap();
    let table = EhFrameHdr::parse(region(&header), region(&frames)).unwrap();
    assert!(!table.is_empty());
    for name in ["main", "walk", "tail", "maybe", "compare"] {
        let (start, size) = compiled::symbol(&file, name).unwrap();
        let function = Function::new(start, start + size);
        assert_eq!(table.containing(start), Some(function), "{name}");
        assert_eq!(table.containing(start + size - 1), Some(function), "{name}");
        assert_ne!(table.containing(start + size), Some(function), "{name}");
    }
    let all: Vec<Function> = (0..table.len()).filter_map(|i| table.get(i)).collect();
    assert_eq!(all.len(), table.len());
    assert!(all.iter().all(|f| all.containing(f.start) == table.containing(f.start)));
}

/// Functions that unwind in ways that compilers write, each with a jump in its middle.
const FRAMES: &str = r#"
__asm__(".text\n"
"pushes: .cfi_startproc; push %rbp; .cfi_adjust_cfa_offset 8; .cfi_offset rbp, -16\n"
"push %rbx; .cfi_adjust_cfa_offset 8; .cfi_offset rbx, -24\n"
"sub $1096, %rsp; .cfi_adjust_cfa_offset 1096\n"
"pushes_at: jmp *%rax\n"
".cfi_remember_state; add $1096, %rsp; .cfi_adjust_cfa_offset -1096; pop %rbx; .cfi_adjust_cfa_offset -8\n"
"pop %rbp; .cfi_adjust_cfa_offset -8\n"
"tail_at: jmp *%rax; .cfi_restore_state\n"
"later_at: jmp *%rax; .cfi_endproc\n"
"framed: .cfi_startproc; push %rbp; .cfi_def_cfa_offset 16; .cfi_offset rbp, -16\n"
"mov %rsp, %rbp; .cfi_def_cfa_register rbp; .cfi_offset r15, -1032\n"
"framed_at: jmp *%rax; .cfi_restore r15\n"
"restored_at: jmp *%rax; .cfi_endproc\n"
"first: .cfi_startproc; .cfi_undefined rip; push %rax; .cfi_adjust_cfa_offset 8\n"
"first_at: jmp *%rax; .cfi_endproc\n"
"aligned: .cfi_startproc; push %rbp; .cfi_escape 0x0f, 3, 0x76, 0x78, 6\n"
"aligned_at: jmp *%rax; .cfi_endproc\n"
"moved: .cfi_startproc; push %rax; .cfi_adjust_cfa_offset 8; .cfi_register rbx, rax\n"
"moved_at: jmp *%rax; .cfi_endproc\n"
"bare_at: jmp *%rax\n");
int main(void) { return 0; }
"#;

#[test]
#[cfg_attr(miri, ignore = "runs a compiler")]
fn frames_at_jumps_are_read_from_their_functions_rules() {
    let file = cc().build(FRAMES, &["-O2"]);
    let (header, frames) = unwind(&file).unwrap();
    let table = EhFrameHdr::parse(region(&header), region(&frames)).unwrap();
    let at = |name: &str| table.frame_at(compiled::symbol(&file, name).unwrap().0);
    let row = |register, distance, saved: &[(usize, i16)]| {
        let mut row = Row { register, distance, saved: [0; ROW_REGISTERS] };
        row.saved[16] = -8;
        saved.iter().for_each(|&(register, place)| row.saved[register] = place);
        Frame::Row(row)
    };
    let pushes = row(7, 8 + 16 + 1096, &[(6, -16), (3, -24)]);
    assert_eq!([at("pushes_at"), at("tail_at"), at("later_at")], [pushes, Frame::Frameless, pushes]);
    assert_eq!(at("framed_at"), row(6, 16, &[(6, -16), (15, -1032)]));
    assert_eq!(at("restored_at"), row(6, 16, &[(6, -16)]));
    assert_eq!(at("first_at"), row(7, 16, &[(16, 0)]));
    assert_eq!(
        [at("aligned_at"), at("moved_at"), at("bare_at")],
        [Frame::Inexpressible, Frame::Inexpressible, Frame::Unknown]
    );
}

/// A text at this address: `code`, then a thunk for rax at offset 256.
const BASE: u64 = 0x40_0000;

fn with_thunk(code: &[u8]) -> Vec<u8> {
    let mut text = code.to_vec();
    text.resize(256, 0x90);
    text.extend(gcc_bytes(Reg::RAX));
    text
}

/// `opcode rel32` to the thunk, the opcode standing at `offset`.
fn branch(offset: usize, opcode: &[u8]) -> Vec<u8> {
    let rel = 256 - (offset + opcode.len() + 4) as i32;
    [opcode, &rel.to_le_bytes()].concat()
}

fn scan_bytes(text: &[u8], functions: &[Function]) -> Vec<Result<Site, Refused>> {
    Sites::new(Region { address: BASE, bytes: text }, &[BASE + 256], functions).collect()
}

fn reasons(code: &[u8], functions: &[Function]) -> Vec<Result<SiteKind, Refusal>> {
    let answer = |found: Result<Site, Refused>| found.map(|site| site.kind).map_err(|refused| refused.reason);
    scan_bytes(&with_thunk(code), functions).into_iter().map(answer).collect()
}

const WHOLE: [Function; 1] = [Function::new(BASE, BASE + 256)];

#[test]
fn all_kinds_are_told_apart() {
    assert_eq!(reasons(&branch(0, &[0xe8]), &WHOLE), [Ok(SiteKind::Call)]);
    assert_eq!(reasons(&branch(0, &[0xe9]), &WHOLE), [Ok(SiteKind::Jump)]);
    assert_eq!(reasons(&branch(0, &[0x0f, 0x85]), &WHOLE), [Ok(SiteKind::Cond)]);
    let padded = scan_bytes(&with_thunk(&branch(0, &[0x2e, 0xe8])), &WHOLE)[0].unwrap();
    assert_eq!((padded.address, padded.field, padded.cs_prefix), (BASE, BASE + 2, true));
}

#[test]
fn what_is_no_site_says_why() {
    let call = branch(0, &[0xe8]);
    assert_eq!(reasons(&call, &[]), [Err(Refusal::NoFunction)]);
    assert_eq!(reasons(&call, &[Function::new(BASE, BASE + 3)]), [Err(Refusal::CutOff)]);
    assert_eq!(reasons(&branch(0, &[0x66, 0xe8]), &WHOLE), [Err(Refusal::Prefix)]);
    // Inside a movabs immediate.
    let hidden = [&[0x48, 0xb8][..], &branch(2, &[0xe8]), &[0, 0, 0]].concat();
    assert_eq!(reasons(&hidden, &WHOLE), [Err(Refusal::NotBoundary)]);
    // 0f e8 /r is psubsb.
    let vector = branch(0, &[0x0f, 0xe8]);
    assert_eq!(reasons(&vector, &WHOLE), [Err(Refusal::NotBoundary)]);
    // 06 is no instruction in 64-bit mode, and what follows it is refused as well.
    let data = [&[0x06][..], &branch(1, &[0xe8]), &branch(6, &[0xe8])].concat();
    assert_eq!(reasons(&data, &WHOLE), [Err(Refusal::Unreadable); 2]);
    for reason in [Refusal::NoFunction, Refusal::PlainThunk] {
        assert!(reason.to_string().len() > 20);
    }
}

#[test]
fn thunks_may_lie_elsewhere() {
    let text = branch(0, &[0xe8]);
    let found: Vec<_> = Sites::new(Region { address: BASE, bytes: &text }, &[BASE + 256], &WHOLE[..]).collect();
    assert_eq!(found.len(), 1);
    let none: Vec<_> = Sites::new(Region { address: BASE, bytes: &text }, &[], &WHOLE[..]).collect();
    assert_eq!(none, []);
}

proptest! {
    #[test]
    fn any_text_is_fine(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        address in any::<u64>(),
        mut thunks in prop::collection::vec(any::<u64>(), 0..5),
        start in any::<u64>(),
    ) {
        thunks.push(address.wrapping_add(100));
        thunks.sort_unstable();
        let functions = [Function::new(start, start.saturating_add(1000)), Function::new(address, u64::MAX)];
        let _ = Sites::new(Region { address, bytes: &bytes }, &thunks, &functions[..]).count();
    }

    /// A real header with some bytes changed: any answer is fine, a panic or an endless loop is not.
    #[test]
    #[cfg_attr(miri, ignore = "runs a compiler")]
    fn broken_unwind_tables_are_fine(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..40), cut in any::<prop::sample::Index>()) {
        let (mut header, mut frames) = unwind_fixture();
        for (index, byte) in changes {
            let at = index.index(frames.bytes.len());
            frames.bytes[at] = byte;
            let at = index.index(header.bytes.len());
            header.bytes[at] = byte;
        }
        header.bytes.truncate(cut.index(header.bytes.len() + 1));
        if let Some(table) = EhFrameHdr::parse(region(&header), region(&frames)) {
            for i in 0..table.len() {
                let _ = table.get(i).and_then(|function| table.containing(function.start));
            }
        }
    }
}

fn unwind_fixture() -> (Segment, Segment) {
    use std::sync::OnceLock;
    static FILE: OnceLock<Vec<u8>> = OnceLock::new();
    unwind(FILE.get_or_init(|| cc().build(PROGRAM, &["-O2"]))).unwrap()
}
