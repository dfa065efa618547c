//! Why a module's registrar takes its sites back: the module is unloaded, or the process ends.
//!
//! The loader does not say. But destructors are called from `exit` in the one case, and from `dlclose` in the
//! other, and the stack shows which. At the end of a process everything stays mapped, other threads and later
//! destructors go on, so everything may stay as it is.

use core::ffi::{c_char, c_int, c_void};

/// Why destructors run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// The process ends.
    Exit,
    /// The module is unloaded.
    Unload,
    /// The stack does not show it.
    Unknown,
}

unsafe extern "C" {
    fn exit(code: c_int) -> !;
    fn dlclose(handle: *mut c_void) -> c_int;
    /// Also unloads: what it had loaded before something went wrong.
    fn dlopen(name: *const c_char, flags: c_int) -> *mut c_void;
    fn _Unwind_Backtrace(each: extern "C" fn(*mut c_void, *mut c_void) -> c_int, argument: *mut c_void) -> c_int;
    fn _Unwind_GetRegionStart(context: *mut c_void) -> usize;
}

const GO_ON: c_int = 0;
/// What ends the walk up the stack: `_URC_END_OF_STACK` of the unwinder's ABI.
const STOP: c_int = 5;

extern "C" fn frame(context: *mut c_void, argument: *mut c_void) -> c_int {
    // SAFETY: the unwinder passes a context of its own.
    let function = unsafe { _Unwind_GetRegionStart(context) };
    let cause = if function == exit as *const () as usize {
        Cause::Exit
    } else if function == dlclose as *const () as usize || function == dlopen as *const () as usize {
        Cause::Unload
    } else {
        return GO_ON;
    };
    // SAFETY: the argument is `cause`'s result.
    unsafe { argument.cast::<Cause>().write(cause) };
    STOP
}

/// Why this destructor runs: the innermost of the functions decides.
pub fn cause() -> Cause {
    let mut cause = Cause::Unknown;
    // SAFETY: `frame` writes nothing but its argument.
    unsafe { _Unwind_Backtrace(frame, (&raw mut cause).cast()) };
    cause
}
