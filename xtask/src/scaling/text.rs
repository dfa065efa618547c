//! A program of any size that does nothing: functions, one in eight with a thunked call, written as assembly.
//!
//! Every function is some 250 bytes of plausible instructions with unwind rules around it, as a compiler
//! would emit. So the engine has as many functions to read and sites to re-point as in a real program of the
//! size: one site per 2 KiB is what CPython has; PostgreSQL has one per 4 KiB.

use std::fmt::Write as _;

use crate::variant::Variant;

/// Bytes of a function, its alignment included.
const FUNCTION: u64 = 256;
/// Of so many functions one has a site.
const SITE_IN: u64 = 8;

/// Assembly of a program with that much code.
pub fn assembly(megabytes: u64, variant: Variant) -> String {
    let functions = megabytes * 1024 * 1024 / FUNCTION;
    let mut text = String::from(
        "\t.text\n\t.globl main\n\t.type main,@function\nmain:\n\t.cfi_startproc\n\txorl %eax,%eax\n\tret\n\t.cfi_endproc\n\
         \t.macro function n what:vararg\n\t.balign 256,0xcc\nf\\n:\n\t.cfi_startproc\n\tpushq %rbx\n\t.cfi_adjust_cfa_offset 8\n\
         \tmovq %rdi,%rbx\n\tmovq 8(%rbx),%rax\n\tcmpl $7,16(%rbx)\n\tje 1f\n\tmovq %rbx,%rdi\n\tleaq 32(%rbx),%rsi\n\
         \t\\what\n1:\n\
         \t.rept 24\n\tmovl 24(%rbx),%eax\n\taddl %eax,28(%rbx)\n\t.endr\n\
         \tmovq %rbx,%rax\n\tpopq %rbx\n\t.cfi_adjust_cfa_offset -8\n\tret\n\t.cfi_endproc\n\t.endm\n",
    );
    for n in 0..functions {
        let what = if n % SITE_IN == 0 { "call __x86_indirect_thunk_rax" } else { "call main" };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "\tfunction {n} {what}");
    }
    text += match variant {
        Variant::Jmpthunk => "__x86_indirect_thunk_rax:\n\tjmp *%rax\n\t.skip 15,0xcc\n",
        _ => "__x86_indirect_thunk_rax:\n\tcall 2f\n1:\tpause\n\tlfence\n\tjmp 1b\n2:\tmovq %rax,(%rsp)\n\tret\n",
    };
    text + "\t.section .note.GNU-stack,\"\",@progbits\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_megabyte_has_its_functions_and_one_thunk() {
        let text = assembly(1, Variant::Retpoline);
        assert_eq!(text.matches("\tfunction ").count(), 4096);
        assert_eq!(text.matches("call __x86_indirect_thunk_rax").count(), 512);
        assert_eq!(text.matches("__x86_indirect_thunk_rax:").count(), 1);
    }
}
