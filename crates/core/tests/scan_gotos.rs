//! Tail calls, computed gotos and the flags at their labels, in code that gcc and hands have written.

mod compiled;

use compiled::{Compiler, Segment, cc, clang, data_words, number, symbol, text, unwind};
use proptest::prelude::*;
use relpoline_core::arch::{Reg, thunk::find};
use relpoline_core::scan::{EhFrameHdr, Function, Gotos, Object, Refusal, Region, Site, SiteKind, Sites};

const LEVELS: [&str; 5] = ["-O0", "-O1", "-O2", "-O3", "-Os"];
const PLACES: [[&str; 2]; 2] = [["-pie", "-fPIE"], ["-no-pie", "-fno-pie"]];
const GCC: [&str; 4] =
    ["-fcf-protection=none", "-mindirect-branch=thunk", "-mindirect-branch-register", "-fno-crossjumping"];

fn region(segment: &Segment) -> Region<'_> {
    Region { address: segment.address, bytes: &segment.bytes }
}

type Verdict = Result<SiteKind, Refusal>;

/// The jump sites of a program with what they are, and the number of labels.
fn judge(file: &[u8], scratch: &mut [u64]) -> (Vec<(Site, Verdict)>, usize) {
    let text = text(file);
    let text = region(&text);
    let (header, frames) = unwind(file).unwrap();
    let functions = EhFrameHdr::parse(region(&header), region(&frames)).unwrap();
    let found = find(text.bytes).filter(|(_, thunk)| thunk.shape.takes_sites());
    let (thunks, registers): (Vec<u64>, Vec<Reg>) =
        found.map(|(offset, thunk)| (text.address + offset as u64, thunk.reg)).unzip();
    let sites: Vec<Site> = Sites::new(text, &thunks, &functions).map(|site| site.unwrap()).collect();
    let is_position_dependent = number(file, 16, 2) == 2;
    let object = Object { text, thunks: &thunks, registers: &registers, functions: &functions, is_position_dependent };
    let mut gotos = Gotos::new(object, scratch);
    sites.iter().for_each(|site| gotos.add_site(site));
    gotos.collect_leas();
    data_words(file).into_iter().for_each(|word| gotos.add_data_word(word));
    let mut verdicts = gotos.finish();
    let jumps = sites.into_iter().filter(|site| site.kind != SiteKind::Call);
    (jumps.map(|site| (site, verdicts.verdict(&site))).collect(), verdicts.label_count())
}

/// What the jump sites in the function `name`, or in its cold part, are.
fn verdicts_in(file: &[u8], name: &str) -> Vec<Verdict> {
    let (judged, _) = judge(file, &mut [0; 4096]);
    let cold = format!("{name}.cold");
    let ranges: Vec<(u64, u64)> = [name, &cold].iter().filter_map(|name| symbol(file, name)).collect();
    let inside = |site: &Site| ranges.iter().any(|&(start, size)| (start..start + size).contains(&site.address));
    judged.into_iter().filter(|(site, _)| inside(site)).map(|(_, verdict)| verdict).collect()
}

fn for_all(compiler: Compiler, source: &str, check: impl Fn(&[u8], &[&str])) {
    for level in LEVELS {
        for place in PLACES {
            let flags = [&GCC[..], &place, &[level]].concat();
            check(&compiler.build(source, &flags), &flags);
        }
    }
}

fn is_computed(verdict: &Verdict) -> bool {
    matches!(verdict, Err(Refusal::LabelTaken { .. } | Refusal::ComputedTarget))
}

/// An interpreter over a table that is in data, with a tail call beside it.
const STATIC_TABLE: &str = r"
long (*volatile hook)(long);
__attribute__((noinline)) long run(const unsigned char *p, long a) {
    static const void *const table[] = { &&inc, &&dec, &&dbl, &&neg, &&out, &&jz, &&end };
    long n = 0;
#define NEXT goto *table[*p++]
    NEXT;
inc: a++; NEXT;
dec: a--; NEXT;
dbl: a += a; NEXT;
neg: a = -a; n++; NEXT;
out: n += a ^ (n >> 3); NEXT;
jz:  if (!a) p += *p; NEXT;
end: return n + a;
}
__attribute__((noinline)) long tail(long a) { return hook(a + 1); }
static long twice(long a) { return a * 2; }
int main(int argc, char **argv) {
    hook = twice;
    return (int)(run((const unsigned char *)argv[0], argc) + tail(argc));
}
";

