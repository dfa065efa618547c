//! Thunks as compilers write them: found in their objects, read back, copied.

mod compiled;

use compiled::{Compiler, cc, clang, executable_bytes};
use proptest::prelude::*;
use relpoline_core::arch::{
    Reg,
    thunk::{Shape, Thunk, body, find, gcc_bytes, llvm_bytes, match_at, match_symbol, symbol_register},
};

const CALLS: &str = "
extern void (*fp)(int); extern int (*gp)(int);
void (*fp)(int); int (*gp)(int);
int f(int x) { fp(x); return gp(x + 1); }
int g(int x) { fp(x); return gp(x + 1) + 2; }
int main(void) { return f(1) + g(2); }
";

fn registers() -> impl Iterator<Item = Reg> {
    (0..16).filter_map(Reg::new)
}

/// The shapes in a program, ascending by address.
fn shapes(compiler: Compiler, flags: &[&str]) -> Vec<Shape> {
    let file = compiler.build(CALLS, flags);
    find(&executable_bytes(&file)).map(|(_, thunk)| thunk.shape).collect()
}

#[test]
#[cfg_attr(miri, ignore = "runs a compiler")]
fn gcc_thunks_are_found() {
    let base = ["-O2", "-fcf-protection=none", "-mindirect-branch-register"];
    let with = |flag| [&base[..], &[flag]].concat();
    assert_eq!(shapes(cc(), &with("-mindirect-branch=thunk")), [Shape::Gcc]);
    let stripped = [&with("-mindirect-branch=thunk")[..], &["-s"]].concat();
    assert_eq!(shapes(cc(), &stripped), [Shape::Gcc]);
    assert_eq!(shapes(cc(), &with("-mfunction-return=thunk")), [Shape::StackTop]);
    assert_eq!(shapes(cc(), &base), []);
}

#[test]
#[cfg_attr(miri, ignore = "runs a compiler")]
fn gcc_inline_thunks_are_found() {
    let found = shapes(cc(), &["-O2", "-fcf-protection=none", "-fno-inline", "-mindirect-branch=thunk-inline"]);
    let calls = found.iter().filter(|&&shape| shape == Shape::GccInline).count();
    let jumps = found.iter().filter(|&&shape| shape == Shape::Gcc).count();
    assert_eq!((calls, jumps), (3, 1), "{found:?}");
}

#[test]
#[cfg_attr(miri, ignore = "runs a compiler")]
fn clang_thunks_are_found() {
    let Some(clang) = clang() else { return };
    assert_eq!(shapes(clang, &["-O2", "-mretpoline"]), [Shape::Llvm]);
    let Some(lld) = clang.with_lld() else { return };
    let found = shapes(lld, &["-O2", "-mretpoline", "-Wl,-z,retpolineplt"]);
    assert!(found.contains(&Shape::Llvm) && found.contains(&Shape::LldPlt), "{found:?}");
}

#[test]
fn copies_are_read_back() {
    for reg in registers() {
        assert_eq!(match_at(&gcc_bytes(reg)), Some(Thunk { shape: Shape::Gcc, reg, len: 17 }));
        for shape in [Shape::Gcc, Shape::Lfence, Shape::Jump] {
            let name = format!("__x86_indirect_thunk_{}", reg.name());
            let copy = body(Thunk { shape, reg, len: 0 }).unwrap();
            let thunk = match_symbol(&name, &copy).unwrap();
            assert_eq!((thunk.shape, thunk.reg, usize::from(thunk.len)), (shape, reg, copy.len()));
        }
    }
    let llvm = Thunk { shape: Shape::Llvm, reg: Reg::R11, len: 21 };
    assert_eq!(match_at(&llvm_bytes(Reg::R11)), Some(llvm));
    assert_eq!(body(llvm).as_deref(), Some(&llvm_bytes(Reg::R11)[..]));
}

#[test]
fn other_capture_loops_are_read() {
    let other = |bytes: &[u8]| match_at(bytes).map(|thunk| (thunk.shape, thunk.reg));
    // Go: pause alone.
    let go = [0xe8, 4, 0, 0, 0, 0xf3, 0x90, 0xeb, 0xfc, 0x48, 0x89, 0x04, 0x24, 0xc3];
    assert_eq!(other(&go), Some((Shape::Other, Reg::RAX)));
    let lfence = [0xe8, 5, 0, 0, 0, 0x0f, 0xae, 0xe8, 0xeb, 0xfb, 0x4c, 0x89, 0x1c, 0x24, 0xc3];
    assert_eq!(other(&lfence), Some((Shape::Other, Reg::R11)));
    let no_loop = [0xe8, 2, 0, 0, 0, 0xeb, 0xfe, 0x48, 0x89, 0x04, 0x24, 0xc3];
    assert_eq!(other(&no_loop), None);
    let mut leaves_the_loop = gcc_bytes(Reg::RAX);
    leaves_the_loop[11] = 0xf8;
    assert_eq!(other(&leaves_the_loop), None);
}

#[test]
fn symbols_name_their_register() {
    let number = |name| symbol_register(name).map(Reg::number);
    assert_eq!(number("__x86_indirect_thunk_rax"), Some(0));
    assert_eq!(number("__x86_indirect_thunk_r10"), Some(10));
    assert_eq!(number("__llvm_retpoline_r11"), Some(11));
    assert_eq!(number("__x86_indirect_alt_call_rdi"), Some(7));
    assert_eq!(number("runtime.retpolineAX"), Some(0));
    assert_eq!(number("runtime.retpolineR13"), Some(13));
    assert_eq!(number("__x86_indirect_thunk"), None);
    assert_eq!(number("__x86_return_thunk"), None);
    assert_eq!(number("__x86_indirect_thunk_eax"), None);
    // Without such a name, a jump through a register is no thunk.
    assert_eq!(match_symbol("main", &[0xff, 0xe0]), None);
    assert_eq!(match_symbol("__x86_indirect_thunk_rcx", &[0xff, 0xe0]), None);
}

proptest! {
    #[test]
    fn any_bytes_are_fine(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for (offset, thunk) in find(&bytes) {
            prop_assert!(offset + usize::from(thunk.len) <= bytes.len());
        }
    }

    #[test]
    fn a_thunk_is_found_wherever_it_is(
        before in prop::collection::vec(any::<u8>(), 0..300),
        number in 0u8..16,
        after in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let reg = Reg::new(number).unwrap();
        let text = [&before[..], &gcc_bytes(reg), &after].concat();
        let found = find(&text).any(|(offset, thunk)| offset == before.len() && thunk.reg == reg);
        prop_assert!(found);
    }

    #[test]
    fn a_cut_thunk_is_none(keep in 0usize..17) {
        prop_assert_eq!(match_at(&gcc_bytes(Reg::RAX)[..keep]), None);
    }
}
