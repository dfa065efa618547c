//! The terminal, which is given back whatever ends us: a key, a signal, or the end of our patience with what
//! we look at.

use std::sync::OnceLock;

use anyhow::Context;
use ratatui::DefaultTerminal;

/// How the terminal was before.
static BEFORE: OnceLock<libc::termios> = OnceLock::new();
/// Signals that end us. That of patience is among them ([`crate::live::patience`]).
const ENDINGS: [libc::c_int; 4] = [libc::SIGHUP, libc::SIGINT, libc::SIGTERM, libc::SIGALRM];
/// Leaves the screen that is ours, and shows the cursor.
const LEAVE: &[u8] = b"\x1b[?1049l\x1b[?25h";

/// How a terminal is now, if there is one: for whoever has to give it back in the place of a process that
/// cannot.
#[derive(Debug)]
pub struct Before(Option<libc::termios>);

impl Before {
    /// As it is now.
    #[must_use]
    pub fn now() -> Self {
        // SAFETY: zeros are a valid termios; the call fills it.
        let (answer, now) = unsafe {
            let mut now = std::mem::zeroed::<libc::termios>();
            (libc::tcgetattr(libc::STDIN_FILENO, &raw mut now), now)
        };
        Self((answer == 0).then_some(now))
    }

    /// As it was then, if it has been changed.
    pub fn give_back(&self) {
        let (Self(Some(before)), Self(Some(now))) = (self, Self::now()) else { return };
        if before.c_lflag != now.c_lflag {
            // SAFETY: what is passed is live.
            unsafe {
                libc::write(libc::STDOUT_FILENO, LEAVE.as_ptr().cast(), LEAVE.len());
                libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, before);
            }
        }
    }
}

/// Takes the terminal.
///
/// # Errors
/// When there is none.
pub fn take() -> anyhow::Result<DefaultTerminal> {
    if let Before(Some(before)) = Before::now() {
        BEFORE.get_or_init(|| before);
    }
    let give_back: extern "C" fn(libc::c_int) = give_back;
    for signal in ENDINGS {
        // SAFETY: the handler makes only calls that handlers may make.
        unsafe { libc::signal(signal, give_back as libc::sighandler_t) };
    }
    ratatui::try_init().context("the terminal cannot be used")
}

/// Gives it back, and lets the signal end us as it would have.
extern "C" fn give_back(signal: libc::c_int) {
    // SAFETY: write, tcsetattr, signal and raise may be called in handlers; what is passed lives for ever.
    // Reading what was set once is one atomic load.
    unsafe {
        libc::write(libc::STDOUT_FILENO, LEAVE.as_ptr().cast(), LEAVE.len());
        if let Some(before) = BEFORE.get() {
            libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, before);
        }
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}
