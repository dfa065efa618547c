// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What the engine asks of the kernel it runs in.

/// A change of one live branch of kernel text.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub struct Poke {
    /// Address of the opcode byte.
    pub at: u64,
    /// Where the instruction starts: at its opcode, or at the `cs` before it.
    pub start: u64,
    /// The five bytes that must be there now.
    pub old: [u8; 5],
    /// The five bytes that shall be there.
    pub new: [u8; 5],
    /// Set when the change was made. It is not when somebody else has the instruction at the moment: other
    /// bytes were found there, or a kprobe is registered for it, armed or not.
    pub done: bool,
    /// The site.
    pub site: u32,
}

/// What a piece of text may hold and must not touch.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Text {
    /// The first byte.
    pub start: u64,
    /// The byte after the last.
    pub end: u64,
    /// Ranges in it that are left alone: code without instrumentation, and entry code.
    pub barred: [(u64, u64); 2],
    /// Who owns it: 0 for the kernel, otherwise an address that stands for a module.
    pub owner: u64,
}

/// The kernel, as far as the engine needs it.
pub trait Machine {
    /// The clock, in cycles.
    fn now(&self) -> u64;
    /// Hands over what processors have recorded, oldest first for each: processor and record (number of the
    /// recording stub in the high half, low half of the target in the low half). Returns how many calls found
    /// the ring full.
    fn drain(&mut self, take: &mut dyn FnMut(u32, u64)) -> u32;
    /// Calls that the counting stub of a site has counted, modulo 2^32.
    fn cold_calls(&self, site: usize) -> u32;
    /// Misses of a tree over all processors, modulo 2^32.
    fn misses(&self, tree: usize) -> u32;
    /// Calls through the counting entry of a tree over all processors.
    fn calls(&self, tree: usize) -> u64;
    /// Writes module text that nobody executes.
    fn write(&mut self, at: u64, bytes: &[u8]);
    /// Makes changes to live text, as one batch.
    fn poke(&mut self, batch: &mut [Poke]);
    /// Whether `address` is the entry of a function of the kernel or of a module that stays.
    fn is_entry(&self, address: u64) -> bool;
    /// The function that holds `address`: its first byte and the byte after its last.
    fn function(&self, address: u64) -> Option<(u64, u64)>;
    /// Whether the function at `start` must be left alone, by its name: one with computed gotos, or one that
    /// runs without per-processor data.
    fn is_barred(&self, start: u64) -> bool;
    /// The bytes of text from `start` on.
    fn text(&self, start: u64, end: u64) -> &'static [u8];
}
