//! The engine as a preloadable object: its constructor and destructor, the functions that programs may call,
//! and what to do about a panic.
//!
//! Its name is in the environment of programs that it is not made for: of another C library, of an older
//! glibc. So the object needs no library and no symbol, and any loader for x86-64 can load it. What it uses
//! of glibc it finds in memory. Whether there is a glibc says a symbol that only glibc's loader has, which
//! need not be there. If it is not, nothing is done, and nothing was passed to the constructor either.

use crate::engine;
use core::ffi::{c_char, c_int};

core::arch::global_asm!(
    ".pushsection .data.rel.ro.relpoline_glibc, \"aw\", @progbits",
    ".weak _rtld_global_ro",
    ".globl relpoline_glibc",
    ".hidden relpoline_glibc",
    ".balign 8",
    "relpoline_glibc: .quad _rtld_global_ro",
    ".popsection",
);

unsafe extern "C" {
    /// Address of something in glibc's loader; 0 where there is none.
    static relpoline_glibc: usize;
}

type Constructor = unsafe extern "C" fn(c_int, *const *const c_char, *const *const c_char);

unsafe extern "C" fn constructor(_argc: c_int, _argv: *const *const c_char, envp: *const *const c_char) {
    // SAFETY: a word of this object's. glibc's loader calls this once, with the process' environment, before
    // any other constructor.
    unsafe {
        if (&raw const relpoline_glibc).read_volatile() != 0 {
            engine::start(envp);
        }
    }
}

extern "C" fn destructor() {
    engine::finish();
}

#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: Constructor = constructor;

#[used]
#[unsafe(link_section = ".fini_array")]
static DESTRUCTOR: extern "C" fn() = destructor;

/// Switches promotion off in this process: every site goes back to its retpoline, threads running or not.
/// 0, or -1 when the engine cannot change anything in this process, or was detached from it.
#[unsafe(no_mangle)]
pub extern "C" fn relpoline_disable() -> c_int {
    if engine::set_enabled(false) { 0 } else { -1 }
}

/// Switches promotion on again: every site starts to learn anew. 0, or -1 as above.
#[unsafe(no_mangle)]
pub extern "C" fn relpoline_enable() -> c_int {
    if engine::set_enabled(true) { 0 } else { -1 }
}

/// A panic in the engine is a bug in the engine. It must not take the program along: the thread that ran
/// into it cannot go on, though, so the program is stopped where a debugger shows why.
#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: ud2 raises SIGILL, nothing else.
    unsafe { core::arch::asm!("ud2", options(noreturn)) }
}
