//! The library that is unloaded.
mod uses;

/// Uses everything.
#[unsafe(no_mangle)]
pub extern "C" fn library_begin() {
    uses::begin();
}
