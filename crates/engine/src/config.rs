//! What the engine was asked to do, read once from the environment.
//!
//! The environment block is taken from the constructor's argument, where the loader put it: at that time
//! libc's own `environ` may not be set up yet. The option string is copied, since programs overwrite their
//! environment area (to change their title, for one).

use core::cell::UnsafeCell;
use core::ffi::{CStr, c_char};
use relpoline_stats::options::{self, Options};

/// Longest option string that is understood; a longer one is taken as no options.
const MOST: usize = 4096;

struct Copied(UnsafeCell<[u8; MOST]>);

// SAFETY: written once by the constructor, before any other thread exists; only read later.
unsafe impl Sync for Copied {}

static COPY: Copied = Copied(UnsafeCell::new([0; MOST]));

/// The options in the environment block `envp`; `None` when promotion is switched off.
///
/// # Safety
/// `envp` must be a null-terminated array of C strings, or null. To be called by the constructor only.
#[must_use]
pub unsafe fn read(envp: *const *const c_char) -> Option<Options<'static>> {
    // SAFETY: passed on.
    let get = |name: &str| unsafe { lookup(envp, name.as_bytes()) };
    if get(options::SWITCH) == Some(options::OFF.as_bytes()) {
        return None;
    }
    let value = get(options::VARIABLE).unwrap_or_default();
    // SAFETY: nobody else has a reference yet.
    let copy = unsafe { &mut *COPY.0.get() };
    let room = copy.get_mut(..value.len())?;
    room.copy_from_slice(value);
    Some(options::parse(room))
}

/// The value of `name` in the environment block `envp`.
///
/// # Safety
/// `envp` must be a null-terminated array of C strings, or null.
#[must_use]
pub unsafe fn lookup<'a>(envp: *const *const c_char, name: &[u8]) -> Option<&'a [u8]> {
    // SAFETY: passed on.
    unsafe { entries(envp) }.find_map(|entry| entry.strip_prefix(name)?.strip_prefix(b"="))
}

/// The entries of an environment block.
///
/// # Safety
/// As for [`lookup`], for as long as the iterator is used.
pub unsafe fn entries<'a>(envp: *const *const c_char) -> impl Iterator<Item = &'a [u8]> {
    let mut next = envp;
    core::iter::from_fn(move || {
        // SAFETY: there is a terminator behind every non-null entry.
        unsafe {
            let text = *next.as_ref()?;
            if text.is_null() {
                return None;
            }
            next = next.add(1);
            Some(CStr::from_ptr(text).to_bytes())
        }
    })
}
