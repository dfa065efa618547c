//! The engine as it was built together with this command (see `build.rs`).

/// Its bytes.
pub const ENGINE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/librelpoline_engine.so"));
/// A hash of them, for file names.
pub const HASH: &str = env!("RELPOLINE_ENGINE_HASH");
