//! Names of keys and calls, in a layout that C writes too.

/// A static string as an address and a length.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Name {
    start: *const u8,
    length: usize,
}

// SAFETY: it is a `&'static str` in all but its layout.
unsafe impl Send for Name {}
// SAFETY: nobody writes to it: it is a `&'static str` in all but its layout.
unsafe impl Sync for Name {}

impl Name {
    pub(crate) const fn new(name: &'static str) -> Name {
        Name { start: name.as_ptr(), length: name.len() }
    }

    pub(crate) const fn text(self) -> &'static str {
        // SAFETY: made from a string by `new`, or from an identifier by the macros of relpoline.h.
        unsafe { core::str::from_utf8_unchecked(core::slice::from_raw_parts(self.start, self.length)) }
    }
}
