//! The engine as a preloadable object: its constructor and destructor, the functions that programs may call,
//! and what to do about a panic.

use crate::engine;
use crate::fork;
use core::ffi::{c_char, c_int};

type Constructor = unsafe extern "C" fn(c_int, *const *const c_char, *const *const c_char);

unsafe extern "C" fn constructor(_argc: c_int, _argv: *const *const c_char, envp: *const *const c_char) {
    // SAFETY: the loader calls this once, with the process' environment, before any other constructor.
    unsafe { engine::start(envp) };
    fork::watch();
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

#[link(name = "c")]
unsafe extern "C" {}
