//! Signals while we wait for the program.
//!
//! All signals are blocked and taken one by one with sigtimedwait(2), so there is no handler and no race. A
//! signal that the *kernel* sent (Ctrl-C, a closed terminal, a changed window) went to the whole foreground
//! process group, the program included, so it is dropped here; a signal that a *process* sent was meant for
//! the program but hit us, and is handed on.

use std::mem::MaybeUninit;
use std::time::Duration;

/// What was waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrived {
    /// A child changed its state.
    Child,
    /// A process sent this signal to us.
    Sent(libc::c_int),
    /// The kernel sent it, to the program as well.
    Told(libc::c_int),
    /// Nothing that concerns the program.
    Other,
}

/// How signals were before we blocked them; needed to start the program.
pub struct Before {
    mask: libc::sigset_t,
    child_action: libc::sigaction,
}

/// Signals an error in our own code raises: they must not be blocked.
const OUR_FAULTS: [libc::c_int; 6] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGSYS];

/// Everything but [`OUR_FAULTS`].
fn watched() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigfillset initialises the set that sigdelset then changes.
    unsafe {
        libc::sigfillset(set.as_mut_ptr());
        for fault in OUR_FAULTS {
            libc::sigdelset(set.as_mut_ptr(), fault);
        }
        set.assume_init()
    }
}

/// Blocks signals, and makes sure that children wait for us to see them (SIGCHLD may have been inherited as
/// ignored, which makes them vanish).
pub fn block() -> Before {
    let mut before = Before {
        // SAFETY: zeros are a valid mask and a valid action.
        mask: unsafe { std::mem::zeroed() },
        // SAFETY: as above.
        child_action: unsafe { std::mem::zeroed() },
    };
    let watched = watched();
    // SAFETY: the default action runs no code of ours; all pointers are to live values.
    unsafe {
        let default: libc::sigaction = std::mem::zeroed();
        libc::sigaction(libc::SIGCHLD, &raw const default, &raw mut before.child_action);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const watched, &raw mut before.mask);
    }
    before
}

impl Before {
    /// Puts things back, in the child.
    pub fn restore(&self) {
        // SAFETY: both values came from the system.
        unsafe {
            libc::sigaction(libc::SIGCHLD, &raw const self.child_action, std::ptr::null_mut());
            libc::sigprocmask(libc::SIG_SETMASK, &raw const self.mask, std::ptr::null_mut());
        }
    }
}

/// Waits for the next signal, or until that time is over, if there is one.
pub fn next(longest: Option<Duration>) -> Arrived {
    let watched = watched();
    let longest = longest.map(|longest| libc::timespec {
        tv_sec: libc::time_t::try_from(longest.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: longest.subsec_nanos().into(),
    });
    let longest = longest.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: zeros are a valid siginfo, and the call fills it; the time is live, or null, which means for
    // ever.
    let (signal, info) = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        (libc::sigtimedwait(&raw const watched, &raw mut info, longest), info)
    };
    match signal {
        libc::SIGCHLD => Arrived::Child,
        // SI_USER, SI_QUEUE and SI_TKILL are not positive; what the kernel sends by itself is.
        1.. if info.si_code <= 0 => Arrived::Sent(signal),
        1.. => Arrived::Told(signal),
        _ => Arrived::Other,
    }
}

/// Takes `signal`'s default action on this process: stops it, or ends it.
pub fn take(signal: libc::c_int) {
    // SAFETY: the default action runs no code of ours; the set is initialised before use.
    unsafe {
        let mut only: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut only);
        libc::sigaddset(&raw mut only, signal);
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
        libc::sigprocmask(libc::SIG_UNBLOCK, &raw const only, std::ptr::null_mut());
        // Here after a stop, once continued.
        libc::sigprocmask(libc::SIG_BLOCK, &raw const only, std::ptr::null_mut());
    }
}