#[test]
#[cfg_attr(miri, ignore = "runs a compiler")]
fn a_static_table_makes_gotos() {
    for_all(cc(), STATIC_TABLE, |file, flags| {
        let gotos = verdicts_in(file, "run");
        assert!(!gotos.is_empty(), "{flags:?}");
        assert!(gotos.iter().all(|verdict| *verdict == Ok(SiteKind::Goto)), "{flags:?}: {gotos:x?}");
        let tails = verdicts_in(file, "tail");
        assert!(tails.iter().all(|verdict| *verdict == Ok(SiteKind::Jump)), "{flags:?}: {tails:x?}");
        let (_, labels) = judge(file, &mut [0; 4096]);
        assert!(labels >= 7, "{flags:?}: {labels} labels");
    });
}

#[test]
#[cfg_attr(miri, ignore = "runs a compiler")]
fn too_little_scratch_refuses_everything() {
    let file = cc().build(STATIC_TABLE, &[&GCC[..], &["-O2"]].concat());
    for size in 0..8 {
        let (judged, _) = judge(&file, &mut vec![0; size]);
        assert!(judged.iter().all(|(_, verdict)| *verdict == Err(Refusal::TooManyLabels)), "{size}: {judged:x?}");
        assert!(!judged.is_empty());
    }
}

/// Offsets from a base label: no address of the other labels exists anywhere.
#[test]
#[cfg_attr(miri, ignore = "runs a compiler")]
fn label_differences_are_refused() {
    let source = r"
__attribute__((noinline)) long run(const unsigned char *p, long a) {
    static const int table[] = { &&inc - &&inc, &&dec - &&inc, &&end - &&inc };
#define NEXT goto *(&&inc + table[*p++])
    NEXT;
inc: a++; NEXT;
dec: a -= 3; NEXT;
end: return a;
}
int main(int argc, char **argv) { return (int)run((const unsigned char *)argv[0], argc); }
";
    for_all(cc(), source, |file, flags| {
        let verdicts = verdicts_in(file, "run");
        assert!(!verdicts.is_empty() && verdicts.iter().all(is_computed), "{flags:?}: {verdicts:x?}");
    });
}

/// A table on the stack, filled by code or copied from data: never mistaken for tail calls.
#[test]
#[cfg_attr(miri, ignore = "runs a compiler")]
fn tables_on_the_stack_are_seen() {
    let source = r"
__attribute__((noinline)) long run(const unsigned char *p, long a) {
    void *table[] = { &&inc, &&dec, &&end };
    __asm__ volatile (`` : : `r`(table) : `memory`);
#define NEXT goto *table[*p++]
    NEXT;
inc: a++; NEXT;
dec: a -= 3; NEXT;
end: return a;
}
int main(int argc, char **argv) { return (int)run((const unsigned char *)argv[0], argc); }
"
    .replace('`', "\"");
    for_all(cc(), &source, |file, flags| {
        let verdicts = verdicts_in(file, "run");
        let is_seen = |verdict: &Verdict| *verdict == Ok(SiteKind::Goto) || is_computed(verdict);
        assert!(!verdicts.is_empty() && verdicts.iter().all(is_seen), "{flags:?}: {verdicts:x?}");
    });
}

/// gcc moves labels on unlikely paths to another place, which looks like a function of its own.
const COLD_LABELS: &str = r"
void spoil(long) __attribute__((cold));
__attribute__((noinline)) long run(const unsigned char *p, long a, long *out) {
    static const void *const table[] = { &&inc, &&dec, &&bad, &&worse, &&end };
    long n = 0, m = 1, k = 2;
#define NEXT goto *table[*p++]
    NEXT;
inc: a++; n += a * m; NEXT;
dec: a -= 3; m ^= a; k += n; NEXT;
bad: spoil(k); m++; if (k == 3) { spoil(m); NEXT; } goto end;
worse: spoil(n); if (a == 3) { spoil(k); NEXT; } goto dec;
end: out[0] = n; out[1] = m; out[2] = k; return a;
}
__attribute__((noinline)) void spoil(long n) { __asm__ volatile (`` : : `r`(n)); }
int main(int argc, char **argv) { long out[3]; return (int)run((const unsigned char *)argv[0], argc, out); }
";

#[test]
#[cfg_attr(miri, ignore = "runs a compiler")]
fn cold_labels_are_found() {
    let source = COLD_LABELS.replace('`', "\"");
    for level in ["-O2", "-O3"] {
        for place in PLACES {
            let flags = [&GCC[..], &place, &[level]].concat();
            let file = cc().build(&source, &flags);
            let (cold, _) = symbol(&file, "run.cold").expect("gcc splits off a cold part");
            let (judged, labels) = judge(&file, &mut [0; 4096]);
            assert!(labels >= 5, "{flags:?}: {labels} labels, the part is at {cold:x}");
            let verdicts: Vec<_> = judged.iter().map(|(_, verdict)| *verdict).collect();
            assert!(verdicts.contains(&Ok(SiteKind::Goto)), "{flags:?}");
            assert!(verdicts_in(&file, "run").iter().all(|verdict| *verdict == Ok(SiteKind::Goto)), "{judged:x?}");
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "runs a compiler")]
fn switches_and_tail_calls_are_no_gotos() {
    let source = r"
long (*volatile hook[4])(long, long);
__attribute__((noinline)) long pick(int op, long a, long b) {
    switch (op) {
    case 0: return a + b; case 1: return a - b; case 2: return a * b; case 3: return a / b;
    case 4: return a % b; case 5: return a << b; case 6: return a >> b; case 7: return a & b;
    default: return hook[op & 3](a, b);
    }
}
__attribute__((noinline)) long either(long a, long b) { if (a > b) return hook[1](a, b); return hook[2](b, a); }
int main(int argc, char **argv) { return (int)(pick(argc, 1, 2) + either(argc, 3)); }
";
    let check = |file: &[u8], flags: &[&str]| {
        let (judged, labels) = judge(file, &mut [0; 4096]);
        let is_tail = |verdict: &Verdict| matches!(verdict, Ok(SiteKind::Jump | SiteKind::Cond));
        assert!(judged.iter().all(|(_, verdict)| is_tail(verdict)), "{flags:?}: {judged:x?}");
        assert_eq!(labels, 0, "{flags:?}");
    };
    for_all(cc(), source, check);
    let Some(clang) = clang() else { return };
    let file = clang.build(source, &["-O2", "-mretpoline"]);
    check(&file, &["clang"]);
    assert!(!judge(&file, &mut [0; 64]).0.is_empty());
}

/// Hand-written: the flags of `cmp` are read behind the label.
fn assembly(label: &str) -> String {
    let code = "
.text
.type run, @function
run:
    .cfi_startproc
    .size run, 100
    cmp $5, %rdi
    mov table(,%rsi,8), %rax
    jmp __x86_indirect_thunk_rax
.Lone:
    LABEL
.Lyes:
    mov $1, %eax
    ret
.Ltwo:
    xor %eax, %eax
    ret
    .cfi_endproc
.section .rodata
.align 8
table: .quad .Lone, .Ltwo
.section .text.thunk, \\\"ax\\\"
__x86_indirect_thunk_rax:
    .cfi_startproc
    call 2f
1:  pause
    lfence
    jmp 1b
2:  mov %rax, (%rsp)
    ret
    .cfi_endproc
"
    .replace("LABEL", label);
    let lines: String = code.lines().map(|line| format!("\"{line}\\n\"\n")).collect();
    format!(
        "__asm__(\n{lines});\nlong run(long, long);\nint main(int argc, char **argv) {{ return (int)run(argc, 0); }}\n"
    )
}

fn verdict_of(label: &str) -> Verdict {
    let file = cc().build(&assembly(label), &["-no-pie"]);
    let verdicts = verdicts_in(&file, "run");
    assert_eq!(verdicts.len(), 1);
    verdicts[0]
}

#[test]
#[cfg_attr(miri, ignore = "runs a compiler")]
fn live_flags_refuse_a_goto() {
    let is_live = |verdict| matches!(verdict, Err(Refusal::FlagsLive { .. }));
    assert!(is_live(verdict_of("je .Lyes; ret")));
    assert!(is_live(verdict_of("mov $7, %ecx; setg %al; ret")));
    assert!(is_live(verdict_of("jmp .Lfar; .Lfar: adc $0, %eax; ret")));
    assert!(is_live(verdict_of("pushf; pop %rax; ret")));
    assert!(is_live(verdict_of("inc %rcx; jc .Lyes; ret")));
    assert!(is_live(verdict_of("jrcxz .Lyes; ret")));
    assert!(is_live(verdict_of(".Lself: jmp .Lself")));
    assert!(is_live(verdict_of(".byte 0x06")));
}

#[test]
#[cfg_attr(miri, ignore = "runs a compiler")]
fn dead_flags_allow_it() {
    assert_eq!(verdict_of("ret"), Ok(SiteKind::Goto));
    assert_eq!(verdict_of("mov $7, %ecx; test %ecx, %ecx; je .Lyes; ret"), Ok(SiteKind::Goto));
    assert_eq!(verdict_of("jmp .Lyes"), Ok(SiteKind::Goto));
    assert_eq!(verdict_of("call main; je .Lyes; ret"), Ok(SiteKind::Goto));
}

#[test]
#[cfg_attr(miri, ignore = "runs a compiler")]
fn a_taken_label_refuses_a_goto() {
    let is_taken = |verdict| matches!(verdict, Err(Refusal::LabelTaken { .. }));
    assert!(is_taken(verdict_of("lea .Ltwo(%rip), %rdx; ret")));
    assert!(is_taken(verdict_of("mov $.Ltwo, %edx; ret")));
    assert!(is_taken(verdict_of("lea .Ltwo(%rax), %rdx; ret")));
    assert!(is_taken(verdict_of("movabs $.Ltwo, %rdx; ret")));
    // In another function, too.
    let elsewhere = "ret; .cfi_endproc; .cfi_startproc; lea .Lone(%rip), %rdx; ret";
    assert!(is_taken(verdict_of(elsewhere)));
}

proptest! {
    /// Any code with any labels: an answer, in bounded time.
    #[test]
    fn any_code_is_fine(
        mut bytes in prop::collection::vec(any::<u8>(), 70..400),
        address in any::<u64>(),
        words in prop::collection::vec(0u64..500, 0..20),
        place in 0usize..60,
    ) {
        bytes[place] = 0xe9;
        let target = (bytes.len() as i32 - (place as i32 + 5)).to_le_bytes();
        bytes[place + 1..place + 5].copy_from_slice(&target);
        let text = Region { address, bytes: &bytes };
        let thunks = [address.wrapping_add(bytes.len() as u64)];
        let function = Function::new(address, address.wrapping_add(200));
        let functions = [function, Function { is_part: true, ..Function::new(function.end, function.end.wrapping_add(99)) }];
        let object = Object {
            text,
            thunks: &thunks,
            registers: &[Reg::RAX],
            functions: &functions[..],
            is_position_dependent: true,
        };
        let field = address.wrapping_add(place as u64 + 1);
        let site = Site { address: field.wrapping_sub(1), field, kind: SiteKind::Jump, cs_prefix: false, thunk: 0, function };
        let mut scratch = [0; 16];
        let mut gotos = Gotos::new(object, &mut scratch);
        gotos.add_site(&site);
        gotos.collect_leas();
        words.iter().for_each(|word| gotos.add_data_word(address.wrapping_add(*word)));
        let _ = gotos.finish().verdict(&site);
    }
}
